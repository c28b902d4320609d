"""Task vectors thinned by magnitude, merged with or without an election of signs."""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ..methods import Choice, PerExpert, Range, Weights, method
from .primitives import along, elect, per_expert
from .ranking import keep_count, keep_largest
from .streams import Piece, Stream, thresholds

Density = Annotated[PerExpert, Range(0, 1, "fraction of entries kept, the largest in magnitude")]
Scope = Annotated[str, Choice(("model", "tensor"), "among which entries the largest are chosen")]
Count = Annotated[
    str,
    Choice(
        ("ceil", "floor", "plus_one", "minus_one"), "how a density becomes a number of entries (⌈Kd⌉, ⌊Kd⌋, ⌊Kd⌋ ± 1)"
    ),
]
MergeKind = Annotated[
    str, Choice(("mean", "sum", "experts"), "mean of the agreeing entries, their sum, or their sum over T")
]
Zeros = Annotated[str, Choice(("majority", "positive"), "sign of entries whose sum is exactly zero")]


class Elected(NamedTuple):
    """What TIES must know of the whole model: each expert's threshold, and on demand the sign of most entries."""

    thresholds: Tensor
    majority: Callable[[], float]


def counted(density: float, size: int, count: str) -> int:
    """Return how many of ``size`` entries a density keeps."""
    if count == "ceil":
        return keep_count(density, size)
    if count == "floor":
        return max(1, int(density * size)) if density > 0 else 0
    return int(density * size) + (1 if count == "plus_one" else -1)


def whole_model_thresholds(stream: Stream, density: float | Sequence[float], count: str) -> Tensor:
    """Return for each expert the magnitude from which on entries of its whole task vector are kept, ``[T]``."""
    return thresholds(stream, [counted(d, stream.size, count) for d in per_expert(density, stream.experts)])


def above(deltas: Tensor, edges: Tensor) -> Tensor:
    """Return the entries of at least the expert's threshold, zeros elsewhere; equal magnitudes are all kept."""
    just_below = torch.nextafter(edges.to(deltas.dtype), torch.tensor(-1.0, dtype=deltas.dtype)).tolist()
    kept = torch.empty_like(deltas)
    for out, delta, edge in zip(kept, deltas, just_below, strict=True):
        torch.hardshrink(delta, edge, out=out)
    return kept


def _votes(trimmed: Tensor, weights: Weights) -> float:
    """Return by how many entries with a positive sum are more than those with a negative one."""
    weighted = trimmed if weights is None else trimmed * along(weights, trimmed)
    return weighted.sum(0).sign_().sum(dtype=torch.float64).item()


def _ties_prepass(stream: Stream, *, density, scope, count, zeros, weights, **_) -> Elected | None:
    """Find thresholds over the whole model; the majority sign, for entries whose votes cancel out, only if needed."""
    if scope != "model":
        return None
    edges = whole_model_thresholds(stream, density, count)

    @functools.cache
    def majority() -> float:
        return -1.0 if zeros == "majority" and sum(stream.each(votes)) < 0 else 1.0

    def votes(piece: Piece) -> float:
        return _votes(above(piece.deltas, edges), weights)

    return Elected(edges, majority)


@method(
    "ties",
    title="TIES-Merging",
    family="sparse",
    paper="arXiv 2306.01708",
    equation=r"\tau=\frac{\sum_t\hat\tau_t[\operatorname{sgn}\hat\tau_t=\gamma]}{\sum_t[\operatorname{sgn}\hat\tau_t=\gamma]},"
    r"\ \gamma=\operatorname{sgn}\sum_t\hat\tau_t",
    acts_on="entries",
    gives="merged",
    scale="mean",
    prepass=_ties_prepass,
    flavours={
        "official": {"count": "plus_one"},
        "mergekit": {"scope": "tensor", "count": "floor", "zeros": "positive"},
        "fusion_bench": {"count": "plus_one", "merge": "sum"},
    },
    deviations="Public code disagrees: the official code keeps one entry more than K says; mergekit trims each tensor "
    "by itself, FusionBench sums instead of averaging. Equal magnitudes at a whole-model threshold are all kept.",
)
def ties(
    deltas: Tensor,
    *,
    density: Density = 0.2,
    scope: Scope = "model",
    count: Count = "ceil",
    merge: MergeKind = "mean",
    zeros: Zeros = "majority",
    weights: Weights = None,
    prepass: Elected | None = None,
) -> Tensor:
    """Trim each expert to its largest entries, elect a sign for each entry, and average the experts that agree.

    Small entries are mostly noise, and opposite signs cancel each other out; both are removed before the mean is taken.

    Args:
        deltas: task vectors, shape ``[T, ...]``: a block of the model, or one tensor where ``scope`` is ``"tensor"``.
        density: fraction kept of the whole task vector (K of the paper), or of the tensor.
        scope: ``"model"`` as in the paper; needs ``prepass``.
        count: see :func:`counted`.
        merge: ``"mean"`` as in the paper.
        zeros: ``"majority"``: the sign of most entries of the scope, as in the paper.
        weights: of the experts, applied after trimming and before the election.
        prepass: thresholds and majority over the whole model.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    if scope == "model":
        trimmed, majority = above(deltas, prepass.thresholds), prepass.majority
    else:
        trimmed = trim(deltas, density, count)

        @functools.cache
        def majority() -> float:
            if zeros == "positive":
                return 1.0
            return -1.0 if _votes(trimmed, weights) < 0 else 1.0

    return elect(trimmed, merge=merge, weights=weights, majority=majority)


def trim(deltas: Tensor, density: float | Sequence[float], count: str = "ceil") -> Tensor:
    """Zero all but the largest entries of each expert's tensor, shape ``[T, ...]``."""
    flat = deltas.flatten(1) if deltas.dim() > 1 else deltas[:, None]
    size = flat.shape[1]
    rows = zip(flat, per_expert(density, len(flat)), strict=True)
    return torch.stack([keep_largest(row, counted(d, size, count)) for row, d in rows]).view(deltas.shape)


Outliers = Annotated[PerExpert, Range(0, 1, "fraction of largest entries dropped as outliers")]
Rank = Annotated[str, Choice(("tensor", "row"), "among which entries magnitudes are ranked")]
Rounding = Annotated[str, Choice(("round", "floor"), "how fractions become numbers of entries")]


def _middle(deltas: Tensor, density: float | Sequence[float], outliers: float | Sequence[float], count: str) -> Tensor:
    """Keep entries of middling magnitude, ranked over the last dimension of ``[T, rows, n]``."""
    size, whole = deltas.shape[-1], round if count == "round" else int
    kept = []
    for delta, d, o in zip(deltas, per_expert(density, len(deltas)), per_expert(outliers, len(deltas)), strict=True):
        keep = min(size, whole(d * size))
        drop = min(whole(o * size), size - keep)  # an outlier is spared rather than the density missed
        kept.append(keep_largest(delta, drop + keep).sub_(keep_largest(delta, drop)))
    return torch.stack(kept)


_CRUMBS = {
    "family": "sparse",
    "paper": "arXiv 2312.06795",
    "acts_on": "tensors",
    "flavours": {"official": {"scope": "row", "count": "floor"}, "mergekit": {"count": "floor"}},
    "deviations": "γ is outliers, what is dropped at the top, β is density, what is kept; rank is the share of "
    "entries that are larger. The names of the two differ in every implementation. The official code ranks each row of "
    "the last dimension, mergekit tensors.",
}


@method(
    "breadcrumbs",
    title="Model Breadcrumbs",
    equation=r"\theta=\theta_0+\lambda\sum_t m_t\odot\tau_t,\ m_t=[\gamma<\operatorname{rank}|\tau_t|\le\gamma+\beta]",
    **_CRUMBS,
)
def breadcrumbs(
    deltas: Tensor,
    *,
    density: Density = 0.2,
    outliers: Outliers = 0.1,
    scope: Rank = "tensor",
    count: Rounding = "round",
) -> Tensor:
    """Drop each expert's few largest entries as outliers, keep the next largest, drop the rest.

    Both tails are suspected: the smallest entries of being noise, the largest of disturbing the other experts.

    Args:
        deltas: task vectors of a tensor, shape ``[T, ...]``; of rows, ``[T, rows, n]``, where ``scope`` is ``"row"``.
        density: fraction kept.
        outliers: fraction dropped at the top; no more than leaves the density intact, so density 1 is task arithmetic.
        scope: ranks over the tensor or over each row of the last dimension.
        count: how the two numbers of entries are rounded.

    Returns:
        Masked deltas, shape ``[T, ...]``.
    """
    flat = deltas if scope == "row" else deltas.reshape(len(deltas), 1, -1)
    return _middle(flat, density, outliers, count).view(deltas.shape)


@method(
    "breadcrumbs_ties",
    title="Model Breadcrumbs with sign election",
    equation=r"\tau=\sum_t\hat\tau_t[\operatorname{sgn}\hat\tau_t=\gamma],\ \hat\tau_t=m_t\odot\tau_t",
    variant_of="breadcrumbs",
    gives="merged",
    **_CRUMBS,
)
def breadcrumbs_ties(
    deltas: Tensor,
    *,
    density: Density = 0.2,
    outliers: Outliers = 0.1,
    scope: Rank = "tensor",
    count: Rounding = "round",
    merge: MergeKind = "sum",
    weights: Weights = None,
) -> Tensor:
    """Thin the experts as Breadcrumbs does, then add only the entries that agree with the elected sign.

    The masks are those of Breadcrumbs; the election keeps opposite entries from cancelling each other out.

    Found in mergekit only. Args and shapes as :func:`breadcrumbs`; returns the merged task vector, shape ``[...]``.
    """
    kept = breadcrumbs(deltas, density=density, outliers=outliers, scope=scope, count=count)
    return elect(kept, merge=merge, weights=weights)
