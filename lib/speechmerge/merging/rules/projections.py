"""Task matrices seen through singular subspaces: those of the base (Singular Projection), or of all experts (DOGE)."""

from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, Range, method
from .decompositions import factors, svd
from .primitives import adam_step, flags
from .sparse import Count, Density, above, whole_model_thresholds
from .streams import Stream


def half_rank(values: Tensor, share: float) -> Tensor:
    """Return how many leading singular values first reach a share of their sum, ``[..., r]`` to ``[..., 1]``."""
    total = values.sum(-1, keepdim=True)
    return (values.cumsum(-1) < share * total).sum(-1, keepdim=True) + 1


@method(
    "singular_projection",
    title="Singular projection merging",
    family="subspace",
    paper="arXiv 2408.10174",
    equation=r"\tau=\sum_tU_kU_k^{\top}\Delta_tV_kV_k^{\top},\ U\Sigma V^{\top}=W_0",
    acts_on="matrices",
    others="sum",
    flavours={"fusion_bench": {"directions": 128}},
    deviations="The paper studies one fine-tune at a time in the singular subspaces of its base, for mixtures of "
    "experts; FusionBench calls the projected fine-tune a merge, and keeps 128 directions. The projected "
    "updates of several experts are added here. Its high part lacks the null space of a matrix that is not square "
    "(null_space).",
)
def singular_projection(
    deltas: Tensor,
    *,
    part: Annotated[
        str, Choice(("low", "high"), "the base's leading directions, or those after them, on both sides")
    ] = "low",
    directions: Annotated[int | None, Range(0, 100_000, "how many lead; none: as many as hold the share")] = None,
    share: Annotated[float, Range(0, 1, "part of the sum of the base's singular values that the leading hold")] = 0.5,
    null_space: Annotated[
        bool, Choice((False, True), "let the high part hold directions that the base maps to nothing")
    ] = False,
    base: Tensor | None = None,
) -> Tensor:
    """Keep of each task matrix what lies in the leading singular directions of the base, or in all others.

    Fine-tuning mostly leaves the strong directions of the base alone and writes into those it hardly uses; the two
    parts show which of them carry a task.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        part: ``"low"`` is the paper's zone of the largest singular values.
        directions: k; more than there are is all of them.
        share: gives k where ``directions`` is none.
        null_space: whether ``"high"`` is all that is orthogonal to the leading directions.
        base: the base's matrices, shape ``[..., m, n]``.

    Returns:
        Projected deltas, shape ``[T, ..., m, n]``.
    """
    u, s, v = svd(base)
    places = torch.arange(s.shape[-1], device=s.device)
    leading = (places < (half_rank(s, share) if directions is None else directions)).unsqueeze(-2)
    double = deltas.double()
    if part == "high" and null_space:
        u, v = u * leading, v * leading
        double = double - u @ (u.mT @ double)
        return (double - (double @ v) @ v.mT).to(deltas.dtype)
    keep = leading if part == "low" else ~leading
    u, v = u * keep, v * keep
    return (u @ (u.mT @ double @ v) @ v.mT).to(deltas.dtype)


def _thresholds(stream: Stream, *, density, count, **_) -> Tensor:
    return whole_model_thresholds(stream, density, count)


def shared_directions(deltas: Tensor, fraction: float) -> Tensor:
    """Return an orthonormal basis of the columns that the experts' leading directions have in common.

    Each expert gives its ⌊r / T⌋ leading left singular vectors; of all of them side by side the ⌊r · fraction⌋ leading
    ones are taken, those that most experts lean on.

    Args:
        deltas: shape ``[T, ..., m, n]``, r = min(m, n).
        fraction: of the rank that the shared subspace takes.

    Returns:
        Shape ``[..., m, k]``, in the precision of ``deltas``.
    """
    rank = min(deltas.shape[-2:])
    joined = torch.cat([factors(delta, rank // len(deltas))[0].double() for delta in deltas], -1)
    return svd(joined)[0][..., : int(rank * fraction + 1e-9)].to(deltas.dtype)


@method(
    "doge_ta",
    title="DOGE task arithmetic (adaptive projective gradient descent)",
    family="subspace",
    paper="arXiv 2501.01230",
    equation=r"\begin{gathered}\tau=\sum_t\lambda_tm_t\odot(\Delta_t+D),\ \lambda_t=\frac{\eta}{\|\Delta_t\|_F},\\"
    r"\min_{D\perp S}\sum_j\Big\|\operatorname{diag}\Big(\Delta_j\big("
    r"\sum_t\lambda_t(\Delta_t+D)-\Delta_j\big)^{\top}\Big)\Big\|^2\end{gathered}",
    acts_on="matrices",
    gives="merged",
    others="base",
    prepass=_thresholds,
    flavours={"fusion_bench": {"count": "plus_one"}},
    deviations="Details are those of FusionBench, which a co-author keeps: inner products row by row, the shared "
    "subspace S of left singular vectors, Adam on each matrix from D = 0, the mask `m_t` of the largest entries of the "
    "whole task vector drawn before D is added; it keeps one entry more. Adam divides entry by entry, "
    "so that what it adds has some part in S although its gradients have none. η and the learning rate are absolute "
    "lengths: not equivariant to the scale of task vectors.",
)
def doge_ta(
    deltas: Tensor,
    *,
    strength: Annotated[float, Range(0, 100, "η: length of each expert's task matrix in the sum")] = 0.07,
    density: Density = 0.3,
    subspace: Annotated[float, Range(0, 1, "fraction of the rank that the shared subspace takes")] = 1 / 6,
    steps: Annotated[int, Range(0, 100_000, "steps of the optimiser")] = 400,
    rate: Annotated[float, Range(0, 1, "learning rate of Adam", open_low=True)] = 1e-4,
    count: Count = "ceil",
    prepass: Tensor | None = None,
) -> Tensor:
    """Weigh experts by their length, and add one correction to all that brings the sum near each of them.

    The correction is sought outside the directions that the experts share, so that what they have in common stays as it
    is while their conflicts are settled elsewhere.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        strength: η of λ_t = η / ‖Δ_t‖.
        density: fraction of the whole task vector kept, by magnitude.
        subspace: size of the subspace S; 0 leaves the correction free.
        steps: of Adam; 0 gives no correction.
        rate: of Adam.
        count: see :func:`speechmerge.merging.rules.sparse.counted`.
        prepass: each expert's threshold over the whole model, ``[T]``.

    Returns:
        The merged task matrix, shape ``[..., m, n]``.
    """
    size = deltas.square().sum((-2, -1), keepdim=True).sqrt()
    scale = torch.where(size > 0, strength / size, 0)
    correction = _corrected(deltas, scale, shared_directions(deltas, subspace), steps, rate)
    kept = flags(torch.ne, above(deltas, prepass), 0)
    return (scale * kept * (deltas + correction)).sum(0)


def _corrected(deltas: Tensor, scale: Tensor, shared: Tensor, steps: int, rate: float) -> Tensor:
    """Return the correction D, ``[..., m, n]``: Adam on the projected gradient, from zero.

    The inner products of every row with the experts are all the loss sees, so those that do not change are made once.
    """
    total = scale.sum(0)
    start = (deltas * (deltas - (scale * deltas).sum(0))).sum(-1)  # [T, ..., m], without D
    found = torch.zeros_like(deltas[0])
    first, second, gradient = torch.zeros_like(found), torch.zeros_like(found), torch.empty_like(found)
    for step in range(1, steps + 1):
        gaps = -2 * total * (start - total[..., 0] * (deltas * found).sum(-1)).unsqueeze(-1)
        gradient.zero_()
        for gap, delta in zip(gaps, deltas, strict=True):
            gradient.addcmul_(gap, delta)
        gradient -= shared @ (shared.mT @ gradient)
        adam_step(found, first, second, gradient, step=step, rate=rate)
    return found
