"""Means on the sphere: every tensor is a direction and a length.

All these rules return a combination of their inputs, so they are computed from the inputs' inner products alone: one
fp64 Gram matrix, a few numbers of arithmetic, one weighted sum. Differences of fine-tunes far below fp32 resolution of
an angle survive that way.
"""

import math
from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, Range, Weights, method
from . import angles

Space = Annotated[str, Choice(("weights", "deltas"), "what is averaged: the experts' weights, or their task vectors")]


@method(
    "slerp",
    title="SLERP (spherical interpolation)",
    family="spherical",
    paper="Shoemake 1985",
    equation=r"\theta=\frac{\sin((1-t)\Omega)}{\sin\Omega}\,\theta_1+\frac{\sin(t\Omega)}{\sin\Omega}\,\theta_2",
    gives="merged",
    scale="mean",
    experts=2,
    flavours={"mergekit": {"straight_above": 0.9995, "floor": 1e-8}},
    deviations="Fine-tunes of one base have cosines above 0.9995 in nearly every tensor, where mergekit interpolates "
    'linearly; `space="deltas"` interpolates the task vectors, whose angles are large. A tensor that one expert left '
    "as it was has no direction: here the straight line is taken, so the other counts half; mergekit puts it at a "
    "right angle, and the other counts 0.707 (t = 0.5).",
)
def slerp(
    deltas: Tensor,
    *,
    t: Annotated[float, Range(-10, 10, "position between the first expert (0) and the second (1), or beyond")] = 0.5,
    space: Space = "weights",
    straight_above: Annotated[float, Range(0, 1, "cosine above which it interpolates linearly")] = 1.0,
    floor: Annotated[float, Range(0, 1, "least length an angle is measured with; 0 for none")] = 0.0,
    base: Tensor | None = None,
) -> Tensor:
    """Go from one expert to the other along the arc instead of the straight line, tensor by tensor.

    The straight line between two vectors of equal length passes nearer to the origin than either; the arc keeps the
    length.

    Args:
        deltas: task vectors of a tensor, shape ``[2, ...]``.
        t: position on the arc.
        space: arc between weights, or between task vectors (mergekit's ``nuslerp`` with a base).
        straight_above: |cos Ω| from which on the straight line is taken.
        floor: with one, a vector of no length stands at a right angle to the other; without, the line is straight.
        base: the base's tensor, shape ``[...]``.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    inner = angles.inputs(deltas, base, space)
    norms = inner.diagonal().clamp(min=0).sqrt()
    straight = torch.tensor([1 - t, t], dtype=torch.float64)
    if norms.min() == 0 and not floor:
        return angles.combined(straight, deltas, base, space)
    if norms.min() < floor:
        angle = math.acos((inner / norms.clamp(min=floor).prod())[0, 1].clamp(-1, 1))
    else:
        angle = angles.arc(inner, *torch.diag(1 / norms))
    if abs(math.cos(angle)) > straight_above or math.sin(angle) < 1e-6:  # opposed ones have no arc of their own
        return angles.combined(straight, deltas, base, space)
    arc = torch.tensor([math.sin((1 - t) * angle), math.sin(t * angle)], dtype=torch.float64) / math.sin(angle)
    return angles.combined(arc, deltas, base, space)


@method(
    "multi_slerp",
    title="Multi-SLERP",
    family="spherical",
    paper="Goddard 2024 (mergekit)",
    equation=r"\theta=\bar n\,\frac{\sum_tw_tu_t}{\|\sum_tw_tu_t\|},\ u_t=\theta_t/\|\theta_t\|,\ "
    r"\bar n=\sum_tw_t\|\theta_t\|",
    gives="merged",
    scale="mean",
    deviations="The published description adds a mean in the tangent space, which is identically zero; it is left out. "
    "Zero tensors are skipped, and directions that cancel out give the arithmetic mean; mergekit raises for both "
    "where there are three experts or more.",
)
def multi_slerp(
    deltas: Tensor, *, space: Space = "weights", weights: Weights = None, base: Tensor | None = None
) -> Tensor:
    """Take the mean direction of the experts and the mean of their lengths, tensor by tensor.

    Averaging directions and lengths apart keeps the mean as long as its parts, and takes any number of experts.

    Args:
        deltas: task vectors of a tensor, shape ``[T, ...]``.
        space: whose directions are averaged.
        weights: of the experts, normalised to sum to one.
        base: the base's tensor, shape ``[...]``.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    inner, share = angles.inputs(deltas, base, space), angles.share(weights, len(deltas))
    found = angles.mean_direction(inner, share)
    coefficients = share if found is None else (share @ found[1]) * found[0]
    return angles.combined(coefficients, deltas, base, space)


@method(
    "karcher",
    title="Karcher mean",
    family="spherical",
    paper="arXiv 2603.04972",
    equation=r"u=\arg\min_u\sum_t w_t\,\angle(u,u_t)^2,\ \theta=u\sum_tw_t\|\theta_t\|",
    gives="merged",
    scale="mean",
    deviations="Angles come from fp64 inner products; mergekit's fp32 arccos skips angles below 3e-4, as "
    "between fine-tunes at very small learning rates. Directions that cancel out start from the first expert. A recipe "
    "for karcher counts its base_model as one more model, as mergekit does; leave it out to merge the others.",
)
def karcher(
    deltas: Tensor,
    *,
    iterations: Annotated[int, Range(0, 1000, "steps at most; 0 gives Multi-SLERP")] = 10,
    tolerance: Annotated[float, Range(0, 1, "length of a step at which it stops")] = 1e-5,
    space: Space = "weights",
    weights: Weights = None,
    base: Tensor | None = None,
) -> Tensor:
    """Find the direction with the least squared angles to all experts, with the mean of their lengths.

    It is the mean that belongs to the geometry of a sphere; Multi-SLERP is where its iteration starts.

    Args:
        deltas: task vectors of a tensor, shape ``[T, ...]``.
        iterations: at most so many steps along the mean of the experts' logarithms.
        tolerance: stop when the step is shorter, in radians.
        space: whose directions are averaged.
        weights: of the experts, normalised to sum to one.
        base: the base's tensor, shape ``[...]``.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    inner, share = angles.inputs(deltas, base, space), angles.share(weights, len(deltas))
    norms = inner.diagonal().clamp(min=0).sqrt()
    if not norms.any():
        return torch.zeros_like(deltas[0])
    units = torch.diag(torch.where(norms > 0, 1 / norms, 0))
    found = angles.mean_direction(inner, share)
    u = found[0] if found else units[int(norms.argmax() if norms[0] == 0 else 0)]
    for _ in range(iterations):
        step = torch.zeros_like(u)
        for unit, w in zip(units[norms > 0], share[norms > 0], strict=True):
            angle = angles.arc(inner, u, unit)
            if 1e-12 < angle < math.pi - 1e-12:
                step += w * angle / math.sin(angle) * (unit - math.cos(angle) * u)
        length = math.sqrt(max(step @ inner @ step, 0.0))
        if length <= tolerance:
            break
        u = math.cos(length) * u + math.sin(length) * step / length
        u = u / math.sqrt(u @ inner @ u)
    return angles.combined((share @ norms) * u, deltas, base, space)


@method(
    "model_stock",
    title="Model Stock",
    family="spherical",
    paper="arXiv 2403.19522",
    equation=r"\theta=t\,\bar\theta+(1-t)\,\theta_0,\ t=\frac{T\cos\vartheta}{1+(T-1)\cos\vartheta}",
    gives="merged",
    scale="mean",
    flavours={
        "mergekit": {"floor": 1e-6, "clamp": False},
        "fusion_bench": {"angle": "degrees", "clamp": False, "floor": 1e-8},
    },
    deviations="The paper defines the angle of two models; for more the mean of pairwise cosines is taken (mergekit "
    "too), FusionBench takes the mean of the angles. t is kept within [0, 1], which public code does not do; "
    "mergekit's floor on norms pulls the small updates of biases towards the base. Where 1 + (T - 1) cos ϑ is zero "
    "the base is kept, as in mergekit.",
)
def model_stock(
    deltas: Tensor,
    *,
    per_row: Annotated[bool, Choice((False, True), "one t for each row of the last dimension")] = False,
    angle: Annotated[str, Choice(("cosine", "degrees"), "what is averaged over pairs: cosines or angles")] = "cosine",
    clamp: Annotated[bool, Choice((True, False), "keep t within [0, 1]")] = True,
    floor: Annotated[float, Range(0, 1, "least product of two norms; 0 for none")] = 0.0,
) -> Tensor:
    """Average the experts and pull the mean towards the base, the more the less they agree.

    The angle between experts tells how much of an update is chance: the centre of all possible fine-tunes lies on the
    way back to the base.

    Args:
        deltas: task vectors of a tensor, shape ``[T, ...]``.
        per_row: decide for each row of the last dimension instead of the whole tensor.
        angle: how more than two models define one angle.
        clamp: disagreeing experts give the base, never its other side.
        floor: of the product of two norms; public code has one.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    experts = len(deltas)
    rows = deltas.reshape(experts, -1, deltas.shape[-1] if per_row and deltas.dim() > 1 else max(deltas[0].numel(), 1))
    mean = rows.mean(0)
    if experts == 1:
        return mean.view(deltas.shape[1:])
    inner = angles.gram(rows.transpose(0, 1))  # [rows, T, T]
    norms = inner.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    size = norms[:, :, None] * norms[:, None, :]
    size = size + floor if angle == "degrees" else size.clamp(min=floor)
    cosines = torch.where(size > 0, inner / size, 0)[:, *torch.triu_indices(experts, experts, 1)].clamp(-1, 1)
    cosine = cosines.acos().mean(-1).cos() if angle == "degrees" else cosines.mean(-1)
    bottom = 1 + (experts - 1) * cosine
    t = torch.where(bottom.abs() < 1e-6, 0, experts * cosine / bottom)
    if clamp:
        t = torch.where(cosine <= 0, 0.0, t.clamp(0, 1))
    return (t.to(mean.device, mean.dtype)[:, None] * mean).view(deltas.shape[1:])
