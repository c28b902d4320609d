"""Order statistics of whole models, which pass by piece by piece and never lie in memory at once."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .ranking import around, marked, quick


class Piece(NamedTuple):
    """What a prepass sees of one tensor or block: deltas ``[T, ...]``, the scalars of its tensor, Fishers or none."""

    deltas: Tensor
    size: int
    fisher: Tensor | None = None


class Stream(Protocol):
    """The deltas of a whole model, as often as they are wanted."""

    experts: int
    size: int  # scalars of all pieces

    def each(self, look: Callable[[Piece], Any]) -> Iterator[Any]:
        """Yield what ``look`` finds in each piece, in order; pieces may be looked at side by side, and are not kept."""

    def sample(self) -> Iterable[Tensor]:
        """Yield every :data:`.ranking.STRIDE`-th delta of all experts, ``[T, n]``."""


def order_statistics(stream: Stream, values: Callable[[Tensor], Tensor], ranks: list[list[int]]) -> Tensor:
    """Return exact order statistics of rows too long for memory, in one pass over the pieces and one over a sample.

    The sorted sample brackets each statistic; the pass counts what lies below the bracket and keeps what lies within,
    under one percent of a large row: numbers that very many entries share, as in models kept in half precision, become
    ends of a bracket and are only counted. Should a bracket miss, it is widened and the pass repeated.

    Args:
        stream: the deltas.
        values: from deltas ``[T, n]``, the rows' values there, ``[R, n]``.
        ranks: for each row the q wanted positions in ascending order, 0 to N - 1.

    Returns:
        The values at these positions, shape ``[R, q]``.
    """
    if not stream.size:
        raise ValueError("order statistics of no values at all")
    sample = torch.cat([values(deltas) for deltas in stream.sample()], -1).sort(-1).values
    wanted = torch.tensor(ranks).clamp(0, stream.size - 1)
    found = torch.zeros(wanted.shape, dtype=sample.dtype)
    missing, deviations = torch.cartesian_prod(*map(torch.arange, wanted.shape)).tolist(), 6.0
    while missing:
        brackets = [(r, _Bracket(sample[r], wanted[r, q].item() / stream.size, deviations)) for r, q in missing]
        _count(stream, values, brackets)
        left = []
        for (r, q), (_, bracket) in zip(missing, brackets, strict=True):
            value = bracket.value(wanted[r, q].item())
            if value is None:
                left.append([r, q])
            else:
                found[r, q] = value
        missing, deviations = left, deviations * 8
    return found


def _count(stream: Stream, values: Callable[[Tensor], Tensor], brackets: list[tuple[int, "_Bracket"]]) -> None:
    """Pass over the pieces once, and let each bracket count those of its row."""

    def look(piece: Piece) -> list[tuple]:
        given = values(piece.deltas.flatten(1))
        return [bracket.split(given[r]) for r, bracket in brackets]

    for parts in stream.each(look):
        for (_, bracket), part in zip(brackets, parts, strict=True):
            bracket.add(*part)


class _Bracket:
    """Two numbers around an order statistic, how many others lie below and between, and those between.

    The ends are only counted, for very many numbers may equal them.
    """

    def __init__(self, sample: Tensor, share: float, deviations: float) -> None:
        """Take the ends from a sorted sample; see :func:`around`."""
        self.low, self.high = around(sample, share, deviations)
        self.below, self.equal, self.upto, self.within = 0, 0, 0, _Growing(sample)

    def split(self, row: Tensor) -> tuple[int, int, int, Tensor]:
        """Count the numbers below, at the lower end, and up to the upper end, and pick those between."""
        array = quick(row)
        above, below = array > self.low, marked(array < self.low)
        within = torch.as_tensor(array[above & (array < self.high)])
        return below, len(row) - below - marked(above), marked(array <= self.high), within

    def add(self, below: int, equal: int, upto: int, within: Tensor) -> None:
        """Add the counts of some numbers, and those between."""
        self.below, self.equal, self.upto = self.below + below, self.equal + equal, self.upto + upto
        self.within.add(within)

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


def thresholds(stream: Stream, counts: list[int]) -> Tensor:
    """Return for each expert the magnitude of the ``counts[t]``-th largest entry of its whole task vector, ``[T]``.

    A count of N or more gives 0, so that everything is kept; a count of 0 gives infinity.
    """
    found = order_statistics(stream, torch.abs, [[stream.size - count] for count in counts])[:, 0]
    wanted = torch.tensor(counts)
    found[wanted >= stream.size] = 0
    found[wanted <= 0] = math.inf
    return found
