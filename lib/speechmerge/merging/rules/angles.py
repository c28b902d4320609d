"""Angles and lengths of task vectors or weights, found from their inner products alone.

One fp64 Gram matrix holds all that is needed, so that differences of fine-tunes far below fp32 resolution of an angle
survive.
"""

import math

import torch
from torch import Tensor

from ...errors import MethodError
from .primitives import per_expert

_CHUNK = 1 << 15  # entries handled at once, within a CPU's cache
_OPPOSED = 1e-7  # lengths of sums of unit vectors that fp64 inner products cannot tell from zero


def gram(rows: Tensor, origin: Tensor | None = None) -> Tensor:
    """Return the inner products of rows ``[..., K, n]`` in fp64 on the CPU, ``[..., K, K]``.

    Args:
        rows: fp32, or any other precision.
        origin: added to every row in fp64, shape ``[n]``.
    """
    *lead, count, size = rows.shape
    kind = {"dtype": torch.float64, "device": rows.device}
    total, room = torch.zeros(*lead, count, count, **kind), torch.empty(*lead, count, min(size, _CHUNK), **kind)
    for start in range(0, size, _CHUNK):
        part = slice(start, start + _CHUNK)
        double = room[..., : min(_CHUNK, size - start)].copy_(rows[..., part])
        if origin is not None:
            double += origin[part]
        total += double @ double.mT
    return total.cpu()


def inputs(deltas: Tensor, base: Tensor, space: str) -> Tensor:
    """Return the Gram matrix ``[T, T]`` of what is averaged."""
    return gram(deltas.reshape(len(deltas), -1), None if space == "deltas" else base.reshape(-1))


def combined(coefficients: Tensor, deltas: Tensor, base: Tensor, space: str) -> Tensor:
    """Return the task vector of Σ c_t x_t, where x_t are task vectors or weights."""
    first, *others = coefficients.tolist()
    change = deltas[0] * first
    for delta, coefficient in zip(deltas[1:], others, strict=True):
        change.add_(delta, alpha=coefficient)
    return change if space == "deltas" else change.add_(base, alpha=coefficients.sum().item() - 1)


def arc(inner: Tensor, a: Tensor, b: Tensor) -> float:
    """Return the angle between two unit combinations of the inputs, exact also for small ones."""
    near, far = a - b, a + b
    return 2 * math.atan2(math.sqrt(max(near @ inner @ near, 0.0)), math.sqrt(max(far @ inner @ far, 0.0)))


def mean_direction(inner: Tensor, share: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return coefficients of the unit mean direction and the norms; ``None`` if the directions cancel out."""
    norms = inner.diagonal().clamp(min=0).sqrt()
    units = torch.where(norms > 0, share / norms, 0)
    size = math.sqrt(max(units @ inner @ units, 0.0))
    return (units / size, norms) if size > _OPPOSED * share.abs().sum() else None


def share(weights: object, experts: int) -> Tensor:
    """Return the experts' weights normalised to sum to one, fp64."""
    share = torch.tensor(per_expert(weights, experts), dtype=torch.float64)
    if share.sum() == 0:
        raise MethodError(f"the weights {share.tolist()} sum to zero, so there is no mean; give others.")
    return share / share.sum()
