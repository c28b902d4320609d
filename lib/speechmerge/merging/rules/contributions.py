"""Entries told apart by which experts changed them, and how far: RAM, RAM+ and MagMax."""

from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, Range, method
from .primitives import CHUNK, along, flags
from .streams import Stream

Epsilon = Annotated[float, Range(0, 1, "how far an entry must have moved to count as changed by an expert")]


def changed(deltas: Tensor, epsilon: float) -> Tensor:
    """Mark with 1 the entries that each expert changed, |τ_t| > ε, others with 0; the shape of ``deltas``."""
    return flags(torch.gt, deltas.abs(), epsilon)


@method(
    "magmax",
    title="MagMax",
    family="sparse",
    paper="arXiv 2407.06322",
    equation=r"\tau=\tau_k,\ k=\arg\max_t|\tau_t|",
    acts_on="entries",
    gives="merged",
    scale="mean",
    deviations="The paper fine-tunes on one task after the other and merges the checkpoints on the way; here the "
    "experts are whatever is given. It leaves open who wins among equal magnitudes: the last expert does, as in the "
    "authors' code, whose script for experts tuned apart scales by 0.5 (scaling), as FusionBench does.",
)
def magmax(deltas: Tensor) -> Tensor:
    """Take each entry from the expert that moved it farthest.

    A large change is taken for one that matters to its task, so nothing is averaged away and nothing is added up.

    Args:
        deltas: task vectors, shape ``[T, ...]``.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    found = deltas[0].clone()
    for delta in deltas[1:]:
        farther = flags(torch.ge, delta.abs(), found.abs())
        found = found * (1 - farther) + delta * farther
    return found


@method(
    "ram",
    title="RAM (reinforced agent merging)",
    family="sparse",
    paper="arXiv 2601.13572",
    equation=r"\tau=\frac{\sum_tm_t\odot\tau_t}{\max(1,\sum_tm_t)},\ m_t=[|\tau_t|>\epsilon]",
    acts_on="entries",
    gives="merged",
    scale="mean",
    deviations="ε is a distance between weights, 1e-5 in the authors' code and in mergekit. Full fine-tunes with Adam "
    "move nearly every entry farther, and RAM is close to their mean then; raise ε to tell experts apart. Not "
    "equivariant to the scale of task vectors.",
)
def ram(deltas: Tensor, *, epsilon: Epsilon = 1e-5) -> Tensor:
    """Keep whole what one expert alone changed, and average what several did over those that did.

    Updates of reinforcement learning are sparse and lie apart; a plain mean would divide by experts that had no part in
    an entry.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        epsilon: see :func:`changed`.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    kept = changed(deltas, epsilon)
    return (deltas * kept).sum(0).div_(kept.sum(0).clamp_(min=1))


def _counts(deltas: Tensor, epsilon: float) -> Tensor:
    """Return how many entries each expert changed together with others, and alone; ``[2, T]``, fp64."""
    counts = torch.zeros(2, len(deltas), dtype=torch.float64)
    for piece in deltas.reshape(len(deltas), -1).split(CHUNK, 1):
        kept = changed(piece, epsilon)
        shared = (kept * flags(torch.gt, kept.sum(0), 1)).sum(1)
        counts += torch.stack([shared, kept.sum(1) - shared]).cpu()
    return counts


def _counts_prepass(stream: Stream, *, scope: str, epsilon: float, **_) -> Tensor | None:
    """Count over the whole model, where the method asks for it."""
    return sum(stream.each(lambda piece: _counts(piece.deltas, epsilon))) if scope == "model" else None


@method(
    "ramplus_tl",
    title="RAM+ (RAM with unique updates enlarged)",
    family="sparse",
    paper="arXiv 2601.13572",
    equation=r"\tau=\frac{\sum_t\lambda_tm_t\odot\tau_t}{\max(1,\sum_tm_t)},\ "
    r"\lambda_t=1+r\min(\rho_t,\alpha)\text{ where }\sum_sm_s=1",
    variant_of="ram",
    gives="merged",
    scale="mean",
    prepass=_counts_prepass,
    passes=1,
    flavours={"official": {"scope": "model", "r": 0.2, "alpha": 1.0}},
    deviations="The name is mergekit's, for a ratio `ρ_t` of shared to unique entries counted in each tensor by itself "
    "(scope), with its r and α. The authors' code counts over the whole model, for which the models are read once "
    "more, and reaches 1.2 (r 0.2) at `ρ_t` = 1 (α). Not equivariant to the scale of task vectors, as RAM.",
)
def ramplus_tl(
    deltas: Tensor,
    *,
    r: Annotated[float, Range(0, 100, "how much an expert's unique entries grow per unit of its ratio")] = 0.1,
    alpha: Annotated[float, Range(0, 1e6, "the largest ratio of shared to unique entries that counts")] = 0.2,
    epsilon: Epsilon = 1e-5,
    scope: Annotated[str, Choice(("tensor", "model"), "where shared and unique entries are counted")] = "tensor",
    prepass: Tensor | None = None,
) -> Tensor:
    """Do as RAM, and enlarge what an expert alone changed, the more the more of its updates are shared.

    What it loses where its entries are averaged is given back where it is alone.

    Args:
        deltas: task vectors, shape ``[T, ...]``: one tensor, or a block of the model where ``scope`` is ``"model"``.
        r: of λ_t = 1 + r·min(ρ_t, α); 0 gives RAM.
        alpha: bound on ρ_t.
        epsilon: see :func:`changed`.
        scope: ``"model"`` needs ``prepass``.
        prepass: entries changed together and alone over the whole model, ``[2, T]``.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    shared, unique = _counts(deltas, epsilon) if prepass is None else prepass
    growth = (1 + r * (shared / unique.clamp(min=1)).clamp(max=alpha)).tolist()
    merged = [_enlarged(piece, growth, epsilon) for piece in deltas.reshape(len(deltas), -1).split(CHUNK, 1)]
    return torch.cat(merged).view(deltas.shape[1:])


def _enlarged(deltas: Tensor, growth: list[float], epsilon: float) -> Tensor:
    """Average each entry over the experts that changed it, and enlarge it where there is one; ``[T, n]`` to ``[n]``."""
    kept = changed(deltas, epsilon)
    count = kept.sum(0)
    alone = flags(torch.eq, count, 1)
    return (deltas * kept * (alone * along(growth, deltas)).add_(1 - alone)).sum(0).div_(count.clamp_(min=1))
