"""Deltas in memory as a prepass is given them."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, cat

from speechmerge.merging.rules.ranking import STRIDE
from speechmerge.merging.rules.streams import Piece


class Held:
    """A stream (:class:`speechmerge.merging.rules.streams.Stream`) of pieces ``[T, ...]``."""

    def __init__(self, pieces: list[Tensor]) -> None:
        self.pieces, self.experts, self.size = pieces, len(pieces[0]), sum(piece[0].numel() for piece in pieces)

    def each(self, look: Callable[[Piece], Any]) -> Iterator[Any]:
        return (look(Piece(piece, piece[0].numel())) for piece in self.pieces)

    def sample(self) -> Iterator[Tensor]:
        yield cat([piece.flatten(1) for piece in self.pieces], 1)[:, ::STRIDE]
