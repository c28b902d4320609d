"""Merging in the space of singular vectors: TSV-M, Iso-C, Iso-CTS, Subspace Boosting, BoostedTSV-M."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, Range, method
from .decompositions import factors, polar, svd
from .directions import Boost, Orthogonal, Ratio, Schedule, Tolerance, boosted, common_dimensions, joined, kept_rank

_TSV = {"family": "subspace", "acts_on": "matrices", "gives": "merged", "others": "mean"}


@method(
    "tsvm",
    title="TSV-M (task singular vectors)",
    paper="arXiv 2412.00081",
    equation=r"\tau=U_\perp\hat\Sigma V_\perp^{\top},\ U_\perp=\operatorname{polar}[U_1|\dots|U_T],\ "
    r"V_\perp=\operatorname{polar}[V_1|\dots|V_T]",
    deviations="The official code takes the SVD of every 2-D tensor; here of linear maps only. With exact Procrustes, "
    "experts that share directions come out up to √T too large; tolerance or Newton–Schulz avoids that. More "
    "experts than the rank keep one direction each.",
    **_TSV,
)
def tsvm(
    deltas: Tensor,
    *,
    rank_ratio: Ratio = None,
    orthogonalise: Orthogonal = "procrustes",
    schedule: Schedule = "quintic",
    tolerance: Tolerance = 0.0,
    vectors: Sequence[Tensor] | None = None,
) -> Tensor:
    """Give each expert an equal share of the rank and make the kept directions orthogonal between experts.

    Experts interfere where their singular vectors overlap; once orthogonal, each reads inputs and writes outputs of its
    own.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        rank_ratio: fraction of the rank kept of each expert.
        orthogonalise: exact polar factor, or five steps towards it.
        schedule: of these steps.
        tolerance: see :func:`speechmerge.merging.rules.decompositions.polar`.
        vectors: each expert's singular vectors, if already known.

    Returns:
        The merged task matrix, shape ``[..., m, n]``.
    """
    k = kept_rank(rank_ratio, min(deltas.shape[-2:]), len(deltas))
    known = vectors or [None] * len(deltas)
    triplets = [factors(delta, k, v) for delta, v in zip(deltas, known, strict=True)]
    return joined(triplets, orthogonalise, schedule, tolerance).to(deltas.dtype)


@method(
    "boosted_tsvm",
    title="BoostedTSV-M",
    paper="arXiv 2603.05354",
    equation=r"\tau=U_\perp\tilde\Sigma V_\perp^{\top},\ \tilde\sigma_i=\max(\sigma_i,\sigma_{j^*}),\ "
    r"j^*=\min\{j:c_j\ge\beta\}",
    variant_of="tsvm",
    deviations="No code was published. Open in the paper: the power in `c_j` (1, as its ancestor's code), the spectrum "
    "it is of (the kept values), the rank (⌊min(m, n) / T⌋), λ.",
    **_TSV,
)
def boosted_tsvm(
    deltas: Tensor,
    *,
    boost: Boost = 0.3,
    power: Annotated[int, Range(1, 2, "q: shares of σ (1) or of σ² (2)")] = 1,
    spectrum: Annotated[str, Choice(("kept", "full"), "which singular values the shares are of")] = "kept",
    rank_ratio: Ratio = None,
    orthogonalise: Orthogonal = "newton_schulz",
    schedule: Schedule = "quintic",
    tolerance: Tolerance = 0.0,
    vectors: Sequence[Tensor] | None = None,
) -> Tensor:
    """Raise each expert's small singular values, then merge as TSV-M with Newton–Schulz does.

    Weak directions of an expert carry detail that strong ones drown out; raising them lets them be heard in the sum.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        boost: see :func:`boosted`; 1 is TSV-M.
        power: see :func:`boosted`.
        spectrum: shares of the kept or of all singular values.
        rank_ratio: see :func:`tsvm`.
        orthogonalise: see :func:`tsvm`.
        schedule: see :func:`tsvm`.
        tolerance: see :func:`tsvm`.
        vectors: see :func:`tsvm`.

    Returns:
        The merged task matrix, shape ``[..., m, n]``.
    """
    rank = min(deltas.shape[-2:])
    k = kept_rank(rank_ratio, rank, len(deltas))
    triplets = []
    for delta, known in zip(deltas, vectors or [None] * len(deltas), strict=True):
        u, s, v = factors(delta, k if spectrum == "kept" else rank, known)
        triplets.append((u[..., :k], boosted(s[..., :k], boost, power, s), v[..., :k]))
    return joined(triplets, orthogonalise, schedule, tolerance).to(deltas.dtype)


@method(
    "iso_c",
    title="Iso-C (isotropic merging, common subspace)",
    paper="arXiv 2502.04959",
    equation=r"\tau=\bar\sigma\,UV^{\top},\ U\Sigma V^{\top}=\sum_t\Delta_t,\ \bar\sigma=\tfrac1r\sum_i\sigma_i",
    deviations="Flattening lifts directions of rounding noise to the mean singular value: keep experts in fp32.",
    **_TSV,
)
def iso_c(deltas: Tensor) -> Tensor:
    """Add the experts and give the sum a flat spectrum.

    In a plain sum a few directions dominate, mostly those the experts share; a flat spectrum gives every direction the
    same say.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.

    Returns:
        The merged task matrix, shape ``[..., m, n]``; all its singular values equal the mean of the sum's.
    """
    total = deltas.double().sum(0)
    factor = polar(total)
    nuclear = (factor * total).sum((-2, -1), keepdim=True)  # the sum of singular values
    return (nuclear / min(total.shape[-2:]) * factor).to(deltas.dtype)


@method(
    "iso_cts",
    title="Iso-CTS (isotropic merging, common and task-specific subspaces)",
    paper="arXiv 2502.04959",
    equation=r"\tau=\bar\sigma\,\operatorname{polar}[U_1|\dots|U_T|U_c]\,\operatorname{polar}[V_1|\dots|V_T|V_c]^{\top}",
    variant_of="iso_c",
    deviations="The paper projects both subspaces, its code the left one only; so does this.",
    **_TSV,
)
def iso_cts(
    deltas: Tensor,
    *,
    common: Annotated[float, Range(0, 1, "fraction of the rank left to directions common to all experts")] = 0.8,
    orthogonalise: Orthogonal = "procrustes",
    schedule: Schedule = "quintic",
) -> Tensor:
    """Keep the sum's leading directions, add each expert's strongest directions outside them, flatten the spectrum.

    Iso-C keeps what the experts have in common; here room is reserved for what only one of them knows.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        common: fraction of min(m, n) that is common; 1 is Iso-C.
        orthogonalise: exact polar factor, or five steps towards it.
        schedule: of these steps.

    Returns:
        The merged task matrix, shape ``[..., m, n]``.
    """
    shared, own = common_dimensions(min(deltas.shape[-2:]), len(deltas), common)
    u, s, v = svd(deltas.double().sum(0))
    u, s, v = u[..., :shared], s[..., :shared], v[..., :shared]
    parts = [factors(delta - u @ (u.mT @ delta), own) for delta in deltas.double()] if own else []
    parts.append((u, s, v))  # the experts' own directions first, the common ones last
    flat = torch.cat([values for _, values, _ in parts], -1).mean(-1, keepdim=True)
    triplets = [(left, flat.expand_as(values), right) for left, values, right in parts]
    return joined(triplets, orthogonalise, schedule).to(deltas.dtype)


@method(
    "subspace_boosting",
    title="Subspace Boosting",
    paper="arXiv 2506.16506",
    equation=r"\tau=U\tilde\Sigma V^{\top},\ U\Sigma V^{\top}=\sum_t\Delta_t,\ "
    r"\tilde\sigma_i=\max(\sigma_i,\sigma_{j^*})",
    family="subspace",
    acts_on="matrices",
    gives="merged",
    others="sum",
    deviations="The cumulative share is of σ, not σ², as in the authors' code.",
)
def subspace_boosting(
    deltas: Tensor,
    *,
    boost: Boost = 0.01,
    power: Annotated[int, Range(1, 2, "q: shares of σ (1) or of σ² (2)")] = 1,
) -> Tensor:
    """Add the experts and raise the small singular values of the sum.

    The more experts are added, the more of their sum collapses into few directions; raising the others restores its
    rank.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        boost: see :func:`boosted`.
        power: see :func:`boosted`.

    Returns:
        The merged task matrix, shape ``[..., m, n]``.
    """
    u, s, v = svd(deltas.double().sum(0))
    return ((u * boosted(s, boost, power).unsqueeze(-2)) @ v.mT).to(deltas.dtype)
