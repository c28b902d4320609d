"""Order statistics of whole models, which pass by piece by piece and never lie in memory at once."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from .ranking import STRIDE, around


class Piece(NamedTuple):
    """What a prepass sees of one tensor or block: deltas ``[T, ...]``, the scalars of its tensor, Fishers or none."""

    deltas: Tensor
    size: int
    fisher: Tensor | None = None


Stream = Callable[[], Iterable[Piece]]


def order_statistics(values: Callable[[], Iterable[Tensor]], ranks: Callable[[int], list[list[int]]]) -> Tensor:
    """Return exact order statistics of rows too long for memory, in two passes over their pieces.

    The first pass sorts a sample, which brackets each statistic; the second counts what lies below the bracket and
    keeps what lies within, under one percent of a large row: numbers that very many entries share, as in models kept in
    half precision, become ends of a bracket and are only counted. Should a bracket miss, it is widened and the pass
    repeated.

    Args:
        values: gives the pieces of the rows, each ``[R, n]``, the same at every call.
        ranks: from the length N of the rows, for each row the q wanted positions in ascending order, 0 to N - 1.

    Returns:
        The values at these positions, shape ``[R, q]``.
    """
    sampled, size = [], 0
    for piece in values():
        sampled = sampled or [_Growing(piece) for _ in piece]
        for kept, row in zip(sampled, piece, strict=True):
            kept.add(row[-size % STRIDE :: STRIDE])
        size += piece.shape[-1]
    if not size:
        raise ValueError("order statistics of no values at all")
    sample = torch.stack([kept.values for kept in sampled]).sort(-1).values
    wanted = torch.tensor(ranks(size)).clamp(0, size - 1)
    found = torch.zeros(wanted.shape, dtype=sample.dtype)
    missing, deviations = torch.cartesian_prod(*map(torch.arange, wanted.shape)).tolist(), 6.0
    while missing:
        brackets = [_Bracket(sample[r], wanted[r, q].item() / size, deviations) for r, q in missing]
        for piece in values():
            for (r, _), bracket in zip(missing, brackets, strict=True):
                bracket.add(piece[r])
        left = []
        for (r, q), bracket in zip(missing, brackets, strict=True):
            value = bracket.value(wanted[r, q].item())
            if value is None:
                left.append([r, q])
            else:
                found[r, q] = value
        missing, deviations = left, deviations * 8
    return found


class _Bracket:
    """Two numbers around an order statistic, how many others lie below and between, and those between.

    The ends are only counted, for very many numbers may equal them.
    """

    def __init__(self, sample: Tensor, share: float, deviations: float) -> None:
        """Take the ends from a sorted sample; see :func:`around`."""
        self.low, self.high = around(sample, share, deviations)
        self.below, self.equal, self.upto, self.within = 0, 0, 0, _Growing(sample)

    def add(self, row: Tensor) -> None:
        """Count some of the numbers."""
        self.below += int(torch.count_nonzero(row < self.low))
        self.equal += int(torch.count_nonzero(row == self.low))
        self.upto += int(torch.count_nonzero(row <= self.high))
        self.within.add(row[(row > self.low) & (row < self.high)])

    def value(self, place: int) -> Tensor | float | None:
        """Return the number at an ascending position among all; none if the bracket misses it."""
        if not self.below <= place < self.upto:
            return None
        inside, first = self.within.values, self.below + self.equal
        if first <= place < first + len(inside):
            return inside.kthvalue(place - first + 1).values
        return self.low if place < first else self.high


class _Growing:
    """Numbers collected in one piece of memory; thousands of small pieces would leave holes all over the heap."""

    def __init__(self, like: Tensor) -> None:
        self.room, self.size = like.new_empty(1 << 12), 0

    def add(self, values: Tensor) -> None:
        """Append numbers."""
        if self.size + len(values) > len(self.room):
            room = self.room.new_empty(2 * (self.size + len(values)))
            room[: self.size] = self.values
            self.room = room
        self.room[self.size : self.size + len(values)] = values
        self.size += len(values)

    @property
    def values(self) -> Tensor:
        """What was collected, as a view."""
        return self.room[: self.size]


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
