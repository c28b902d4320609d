"""What several rules are made of: choosing the largest entries, electing signs, order statistics of a whole model."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_DIGIT = 16  # bits ranked in one pass over the model
_GATHER = 1 << 19  # numbers counted at once


class Piece(NamedTuple):
    """What a prepass sees of one tensor or block: deltas ``[T, ...]``, the scalars of its tensor, Fishers or none."""

    deltas: Tensor
    size: int
    fisher: Tensor | None = None


Stream = Callable[[], Iterable[Piece]]


def per_expert(value: float | Sequence[float] | None, experts: int, default: float = 1.0) -> list[float]:
    """Return one value for each expert."""
    if value is None:
        return [default] * experts
    return list(value) if isinstance(value, Sequence) else [value] * experts


def along(value: float | Sequence[float] | None, deltas: Tensor) -> Tensor:
    """Return one value for each expert in a shape that multiplies ``deltas`` ``[T, ...]``."""
    values = torch.tensor(per_expert(value, len(deltas)), dtype=deltas.dtype, device=deltas.device)
    return values.view(-1, *[1] * (deltas.dim() - 1))


def keep_count(density: float, size: int) -> int:
    """Return ⌈density · size⌉, not disturbed by rounding of the product (0.1 · 30 is 3, not 4)."""
    return min(size, math.ceil(density * size * (1 - 1e-12)))


def largest(values: Tensor, count: int) -> Tensor:
    """Mark exactly ``count`` entries of largest magnitude in each row.

    Among equal magnitudes at the edge the first ones in the row are taken, so the choice never depends on threads.

    Args:
        values: shape ``[..., n]``.
        count: entries to mark in each row, 0 to n.

    Returns:
        Boolean mask, shape ``[..., n]``.
    """
    size = values.shape[-1]
    if count >= size or count <= 0:
        return torch.full_like(values, count > 0, dtype=torch.bool)
    magnitude = values.abs()
    edge = torch.kthvalue(magnitude, size - count + 1, dim=-1, keepdim=True).values
    mask = magnitude >= edge
    surplus = mask.sum(-1, keepdim=True) - count
    if surplus.any():
        above = magnitude > edge
        equal = mask & ~above
        room = count - above.sum(-1, keepdim=True)
        mask = above | (equal & (equal.cumsum(-1) <= room))
    return mask


def prune(values: Tensor, density: float, *, dims: int) -> Tensor:
    """Zero all but the ⌈density · n⌉ largest magnitudes, ranked over the last ``dims`` dimensions together."""
    flat = values.flatten(-dims)
    return (flat * largest(flat, keep_count(density, flat.shape[-1]))).reshape(values.shape)


def elect(
    edited: Tensor, *, merge: str = "mean", weights: float | Sequence[float] | None = None, majority: float = 1.0
) -> Tensor:
    """Elect a sign for each entry and merge the experts that agree with it (arXiv 2306.01708, steps 2 and 3).

    Args:
        edited: trimmed or masked deltas, shape ``[T, ...]``; zeros do not vote.
        merge: ``"mean"`` over the agreeing entries (weighted), their ``"sum"``, or the sum over ``"experts"`` / T.
        weights: one for each expert, applied before the election.
        majority: the sign that entries whose sum is exactly zero get.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    weighted = edited if weights is None else edited * along(weights, edited)
    total = weighted.sum(0)
    sign = torch.where(total == 0, majority, total.sign())
    agree = (weighted * sign) > 0
    merged = (weighted * agree).sum(0)
    if merge == "sum":
        return merged
    if merge == "experts":
        return merged / len(edited)
    share = agree.sum(0) if weights is None else (agree * along(weights, edited)).sum(0)
    return merged / torch.where(share == 0, 1, share)


def order_statistics(values: Callable[[], Iterable[Tensor]], ranks: Callable[[int], list[list[int]]]) -> Tensor:
    """Return exact order statistics of rows too long for memory, in passes over their pieces.

    Each pass counts 16 more bits of the numbers' ranks among those that share the bits found so far: two passes in
    fp32, four in fp64, and no sorting.

    Args:
        values: gives the pieces of the rows, each ``[R, n]``, the same at every call.
        ranks: from the length N of the rows, for each row the q wanted positions in ascending order, 0 to N - 1.

    Returns:
        The values at these positions, shape ``[R, q]``.
    """
    first, size = None, 0
    for piece in _gathered(values()):
        digits = (_keys(piece) >> _shift(piece, 0)) + (1 << _DIGIT - 1)
        first = torch.zeros(len(piece), 1 << _DIGIT, dtype=torch.long) if first is None else first
        first += torch.stack([torch.bincount(row, minlength=1 << _DIGIT).cpu() for row in digits])
        size, kind = size + piece.shape[-1], piece.dtype
    if not size:
        raise ValueError("order statistics of no values at all")
    wanted = torch.tensor(ranks(size)).clamp(0, size - 1)
    digit, wanted = _locate(first[:, None].expand(-1, wanted.shape[1], -1), wanted)
    prefix = digit - (1 << _DIGIT - 1)
    for level in range(1, torch.finfo(kind).bits // _DIGIT):
        counts = torch.zeros(*prefix.shape, 1 << _DIGIT, dtype=torch.long)
        for piece in _gathered(values()):
            keys = _keys(piece)
            above = keys >> _shift(piece, level - 1)
            low = (keys >> _shift(piece, level)) & ((1 << _DIGIT) - 1)
            for row, column in torch.cartesian_prod(*map(torch.arange, prefix.shape)).tolist():
                chosen = low[row][above[row] == prefix[row, column].item()]
                counts[row, column] += torch.bincount(chosen, minlength=1 << _DIGIT).cpu()
        digit, wanted = _locate(counts, wanted)
        prefix = (prefix << _DIGIT) | digit
    bits = torch.where(prefix < 0, prefix ^ _sign_mask(kind), prefix)
    return bits.to(torch.int32 if kind == torch.float32 else torch.int64).view(kind)


def _gathered(pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Join small pieces, so that counting costs by the number and not by the tensor."""
    held: list[Tensor] = []
    for piece in pieces:
        held.append(piece)
        if sum(part.shape[-1] for part in held) >= _GATHER:
            yield torch.cat(held, -1)
            held = []
    if held:
        yield torch.cat(held, -1)


def _sign_mask(kind: torch.dtype) -> int:
    return (1 << torch.finfo(kind).bits - 1) - 1


def _keys(values: Tensor) -> Tensor:
    """Map floats to integers in the same order."""
    bits = values.contiguous().view(torch.int32 if values.dtype == torch.float32 else torch.int64)
    return torch.where(bits < 0, bits ^ _sign_mask(values.dtype), bits)


def _shift(values: Tensor, level: int) -> int:
    return torch.finfo(values.dtype).bits - _DIGIT * (level + 1)


def _locate(counts: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bin in which each rank falls, and the rank within it; counts ``[R, q, bins]``, ranks ``[R, q]``."""
    total = counts.cumsum(-1)
    digit = (total <= ranks[..., None]).sum(-1)
    below = torch.where(digit > 0, total.gather(-1, (digit - 1).clamp(min=0)[..., None])[..., 0], 0)
    return digit, ranks - below


def thresholds(stream: Stream, counts: Callable[[int], list[int]]) -> Tensor:
    """Return for each expert the magnitude of the ``counts(N)[t]``-th largest entry of its whole task vector, ``[T]``.

    A count of N or more gives 0, so that everything is kept; a count of 0 gives infinity.
    """
    sizes = []

    def ranks(size: int) -> list[list[int]]:
        sizes.append(size)
        return [[size - count] for count in counts(size)]

    found = order_statistics(lambda: (piece.deltas.flatten(1).abs() for piece in stream()), ranks)[:, 0]
    wanted = torch.tensor(counts(sizes[0]))
    found[wanted >= sizes[0]] = 0
    found[wanted <= 0] = math.inf
    return found
