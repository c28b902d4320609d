"""Task vectors thinned at random and rescaled: DARE and DELLA. Masks come from one generator per tensor and expert."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, PerExpert, Range, Weights, method
from .primitives import elect, per_expert
from .sparse import MergeKind

Density = Annotated[PerExpert, Range(0, 1, "fraction of entries kept on average", open_low=True)]
Window = Annotated[float, Range(0, 0.5, "half width of the range of keep probabilities around the density")]
Rescale = Annotated[
    str, Choice(("inverse", "l1"), "divide by the keep probability, or restore the tensor's sum of magnitudes")
]
_MERGEKIT = {"mergekit": {"rescale": "l1"}}
_BIAS = (
    "The mean over surviving entries undoes the rescaling: agreeing experts come out (1-(1-d)^T)/d times too large. "
    "merge='experts' divides by T instead. "
)


def draw(deltas: Tensor, keep: Tensor, generators: Sequence[torch.Generator], rescale: str) -> Tensor:
    """Keep each entry with its own probability and rescale what is kept.

    Args:
        deltas: shape ``[T, ...]``.
        keep: probability for each entry, shape ``[T, ...]``.
        generators: one for each expert, on the CPU, so that a GPU draws the same masks.
        rescale: ``"inverse"``: x / p, unbiased; ``"l1"``: the expert's Σ|x| over the tensor is restored.

    Returns:
        Masked and rescaled deltas, shape ``[T, ...]``.
    """
    draws = torch.stack([torch.rand(deltas.shape[1:], generator=g, dtype=torch.float32) for g in generators])
    kept = torch.where(draws.to(deltas.device) < keep, deltas, 0)
    if rescale == "inverse":
        return kept / keep
    dims = tuple(range(1, deltas.dim()))
    before, after = (x.abs().sum(dims, keepdim=True) if dims else x.abs() for x in (deltas, kept))
    return kept * torch.where(after > 0, before / after.clamp(min=1e-30), 0)


def _even(deltas: Tensor, density: float | Sequence[float]) -> Tensor:
    values = torch.tensor(per_expert(density, len(deltas)), dtype=deltas.dtype, device=deltas.device)
    return values.view(-1, *[1] * (deltas.dim() - 1)).expand_as(deltas)


_DARE = {"family": "sparse", "paper": "arXiv 2311.03099", "stochastic": True}


@method(
    "dare",
    title="DARE (with task arithmetic)",
    equation=r"\theta=\theta_0+\lambda\sum_t\frac{m_t\odot\tau_t}{1-p},\ m_t\sim\mathrm{Bernoulli}(1-p)",
    flavours=_MERGEKIT,
    deviations="Density is 1 - p. mergekit restores each tensor's sum of magnitudes instead of dividing by 1 - p.",
    **_DARE,
)
def dare(deltas: Tensor, *, density: Density = 0.5, rescale: Rescale = "inverse", generators=()) -> Tensor:
    """Drop entries of each task vector at random and enlarge the rest so that nothing changes on average.

    Updates are held to be so redundant that a sample of their entries does the work of all, and sparse vectors collide
    less.

    Args:
        deltas: task vectors of a tensor, shape ``[T, ...]``.
        density: fraction kept, 1 - p of the paper.
        rescale: see :func:`draw`.
        generators: one for each expert.

    Returns:
        Masked deltas, shape ``[T, ...]``; their expectation is ``deltas`` where ``rescale`` is ``"inverse"``.
    """
    return draw(deltas, _even(deltas, density), generators, rescale)


@method(
    "dare_ties",
    title="DARE with sign election",
    equation=r"\tau=\mathrm{TIES}_{K=1}\Big(\frac{m_t\odot\tau_t}{1-p}\Big)",
    variant_of="dare",
    gives="merged",
    scale="mean",
    flavours={"mergekit": {"rescale": "l1", "merge": "sum"}},
    deviations=_BIAS + "mergekit sums the agreeing entries.",
    **_DARE,
)
def dare_ties(
    deltas: Tensor,
    *,
    density: Density = 0.5,
    rescale: Rescale = "inverse",
    merge: MergeKind = "mean",
    weights: Weights = None,
    generators=(),
) -> Tensor:
    """Drop and rescale entries as DARE does, then elect signs and average the experts that agree.

    Sparse vectors meet in few entries, and the election settles the conflicts that are left.

    Args and shapes as :func:`dare` and :func:`.sparse.ties`; returns the merged vector, ``[...]``.
    """
    return elect(draw(deltas, _even(deltas, density), generators, rescale), merge=merge, weights=weights)


def _ranked(deltas: Tensor, density: float | Sequence[float], window: float) -> Tensor:
    """Return keep probabilities that rise with the magnitude's rank in each row, from d - ε to d + ε."""
    flat = deltas.view(len(deltas), 1) if deltas.dim() == 1 else deltas
    size = flat.shape[-1]
    ranks = flat.abs().argsort(dim=-1, stable=True).argsort(dim=-1).to(deltas.dtype)
    share = ranks / (size - 1) if size > 1 else torch.full_like(ranks, 0.5)
    values = _even(flat, density)
    spread = torch.minimum(torch.tensor(window, dtype=deltas.dtype, device=deltas.device), 1 - values)
    return (values + spread * (2 * share - 1)).clamp(min=1e-3).view(deltas.shape)


_DELLA = {"family": "sparse", "paper": "arXiv 2406.11617", "stochastic": True}
_WINDOW = "Where density + window exceeds 1 the window is narrowed to fit, and no probability falls below 0.001."


@method(
    "della",
    title="DELLA-Merging",
    equation=r"\tau=\mathrm{TIES}_{K=1}\Big(\frac{m_t\odot\tau_t}{p_t}\Big),\ "
    r"p_t=d-\epsilon+2\epsilon\,\frac{\operatorname{rank}|\tau_t|-1}{n-1}",
    gives="merged",
    scale="mean",
    flavours=_MERGEKIT,
    deviations=_BIAS + "mergekit restores each tensor's sum of magnitudes instead of dividing by p. " + _WINDOW,
    **_DELLA,
)
def della(
    deltas: Tensor,
    *,
    density: Density = 0.7,
    window: Window = 0.07,
    rescale: Rescale = "inverse",
    merge: MergeKind = "mean",
    weights: Weights = None,
    generators=(),
) -> Tensor:
    """Drop entries at random, small ones more often than large ones, then elect signs and average.

    Magnitude is taken for importance, so the entries that matter are the likeliest to survive.

    Args:
        deltas: task vectors of a tensor, shape ``[T, ...]``; magnitudes are ranked in each row of the last dimension.
        density: mean keep probability d (the paper drops 0.3).
        window: ε, half the paper's window of 0.14.
        rescale: see :func:`draw`.
        merge: see :func:`.sparse.ties`.
        weights: of the experts.
        generators: one for each expert.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    return elect(draw(deltas, _ranked(deltas, density, window), generators, rescale), merge=merge, weights=weights)


@method(
    "della_linear",
    title="DELLA without sign election",
    equation=r"\theta=\theta_0+\lambda\sum_t\frac{m_t\odot\tau_t}{p_t}",
    variant_of="della",
    flavours=_MERGEKIT,
    deviations=_WINDOW,
    **_DELLA,
)
def della_linear(
    deltas: Tensor, *, density: Density = 0.7, window: Window = 0.07, rescale: Rescale = "inverse", generators=()
) -> Tensor:
    """Drop entries at random by magnitude as DELLA does, then add the experts.

    It is DARE with a probability that follows the magnitude instead of one for all entries.

    Args and shapes as :func:`della`; returns masked deltas, shape ``[T, ...]``.
    """
    return draw(deltas, _ranked(deltas, density, window), generators, rescale)
