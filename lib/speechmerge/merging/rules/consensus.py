"""Masks and weights from how far experts agree: Consensus, Localize-and-Stitch, PCB, SCE."""

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ..methods import Choice, PerExpert, Range, method
from .primitives import CHUNK, along, flags
from .ranking import largest, marked, quick
from .sparse import Count, Density, above, whole_model_thresholds
from .streams import Stream, order_statistics

Strictness = Annotated[PerExpert, Range(0, 10, "how much larger than the others' sum an entry must be to count as own")]


def own_entries(deltas: Tensor, strictness: object) -> Tensor:
    """Mark with 1 what matters to an expert: |τ_t| > λ_t |Σ_s τ_s - τ_t| (arXiv 2405.07813, equation 4); else 0.

    Args:
        deltas: shape ``[T, ...]``.
        strictness: λ, one or one for each expert.

    Returns:
        Ones and zeros, shape ``[T, ...]``.
    """
    return flags(torch.gt, deltas.abs(), along(strictness, deltas) * (deltas.sum(0) - deltas).abs_())


@method(
    "consensus",
    title="Consensus task arithmetic",
    family="sparse",
    paper="arXiv 2405.07813",
    equation=r"\tau=\Big[\sum_tm_t\ge k\Big]\odot\sum_t\tau_t,\ m_t=[|\tau_t|>\lambda_t|\sum_s\tau_s-\tau_t|]",
    acts_on="entries",
    gives="merged",
    deviations="FusionBench's masks compare `|θ0 - τ_t|`, a slip; here as the paper and the official code have it.",
)
def consensus(
    deltas: Tensor,
    *,
    strictness: Strictness = 0.4,
    votes: Annotated[int, Range(0, 10_000, "experts that must find an entry their own for it to stay")] = 2,
) -> Tensor:
    """Add the experts, but only where enough of them find the entry important.

    An entry that matters to one expert alone is taken for a private matter, one that matters to none for noise.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        strictness: see :func:`own_entries`.
        votes: k; 0 is task arithmetic, more than T the base.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    return deltas.sum(0) * flags(torch.ge, own_entries(deltas, strictness).sum(0), votes)


@method(
    "localize_and_stitch",
    title="Localize-and-Stitch, dataless",
    family="sparse",
    paper="arXiv 2408.13656",
    equation=r"\tau=\sum_t\frac{m_t}{\sum_sm_s}\odot\tau_t,\ m_t=[|\tau_t|\in\operatorname{top}_K]",
    acts_on="entries",
    gives="merged",
    scale="mean",
    prepass=whole_model_thresholds,
    flavours={"official": {"count": "minus_one"}},
    deviations="The official code keeps one entry fewer than K says. Equal magnitudes at the threshold are all kept.",
)
def localize_and_stitch(
    deltas: Tensor, *, density: Density = 0.05, count: Count = "ceil", prepass: Tensor | None = None
) -> Tensor:
    """Keep each expert's few largest entries of the whole model and average where they overlap.

    What a task learnt is assumed to sit in few entries, so few that the regions of different experts hardly meet.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        density: fraction of the whole task vector kept.
        count: see :func:`speechmerge.merging.rules.sparse.counted`.
        prepass: each expert's threshold, ``[T]``.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    kept = above(deltas, prepass)
    return kept.sum(0) / flags(torch.ne, kept, 0).sum(0).clamp_(min=1)


class Balance(NamedTuple):
    """What PCB must know of the whole model, one value for each expert."""

    low: Tensor  # magnitudes are limited to [low, high]
    high: Tensor
    cut: Tensor  # scores below count nothing
    top: Tensor  # the largest score


def _scores(deltas: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return the limited deltas and their scores, both ``[T, ...]``."""
    low, high = along(low.tolist(), deltas), along(high.tolist(), deltas)
    magnitude = deltas.abs().clamp(low, high)
    share = (magnitude - low) / (high - low).clamp(min=1e-30)
    within = torch.exp(len(deltas) * share.square())
    between = torch.tanh(deltas * deltas.sum(0))
    return magnitude * deltas.sign(), within * between


def _pcb_prepass(stream: Stream, *, density, limit) -> Balance:
    """Find the limits of magnitudes, then those of scores, over the whole model."""
    size, experts = stream.size, stream.experts
    ends, top = [int(size * limit), int(size * (1 - limit) - 1)], [int(size * (1 - density)), size - 1]
    low, high = order_statistics(stream, torch.abs, [ends] * experts).unbind(1)
    cuts = order_statistics(stream, lambda deltas: _scores(deltas, low, high)[1], [top] * experts)
    return Balance(low, high, cuts[:, 0], cuts[:, 1])


@method(
    "pcb",
    title="PCB-Merging (parameter competition balancing)",
    family="sparse",
    paper="arXiv 2410.02396",
    equation=r"\tau=\frac{\sum_t\hat s_t\odot\bar\tau_t}{\sum_t\hat s_t},\ "
    r"s_t=e^{T\operatorname{mm}(|\bar\tau_t|)^2}\tanh\Big(\tau_t\odot\sum_s\tau_s\Big)",
    acts_on="entries",
    gives="merged",
    scale="mean",
    prepass=_pcb_prepass,
    passes=5,
    deviations="Magnitudes are limited in τ̄, mm maps to [0, 1], and ŝ is mm of the scores after all but the "
    "highest were cut. The paper's form, `Softmax(T Norm(τ⊙τ))` times `Σ_s Softmax(Norm(τ_t⊙τ_s))`, leaves open what "
    "Norm is and what the softmax runs over; the authors' repository has three others, all with tanh. This is the main "
    "one, where the tanh sees the task vectors unlimited. Not equivariant to their scale.",
)
def pcb(
    deltas: Tensor,
    *,
    density: Annotated[float, Range(0, 1, "fraction of highest scores that count", open_low=True)] = 0.1,
    limit: Annotated[float, Range(0, 0.5, "fraction of magnitudes limited at each end", open_high=True)] = 1e-4,
    prepass: Balance | None = None,
) -> Tensor:
    """Weigh each entry by its size within its expert and its agreement with the others; weak ones drop out.

    The experts compete for every entry, and the weights say who wins it.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        density: the paper's ratio.
        limit: magnitudes are limited to these order statistics of the expert's whole task vector.
        prepass: limits over the whole model.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    limited, scores = _scores(deltas, prepass.low, prepass.high)
    cut, top = along(prepass.cut.tolist(), deltas), along(prepass.top.tolist(), deltas)
    weight = (scores.clamp(min=cut) - cut) / (top - cut).clamp(min=1e-30)
    return (weight * limited).sum(0) / weight.sum(0).clamp(min=1e-12)


@method(
    "sce",
    title="SCE (select, calculate, erase)",
    family="sparse",
    paper="arXiv 2408.07990",
    equation=r"\tau=\frac{\sum_tw_te_t\tau_t}{\sum_tw_te_t},\ w_t\propto\overline{(m\tau_t)^2},\ "
    r"e_t=[\operatorname{sgn}\tau_t="
    r"\operatorname{sgn}\sum_s\tau_s]",
    gives="merged",
    scale="mean",
    flavours={"mergekit": {"density": 1.0, "masked": "deltas", "floor": 1e-6}},
    deviations="The authors' code masks for the weights only, mergekit masks the deltas too and takes equal weights "
    "where their sum is under 1e-6, which it mostly is for fine-tunes of a speech model.",
)
def sce(
    deltas: Tensor,
    *,
    density: Annotated[float, Range(0, 1, "fraction of entries selected, those that vary most between experts")] = 0.1,
    masked: Annotated[str, Choice(("weights", "deltas"), "what the selection applies to")] = "weights",
    floor: Annotated[float, Range(0, 1, "sum over experts of mean squares under which they weigh equally")] = 0.0,
) -> Tensor:
    """Weigh the experts of each tensor by their energy where they differ most, and erase minority signs.

    The expert that moved most where the experts disagree is taken to have learnt most in that tensor.

    Args:
        deltas: task vectors of a tensor, shape ``[T, ...]``.
        density: fraction of the entries with any variance that is selected.
        masked: ``"deltas"``: entries not selected stay the base's.
        floor: guard of public code; 0 has none, so that the rule is equivariant to scale.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    flat = deltas.reshape(len(deltas), -1)
    pieces = flat.split(CHUNK, 1)
    mask = torch.ones_like(flat[0])
    if density < 1:
        variance = torch.cat([_variance(piece) for piece in pieces])
        mask = largest(variance, int(marked(quick(variance) != 0) * density)).to(mask)
    masks = mask.split(CHUNK)
    energy = sum((piece * keep).square().sum(1, dtype=torch.float64) for piece, keep in zip(pieces, masks, strict=True))
    energy = energy / flat.shape[1]
    share = energy / energy.sum() if energy.sum() > floor else torch.full_like(energy, 1 / len(deltas))
    merged = torch.empty_like(flat[0])
    for piece, keep, out in zip(pieces, masks, merged.split(CHUNK), strict=True):
        out.copy_(_agreeing(piece * keep if masked == "deltas" else piece, share, floor))
    return merged.view(deltas.shape[1:])


def _variance(deltas: Tensor) -> Tensor:
    """Return the population variance over experts, ``[T, n]`` to ``[n]``; exactly zero where all are equal."""
    gaps = deltas - deltas[0]
    return gaps.sub_(gaps.mean(0)).square_().mean(0)


def _agreeing(deltas: Tensor, share: Tensor, floor: float) -> Tensor:
    """Return the mean, weighted by ``share``, of the entries whose sign is that of their sum; ``[T, n]`` to ``[n]``."""
    sign = flags(torch.ge, deltas.sum(0), 0).mul_(2).sub_(1)
    weight = flags(torch.gt, deltas * sign, 0).mul_(along(share.tolist(), deltas))
    bottom = weight.sum(0)
    guarded = bottom.clamp(min=floor).add_(flags(torch.eq, bottom, 0))  # where none agrees, the sum above is zero
    return (weight * deltas).sum(0).div_(guarded)
