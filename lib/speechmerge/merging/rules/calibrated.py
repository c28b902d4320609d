"""Averages weighted by statistics of data: diagonal Fishers, or Gram matrices of the layers' inputs."""

import math
from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, Range, Weights, method
from .primitives import along, per_expert
from .streams import Stream

DAMPED = 0.95  # RegMean's share of the Grams off the diagonal up to which the system is regular enough for fp32


def _fisher_prepass(stream: Stream, *, normalise, **_) -> list[float] | None:
    """Return 1 / ‖F_t‖ over the whole model, so that tasks of larger gradients do not count more."""
    if not normalise:
        return None
    squares = sum(stream.each(lambda piece: piece.fisher.double().square().flatten(1).sum(1).cpu()))
    return [1 / math.sqrt(square) if square else 0.0 for square in squares.tolist()]


@method(
    "fisher",
    title="Fisher-weighted averaging",
    family="calibrated",
    paper="arXiv 2111.09832",
    equation=r"\theta=\frac{\sum_tc_tF_t\odot\theta_t}{\sum_tc_tF_t}",
    acts_on="entries",
    gives="merged",
    scale="mean",
    prepass=_fisher_prepass,
    passes=1,
    flavours={"fusion_bench": {"floored": "added"}},
    deviations="Entries whose summed Fisher lies under the floor take the plain mean; FusionBench adds the floor to "
    "every entry, and computes another statistic than the Fisher (the square of a summed gradient).",
)
def fisher(
    deltas: Tensor,
    *,
    weights: Weights = None,
    floor: Annotated[float, Range(0, 1, "least Fisher that counts as information")] = 1e-6,
    floored: Annotated[
        str, Choice(("mean", "added"), "what the floor does: fall back to the mean, or is added")
    ] = "mean",
    normalise: Annotated[bool, Choice((False, True), "divide each expert's Fisher by its norm over the model")] = False,
    fisher: Tensor | None = None,
    prepass: list[float] | None = None,
) -> Tensor:
    """Average the experts entry by entry, each weighted by how sharply its own task determines the entry.

    The diagonal of the Fisher information says how much the output changes when an entry moves; a sharp entry gets a
    large vote.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        weights: c_t of the experts.
        floor: in the unit of the Fishers (relative to their norm where ``normalise``).
        floored: what the floor does.
        normalise: needs ``prepass``.
        fisher: diagonal Fishers, shape ``[T, ...]``, not negative.
        prepass: 1 / ‖F_t‖ for each expert.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    share = torch.tensor(per_expert(weights, len(deltas)), dtype=torch.float64)
    if prepass is not None:
        share = share * torch.tensor(prepass) / sum(prepass)
    share = along(share.tolist(), deltas)
    if floored == "added":
        weight = share * (fisher + floor)
    else:
        weight = torch.where((share * fisher).sum(0) > floor, share * fisher, share.expand_as(deltas))
    return (weight * deltas).sum(0) / weight.sum(0)


_REGMEAN = {
    "family": "calibrated",
    "acts_on": "matrices",
    "gives": "merged",
    "scale": "mean",
    "others": "mean",
}


@method(
    "regmean",
    title="RegMean",
    paper="arXiv 2212.09849",
    equation=r"W=\Big(\sum_tW_t\tilde G_t\Big)\Big(\sum_t\tilde G_t\Big)^{-1},\ "
    r"\tilde G_t=\alpha G_t+(1-\alpha)\operatorname{diag}G_t",
    deviations="Grams are means over frames, as in all public code (the paper sums, so that larger sets count more). A "
    "ridge of 1e-8 of the mean diagonal is added.",
    **_REGMEAN,
)
def regmean(
    deltas: Tensor,
    *,
    alpha: Annotated[float, Range(0, 1, "share of the Grams' entries off the diagonal that is used")] = 0.9,
    ridge: Annotated[float, Range(0, 1, "added to the diagonal, in units of its mean")] = 1e-8,
    gram: Tensor | None = None,
) -> Tensor:
    """Choose the linear map whose outputs are nearest to every expert's own on that expert's inputs.

    A linear layer can be merged exactly in the sense of least squares, and data enter through their Gram matrices
    alone.

    Solved in fp64 for the task matrices; equal to solving for the weights, as the rule is equivariant to a shift. What
    the experts share passes through it unchanged, so only what they differ in is multiplied by Grams: with ``alpha`` up
    to :data:`DAMPED` in the deltas' own precision, which changes the result by less than 1e-4 of its length.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        alpha: 1 uses the whole Grams, 0 their diagonals only.
        ridge: keeps the system solvable where an input never varies.
        gram: Gram matrices of the layer's inputs, shape ``[T, ..., n, n]``.

    Returns:
        The merged task matrix, shape ``[..., m, n]``.
    """
    precision = deltas.dtype if alpha <= DAMPED else torch.float64
    mean = deltas.mean(0, dtype=torch.float64)
    total = torch.zeros(gram.shape[1:], dtype=torch.float64, device=gram.device)
    right = torch.zeros_like(mean)
    for delta, own in zip(deltas, gram, strict=True):
        total += own
        away, own = (delta - mean).to(precision), own.to(precision)
        right += alpha * (away @ own) + (1 - alpha) * (away * own.diagonal(dim1=-2, dim2=-1)[..., None, :])
    squares = total.diagonal(dim1=-2, dim2=-1).clone()
    total.mul_(alpha).diagonal(dim1=-2, dim2=-1).copy_(squares)
    noise = gram.shape[-1] * torch.finfo(gram.dtype).eps
    return _solve(mean, right, total, ridge, noise, regular=1 - alpha > noise).to(deltas.dtype)


def _solve(mean: Tensor, right: Tensor, total: Tensor, ridge: float, noise: float, *, regular: bool) -> Tensor:
    """Return (M G + B) G⁻¹ with a ridge in units of the mean diagonal; a zero Gram gives zero.

    Where too few frames were heard, the sum is singular, and what stands in the place of its zero eigenvalues is
    rounding: directions along which inputs, scaled to unit mean square, vary less than ``noise`` get no update.

    Args:
        mean: M, shape ``[..., m, n]``.
        right: B, the same shape.
        total: G, shape ``[..., n, n]``, symmetric and positive semi-definite; overwritten.
        ridge: keeps the diagonal positive.
        noise: size of what rounding adds to the eigenvalues of the scaled sum.
        regular: the caller knows that the sum is not singular.
    """
    squares = total.diagonal(dim1=-2, dim2=-1)
    scale = squares.mean(-1, keepdim=True)
    added = torch.where(scale > 0, ridge * scale, 1)
    squares += added
    right = right - added[..., None] * mean
    factor, failed = torch.linalg.cholesky_ex(total)
    if not regular:
        failed = failed | torch.linalg.cholesky_ex(total - noise * torch.diag_embed(squares))[1]
    if not failed.any():
        return mean + torch.cholesky_solve(right.mT, factor).mT
    root = torch.where(squares > 0, squares, 1).sqrt()[..., None, :]
    values, vectors = torch.linalg.eigh(total / root / root.mT)
    inverse = torch.where(values > noise, 1 / values, 0)[..., None, :]
    return (right + mean @ total) / root @ (vectors * inverse) @ vectors.mT / root


@method(
    "regmean_pp",
    title="RegMean++",
    paper="arXiv 2508.03121",
    equation=r"W=\Big(\sum_tW_t\tilde G'_t\Big)\Big(\sum_t\tilde G'_t\Big)^{-1},\ "
    r"G'_t\text{ from inputs through the merged layers below}",
    variant_of="regmean",
    deviations="The rule is RegMean's; what differs is how the Grams are collected, layer after merged layer.",
    **_REGMEAN,
)
def regmean_pp(
    deltas: Tensor,
    *,
    alpha: Annotated[float, Range(0, 1, "share of the Grams' entries off the diagonal that is used")] = 0.9,
    ridge: Annotated[float, Range(0, 1, "added to the diagonal, in units of its mean")] = 1e-8,
    gram: Tensor | None = None,
) -> Tensor:
    """Merge as RegMean does, with inputs that have passed through the merged layers below instead of each expert's.

    In use, a merged layer receives the outputs of merged layers; statistics collected that way fit what it will meet.

    Args and shapes as :func:`regmean`.
    """
    return regmean(deltas, alpha=alpha, ridge=ridge, gram=gram)
