"""Models for one task each, made from a shared vector and a mask: they need the task at inference."""

from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, Index, method
from .consensus import Strictness, own_entries
from .primitives import flags
from .streams import Piece, Stream


def _unified(deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Return EMR's unified vector ``[...]`` and each expert's mask ``[T, ...]``; a zero sum counts as negative."""
    sign = flags(torch.gt, deltas.sum(0), 0).mul_(2).sub_(1)
    agree = flags(torch.gt, deltas * sign, 0)
    return sign * (deltas.abs() * agree).amax(0), agree


def _emr_prepass(stream: Stream, *, task, rescale) -> float:
    """Return the factor that restores the expert's sum of magnitudes, over the whole model."""

    def sums(piece: Piece) -> tuple[float, float]:
        unified, agree = _unified(piece.deltas)
        share = 1 / piece.size if rescale == "means" else 1.0
        before = share * piece.deltas[task].abs().sum(dtype=torch.float64).item()
        return before, share * (unified * agree[task]).abs().sum(dtype=torch.float64).item()

    before, after = map(sum, zip(*stream.each(sums), strict=True))
    return before / after if after else 0.0


@method(
    "emr",
    title="EMR-Merging (elect, mask, rescale)",
    family="per_task",
    paper="arXiv 2405.17461",
    equation=r"\theta_t=\theta_0+\lambda_tM_t\odot\tau_{uni},\ \lambda_t=\frac{\sum|\tau_t|}{\sum|M_t\odot\tau_{uni}|}",
    acts_on="entries",
    gives="merged",
    scale="mean",
    prepass=_emr_prepass,
    passes=2,
    flavours={"official": {"rescale": "means"}},
    deviations="A model for one task, not one merged model. The official code rescales by sums of per-tensor means.",
)
def emr(
    deltas: Tensor,
    *,
    task: Index = 0,
    rescale: Annotated[
        str, Choice(("sums", "means"), "what is restored: the sum over all entries, or over tensors' means")
    ] = "sums",
    prepass: float = 1.0,
) -> Tensor:
    """Share one vector of the largest agreeing entries; a task switches off what disagrees with it.

    All tasks share one vector and differ in a mask of one bit for each entry, and in one number.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        task: whose model it is.
        rescale: how λ_t is found.
        prepass: λ_t.

    Returns:
        The task's vector, shape ``[...]``.
    """
    unified, agree = _unified(deltas)
    return prepass * unified * agree[task]


@method(
    "tall_mask",
    title="TALL-mask",
    family="per_task",
    paper="arXiv 2405.07813",
    equation=r"\theta_t=\theta_0+\lambda\,m_t\odot\sum_s\tau_s,\ m_t=[|\tau_t|>\lambda_t|\sum_s\tau_s-\tau_t|]",
    acts_on="entries",
    gives="merged",
    deviations="A model for one task, not one merged model.",
)
def tall_mask(deltas: Tensor, *, task: Index = 0, strictness: Strictness = 0.4) -> Tensor:
    """Switch on, for one task, those entries of the summed vector that matter to it.

    The sum still holds what each task needs; the mask finds it again.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        task: whose model it is.
        strictness: see :func:`speechmerge.merging.rules.consensus.own_entries`.

    Returns:
        The task's vector, shape ``[...]``.
    """
    return deltas.sum(0) * own_entries(deltas, strictness)[task]
