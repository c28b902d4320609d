"""One model drawn into the base: only a little of each entry (NearSwap), or only the entries that stand out."""

from typing import Annotated

import torch
from torch import Tensor

from ..methods import Range, method
from .primitives import CHUNK
from .ranking import ranked

SMOOTHING = 1e-8  # added to every probability, as in mergekit


@method(
    "nearswap",
    title="NearSwap",
    family="sparse",
    paper="alchemonaut 2024",
    equation=r"\theta=\theta_0+\operatorname{sgn}(\tau)\min(|\tau|,t)",
    acts_on="entries",
    gives="merged",
    scale="mean",
    experts=1,
    flavours={"mergekit": {"floor": 1e-6}},
    deviations="The author writes it as a share t / |τ| of the way, at most 1, which is the same. mergekit divides by "
    "no less than 1e-6, which shortens updates only where t is smaller still. The author merges several models one "
    "after another; so can you, with each result as the next base.",
)
def nearswap(
    deltas: Tensor,
    *,
    t: Annotated[float, Range(0, 100, "how far an entry may go; nearer ones are swapped whole")] = 1e-4,
    floor: Annotated[float, Range(0, 1, "least distance that t is divided by; 0 for none")] = 0.0,
) -> Tensor:
    """Swap the entries in which two models nearly agree, and move the others by the same small distance.

    The base keeps its large weights, and takes over from the other model what it can without going far.

    Args:
        deltas: the task vector, shape ``[1, ...]``.
        t: 0 gives the base, the largest |τ| or more the expert.
        floor: guard of public code.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    return deltas[0].clamp(-t, t) if t >= floor else deltas[0] * (t / deltas[0].abs().clamp(min=floor)).clamp(max=1)


def divergence(delta: Tensor, base: Tensor) -> Tensor:
    """Return each row's KL(softmax(θ0 + τ) ‖ softmax(θ0)), both smoothed; fp64, ``[n, d]`` to ``[n, 1]``.

    Written with differences of probabilities: of fine-tunes the two are so close that the plain sum over p log(p / q)
    is rounding in fp32 and loses most digits in fp64.
    """
    tau, q = delta.double(), base.double().softmax(-1)
    change = tau - torch.log1p((q * torch.expm1(tau)).sum(-1, keepdim=True))  # log p - log q
    gap, q = q * torch.expm1(change), q + SMOOTHING
    return ((q + gap) * torch.log1p(gap / q) - gap).sum(-1, keepdim=True).clamp(min=0)


def importance(delta: Tensor, base: Tensor) -> Tensor:
    """Return |τ| times the divergence of its row, up to a factor for the whole tensor; shape ``[..., d]``."""
    rows, start = (x.reshape(-1, x.shape[-1]) if x.dim() else x.reshape(1, 1) for x in (delta, base))
    step = max(1, CHUNK // rows.shape[-1])
    parts = [divergence(*pair) for pair in zip(rows.split(step), start.split(step), strict=True)]
    weight = torch.cat(parts)
    weight = weight / weight.max().clamp(min=1e-300)  # only the order matters, and fp32 holds it so
    return (rows.abs() * weight.to(rows.dtype)).view(delta.shape)


@method(
    "arcee_fusion",
    title="Arcee Fusion",
    family="sparse",
    paper="Goddard 2024 (mergekit)",
    equation=r"\tau=[s\ge q_2+f(q_3-q_1)]\odot\tau_1,\ "
    r"s=|\tau_1|\operatorname{KL}\big(\sigma(\theta_1)\,\|\,\sigma(\theta_0)\big)",
    gives="merged",
    scale="mean",
    experts=1,
    deviations="There is no paper; mergekit's code is the definition. It estimates the quartiles of tensors of over a "
    "million entries from a million drawn at random, here they are exact; its divergences of nearby models are "
    "rounding in fp32, here they are exact too. A row is the last dimension, a vector one row; where no row of a "
    "tensor has a divergence, as in a column, all of it is taken.",
)
def arcee_fusion(
    deltas: Tensor,
    *,
    fence: Annotated[float, Range(0, 100, "f: interquartile ranges above the median from which an entry counts")] = 1.5,
    base: Tensor | None = None,
) -> Tensor:
    """Take only those entries of one model whose importance stands out in their tensor.

    Importance is the size of the change times how much it turned its row, read as a distribution; the rest stays the
    base's, so that it loses little of what it knew.

    Args:
        deltas: the task vector of a tensor, shape ``[1, ...]``.
        fence: f; 1.5 is the usual mark of an outlier, 0 takes half of all entries.
        base: the base's tensor, shape ``[...]``.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    delta = deltas[0]
    scores = importance(delta, base)
    flat = scores.reshape(-1)
    low, middle, high = (ranked(flat, int(share * (len(flat) - 1))) for share in (0.25, 0.5, 0.75))
    return delta * (scores >= middle + fence * (high - low))
