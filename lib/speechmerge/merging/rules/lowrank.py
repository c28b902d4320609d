"""Pruning each expert's task matrices before they are added: by magnitude, by singular value, or both (LoRS).

Source: arXiv 2502.17380, equations of section 3.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, PerExpert, Range, method
from .decompositions import leading
from .primitives import per_expert
from .ranking import prune

Density = Annotated[PerExpert, Range(0, 1, "fraction p of entries of each matrix kept, the largest in magnitude")]
RankRatio = Annotated[PerExpert, Range(0, 1, "fraction r of the rank of each matrix kept; 0 keeps none")]
RankMode = Annotated[
    str,
    Choice(
        ("ratio", "parameters"),
        "what r is a fraction of: the smaller side of the matrix, or its number of entries",
    ),
]
_OPEN = (
    "The paper names neither what r is a fraction of nor what happens to embeddings, convolutions and vectors: here r "
    "is a fraction of min(m, n) (rank_mode) and those tensors are kept whole (policy)."
)


def rank(ratio: float, rows: int, columns: int, mode: str = "ratio") -> int:
    """Return how many singular values a ratio keeps: at least one for a positive ratio, none for zero.

    ``"ratio"``: k = round(r · min(m, n)). ``"parameters"``: k(m + n + 1) = r · m · n, the storage of the factors.
    """
    if ratio <= 0:
        return 0
    wanted = ratio * min(rows, columns) if mode == "ratio" else ratio * rows * columns / (rows + columns + 1)
    return min(max(1, round(wanted)), rows, columns)


@method(
    "mp",
    title="MP-Merging (magnitude pruning)",
    family="lowrank",
    paper="arXiv 2502.17380",
    equation=r"\theta=\theta_0+\lambda\sum_t M_t\odot\Delta_t",
    acts_on="matrices",
    deviations="The paper does not say what happens to embeddings, convolutions and vectors: here they are kept whole "
    "(policy).",
)
def mp(deltas: Tensor, *, density: Density = 0.4) -> Tensor:
    """Keep only the largest entries of each task matrix, then add the experts.

    Most entries of an update are taken to be redundant; without them the experts overlap less and disturb each other
    less.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        density: fraction kept, exactly ⌈p·m·n⌉ entries; among equal magnitudes the first in row order are kept.

    Returns:
        Pruned deltas, shape ``[T, ..., m, n]``.
    """
    return torch.stack([prune(d, p) for d, p in zip(deltas, per_expert(density, len(deltas)), strict=True)])


@method(
    "svp",
    title="SVP-Merging (singular value pruning)",
    family="lowrank",
    paper="arXiv 2502.17380",
    equation=r"\theta=\theta_0+\lambda\sum_t U_k\Sigma_kV_k^{\top}",
    acts_on="matrices",
    deviations=_OPEN,
)
def svp(
    deltas: Tensor,
    *,
    rank_ratio: RankRatio = 0.02,
    rank_mode: RankMode = "ratio",
    vectors: Sequence[Tensor] | None = None,
) -> Tensor:
    """Keep only the leading singular values of each task matrix, then add the experts.

    What a task changed is taken to lie in a few directions of each matrix, and the rest to be noise.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        rank_ratio: k = max(1, round(r·min(m, n))) singular values are kept, none for r = 0.
        rank_mode: ``"parameters"`` reads r as the fraction of parameters the factors hold.
        vectors: each expert's singular vectors, if already known.

    Returns:
        Deltas of rank k, shape ``[T, ..., m, n]``.
    """
    return torch.stack([low.to(deltas.dtype) for low in _low(deltas, rank_ratio, rank_mode, vectors)])


def _low(
    deltas: Tensor, ratio: float | Sequence[float], mode: str, vectors: Sequence[Tensor] | None
) -> Iterator[Tensor]:
    """Yield each delta's part of low rank, shape ``[..., m, n]``, fp64."""
    known = vectors or [None] * len(deltas)
    for delta, r, own in zip(deltas, per_expert(ratio, len(deltas)), known, strict=True):
        yield leading(delta, rank(r, *delta.shape[-2:], mode), own)


@method(
    "lors",
    title="LoRS-Merging (low rank and sparse)",
    family="lowrank",
    paper="arXiv 2502.17380",
    equation=r"\theta=\theta_0+\lambda\sum_t\big(L_t+\operatorname{top}_p(\Delta_t-L_t)\big),\ "
    r"L_t=U_k\Sigma_kV_k^{\top}",
    acts_on="matrices",
    deviations=_OPEN,
)
def lors(
    deltas: Tensor,
    *,
    rank_ratio: RankRatio = 0.02,
    density: Density = 0.4,
    rank_mode: RankMode = "ratio",
    vectors: Sequence[Tensor] | None = None,
) -> Tensor:
    """Keep the leading singular values of each task matrix and the largest entries of what they leave over.

    The low-rank part holds structure shared by many entries, the sparse part what single entries learnt.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        rank_ratio: see :func:`svp`; 0 gives :func:`mp`.
        density: see :func:`mp`, applied to the residual; 0 gives :func:`svp`.
        rank_mode: see :func:`svp`.
        vectors: see :func:`svp`.

    Returns:
        Low-rank plus sparse deltas, shape ``[T, ..., m, n]``.
    """
    parts = _low(deltas, rank_ratio, rank_mode, vectors)
    pruned = zip(deltas, parts, per_expert(density, len(deltas)), strict=True)  # in fp64: near the edge digits decide
    return torch.stack([(low + prune(delta - low, p)).to(deltas.dtype) for delta, low, p in pruned])
