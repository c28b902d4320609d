"""What rules share: one value for each expert, the election of signs, a step of Adam."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CHUNK = 1 << 16  # entries of a tensor handled at once, so that those of a few experts fit a CPU's cache


def flags(compare: Callable, left: Tensor, right: Tensor | float) -> Tensor:
    """Return 1 where a comparison (``torch.gt``, ...) holds and 0 elsewhere, as numbers of the format of ``left``.

    PyTorch compares, counts and multiplies these with vector instructions, and truth values one by one.
    """
    return compare(left, right, out=torch.empty_like(left))


def per_expert(value: float | Sequence[float] | None, experts: int) -> list[float]:
    """Return one value for each expert, 1 where none is given."""
    if value is None:
        return [1.0] * experts
    return list(value) if isinstance(value, Sequence) else [value] * experts


def along(value: float | Sequence[float] | None, deltas: Tensor) -> Tensor:
    """Return one value for each expert in a shape that multiplies ``deltas`` ``[T, ...]``."""
    values = torch.tensor(per_expert(value, len(deltas)), dtype=deltas.dtype, device=deltas.device)
    return values.view(-1, *[1] * (deltas.dim() - 1))


def elect(
    edited: Tensor,
    *,
    merge: str = "mean",
    weights: float | Sequence[float] | None = None,
    majority: Callable[[], float] = lambda: 1.0,
) -> Tensor:
    """Elect a sign for each entry and merge the experts that agree with it (arXiv 2306.01708, steps 2 and 3).

    Args:
        edited: trimmed or masked deltas, shape ``[T, ...]``; zeros do not vote.
        merge: ``"mean"`` over the agreeing entries (weighted), their ``"sum"``, or the sum over ``"experts"`` / T.
        weights: one for each expert, applied before the election.
        majority: the sign of entries whose votes cancel out exactly; asked for only if there are any.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    if edited[0].numel() > CHUNK and edited.device.type == "cpu":
        merged = edited.new_empty(edited.shape[1:])
        for chunk, out in zip(edited.flatten(1).split(CHUNK, 1), merged.view(-1).split(CHUNK), strict=True):
            out.copy_(elect(chunk, merge=merge, weights=weights, majority=majority))
        return merged
    weighted = edited if weights is None else edited * along(weights, edited)
    sign = weighted.sum(0).sign_()
    split = flags(torch.eq, sign, 0).mul_(flags(torch.gt, weighted.amax(0), 0))  # no sum, though not all are zero
    if split.sum():
        sign += split * majority()
    agree = (weighted * sign).clamp_(min=0)  # magnitudes of the agreeing entries
    merged = agree.sum(0).mul_(sign)
    if merge == "sum":
        return merged
    if merge == "experts":
        return merged / len(edited)
    votes = flags(torch.gt, agree, 0)
    share = votes.sum(0) if weights is None else votes.mul_(along(weights, edited)).sum(0)
    return merged.div_(share.add_(flags(torch.eq, share, 0)))


def adam_step(values: Tensor, first: Tensor, second: Tensor, gradient: Tensor, *, step: int, rate: float) -> None:
    """Take one step of Adam (arXiv 1412.6980), counted from 1, on values and moments; ``gradient`` is overwritten."""
    first.lerp_(gradient, 0.1)
    second.lerp_(gradient.square_(), 0.001)
    length = torch.div(second, 1 - 0.999**step, out=gradient).sqrt_().add_(1e-8)
    values.addcdiv_(first, length, value=-rate / (1 - 0.9**step))
