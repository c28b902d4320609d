"""Task vectors thinned at random and rescaled: DARE and DELLA. Masks come from one generator per tensor and expert."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, PerExpert, Range, Weights, method
from .primitives import CHUNK, elect, flags, per_expert
from .ranking import ranks
from .sparse import MergeKind

Density = Annotated[PerExpert, Range(0, 1, "fraction of entries kept on average", open_low=True)]
Window = Annotated[PerExpert, Range(0, 0.5, "half width of the range of keep probabilities around the density")]
Rescale = Annotated[
    str,
    Choice(("inverse", "l1", "none"), "divide by the keep probability, restore the tensor's sum of magnitudes, or not"),
]
Along = Annotated[
    str, Choice(("last", "second"), "the dimension along which magnitudes are ranked; of a filter: taps, or inputs")
]
_MERGEKIT = {"mergekit": {"rescale": "l1"}}
_FAINT = 1e-7  # sum of magnitudes under which mergekit does not restore it
_BIAS = (
    "The mean over surviving entries undoes the rescaling: agreeing experts come out `(1-(1-d)^T)/d` times too large. "
    '`merge="experts"` divides by T instead. '
)


def draw(deltas: Tensor, chance: Callable, generators: Sequence[torch.Generator], rescale: str) -> Tensor:
    """Keep each entry with its own probability and rescale what is kept.

    Args:
        deltas: shape ``[T, ...]``.
        chance: from an expert's number and some rows ``[r, n]`` of its tensor, the probability of each entry.
        generators: one for each expert, on the CPU, so that a GPU draws the same masks.
        rescale: ``"inverse"``: x / p, unbiased; ``"l1"``: the expert's Σ|x| over the tensor is restored; ``"none"``.

    Returns:
        Masked and rescaled deltas, shape ``[T, ...]``.
    """
    kept = deltas.clone(memory_format=torch.contiguous_format)
    for t, (found, generator) in enumerate(zip(kept, generators, strict=True)):
        rows = found.view(-1, found.shape[-1] if found.dim() else 1)
        step = max(1, CHUNK // rows.shape[-1]) if rows.device.type == "cpu" else len(rows)
        summed, before, after = rescale == "l1", 0.0, 0.0
        for part in rows.split(step):
            before += part.abs().sum().item() if summed else 0.0
            keep, draws = chance(t, part), torch.rand(part.shape, generator=generator, dtype=torch.float32)
            part.mul_(flags(torch.lt, draws.to(part.device), keep))
            if rescale == "inverse":
                part /= keep
            after += part.abs().sum().item() if summed else 0.0
        if summed and min(before, after) >= _FAINT:
            found *= before / after
    return kept


def _even(density: float | Sequence[float], experts: int) -> Callable[[int, Tensor], float]:
    """Return :func:`draw`'s ``chance``: the expert's density for all entries."""
    values = per_expert(density, experts)
    return lambda t, rows: values[t]


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
    return draw(deltas, _even(density, len(deltas)), generators, rescale)


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
    return elect(draw(deltas, _even(density, len(deltas)), generators, rescale), merge=merge, weights=weights)


def _ranked(density: object, window: object, experts: int) -> Callable[[int, Tensor], Tensor]:
    """Return :func:`draw`'s ``chance``: it rises with the magnitude's rank in each row, from d - ε to d + ε."""
    values, widths = per_expert(density, experts), per_expert(window, experts)

    def chance(t: int, rows: Tensor) -> Tensor:
        size, spread = rows.shape[-1], min(widths[t], 1 - values[t])
        share = ranks(rows).to(rows.dtype) / (size - 1) if size > 1 else torch.full_like(rows, 0.5)
        return (values[t] + spread * (2 * share - 1)).clamp_(min=1e-3)

    return chance


def _magprune(deltas: Tensor, density: object, window: object, rescale: str, along: str, generators) -> Tensor:
    """Mask and rescale as :func:`draw` does, by the rank of magnitudes along one dimension of each expert's tensor."""
    chance = _ranked(density, window, len(deltas))
    if along == "last" or deltas.dim() < 4:
        return draw(deltas, chance, generators, rescale)
    return draw(deltas.transpose(2, -1).contiguous(), chance, generators, rescale).transpose(2, -1)


_DELLA = {
    "family": "sparse",
    "paper": "arXiv 2406.11617",
    "stochastic": True,
    "flavours": {"mergekit": {"rescale": "l1", "along": "second"}},
}
_WINDOW = (
    "mergekit restores each tensor's sum of magnitudes instead of dividing by p, and ranks filters of convolutions "
    "along their inputs, not their taps. Where density + window exceeds 1 the window is narrowed to fit, and no "
    "probability falls below 0.001; mergekit refuses both."
)


@method(
    "della",
    title="DELLA-Merging",
    equation=r"\tau=\mathrm{TIES}_{K=1}\Big(\frac{m_t\odot\tau_t}{p_t}\Big),\ "
    r"p_t=d-\epsilon+2\epsilon\,\frac{\operatorname{rank}|\tau_t|-1}{n-1}",
    gives="merged",
    scale="mean",
    deviations=_BIAS + _WINDOW,
    **_DELLA,
)
def della(
    deltas: Tensor,
    *,
    density: Density = 0.7,
    window: Window = 0.07,
    rescale: Rescale = "inverse",
    along: Along = "last",
    merge: MergeKind = "mean",
    weights: Weights = None,
    generators=(),
) -> Tensor:
    """Drop entries at random, small ones more often than large ones, then elect signs and average.

    Magnitude is taken for importance, so the entries that matter are the likeliest to survive.

    Args:
        deltas: task vectors of a tensor, shape ``[T, ...]``; magnitudes are ranked in each row.
        density: mean keep probability d (the paper drops 0.3).
        window: ε, half the paper's window of 0.14.
        rescale: see :func:`draw`.
        along: what a row is; only a convolution, ``[out, in, taps]``, has more than one reading.
        merge: see :func:`.sparse.ties`.
        weights: of the experts.
        generators: one for each expert.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    return elect(_magprune(deltas, density, window, rescale, along, generators), merge=merge, weights=weights)


@method(
    "della_linear",
    title="DELLA without sign election",
    equation=r"\theta=\theta_0+\lambda\sum_t\frac{m_t\odot\tau_t}{p_t}",
    variant_of="della",
    deviations=_WINDOW,
    **_DELLA,
)
def della_linear(
    deltas: Tensor,
    *,
    density: Density = 0.7,
    window: Window = 0.07,
    rescale: Rescale = "inverse",
    along: Along = "last",
    generators=(),
) -> Tensor:
    """Drop entries at random by magnitude as DELLA does, then add the experts.

    It is DARE with a probability that follows the magnitude instead of one for all entries.

    Args and shapes as :func:`della`; returns masked deltas, shape ``[T, ...]``.
    """
    return _magprune(deltas, density, window, rescale, along, generators)
