"""Singular directions of several experts: how many are kept, which are raised, and how they are made orthogonal."""

from typing import Annotated

import torch
from torch import Tensor

from ...errors import MethodError
from ..methods import Choice, Range
from .decompositions import COEFFICIENTS, newton_schulz, polar
from .ranking import keep_count

Ratio = Annotated[
    float | None,
    Range(0, 1, "fraction of the rank each expert keeps; none: an equal share, ⌊min(m, n) / T⌋", open_low=True),
]
Orthogonal = Annotated[
    str, Choice(("procrustes", "newton_schulz"), "how the experts' singular vectors are made orthogonal")
]
Schedule = Annotated[str, Choice(tuple(COEFFICIENTS), "coefficients of the Newton–Schulz steps")]
Boost = Annotated[float, Range(0, 1, "β: share of the singular values' sum above which none is raised; 1 raises none")]
Tolerance = Annotated[
    float, Range(0, 1, "directions under this share of the largest are dropped instead of completed; Procrustes only")
]


def boosted(values: Tensor, boost: float, power: int = 1, spectrum: Tensor | None = None) -> Tensor:
    """Raise small singular values to the one at which the cumulative share reaches ``boost``.

    c_j = Σ_{i≤j} σ_i^q / Σ σ_i^q, j* = min{j : c_j ≥ β}, σ̃_i = max(σ_i, σ_j*) (arXiv 2506.16506; arXiv 2603.05354).

    Args:
        values: kept singular values in descending order, shape ``[..., k]``.
        boost: β; 1 changes nothing, towards 0 all become σ_1.
        power: q, 1 for the sum of σ as in the ancestor's code, 2 for energy.
        spectrum: what the shares are of, if not of the kept values; shape ``[..., r]``.

    Returns:
        Shape ``[..., k]``.
    """
    if boost >= 1 - 1e-12:
        return values
    whole = (values if spectrum is None else spectrum).double() ** power
    share = whole.cumsum(-1) / whole.sum(-1, keepdim=True).clamp(min=1e-300)
    first = (share < boost - 1e-12).sum(-1, keepdim=True).clamp(max=values.shape[-1] - 1)
    return torch.maximum(values, values.gather(-1, first))


def _orthogonal(vectors: Tensor, how: str, schedule: str, tolerance: float) -> Tensor:
    return polar(vectors, tolerance) if how == "procrustes" else newton_schulz(vectors, schedule)


def joined(
    triplets: list[tuple[Tensor, Tensor, Tensor]], how: str, schedule: str = "quintic", tolerance: float = 0.0
) -> Tensor:
    """Lay the experts' singular vectors side by side, make them orthogonal, and put the matrix together again."""
    u, s, v = (torch.cat(parts, -1) for parts in zip(*triplets, strict=True))
    left, right = _orthogonal(u, how, schedule, tolerance), _orthogonal(v, how, schedule, tolerance)
    return (left.to(s.dtype) * s.unsqueeze(-2)) @ right.to(s.dtype).mT


def kept_rank(ratio: float | None, rank: int, experts: int) -> int:
    """Return how many singular triplets each expert keeps: an equal share of the rank, at least one."""
    return max(1, rank // experts if ratio is None else keep_count(ratio, rank))


def common_dimensions(rank: int, experts: int, fraction: float) -> tuple[int, int]:
    """Return how many directions are common and how many each expert has of its own.

    The specific ones are a multiple of T, rounded half to even as the official code does.

    Raises:
        MethodError: rounding leaves less than nothing in common.
    """
    specific = round((rank - int(rank * fraction)) / experts) * experts
    if specific > rank:
        raise MethodError(
            f"iso_cts: {experts} experts leave a matrix of rank {rank} no common directions at common={fraction:g}; "
            "raise common or merge fewer experts."
        )
    return rank - specific, specific // experts
