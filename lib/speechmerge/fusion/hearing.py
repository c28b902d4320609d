"""What an interface hears: the stored states of several upstreams, clip by clip, on one time grid, normalised."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..corpora import Clip
from ..errors import MethodError, nearest
from .alignment import NORMALISE, Normaliser, moments, resampled, spaced
from .features import Features

MEASURED, FRAMES = 400, 25  # training clips, and frames of each, from which means and deviations are taken


@dataclass(frozen=True)
class Heard:
    """A clip's states by each upstream, of which nothing is read before it is taken."""

    states: list[np.ndarray]
    normalise: Normaliser

    @property
    def frames(self) -> int:
        """Frames of the common grid: those of the finest upstream."""
        return max(map(len, self.states))

    def take(self, rows: np.ndarray) -> list[Tensor]:
        """Return frames of the common grid, by each upstream: ``[len(rows), L_i, D_i]``, float32, normalised."""
        found = [resampled(one, self.frames, rows) for one in self.states]
        return [self.normalise(one, place) for place, one in enumerate(found)]


class Hearing:
    """The upstreams of a set."""

    def __init__(self, features: Sequence[Features], *, whole: bool, normalise: Normaliser | None = None) -> None:
        """Prepare; without :meth:`normalised` states stay as they are.

        Args:
            features: of each upstream, in order.
            whole: whether all frames of a clip are heard, as speech recognition needs.
            normalise: what is done to states.
        """
        self.features, self.whole = list(features), whole
        self.normalise = normalise or Normaliser("none")

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Layers and width of each upstream."""
        return [(one.layers, one.width) for one in self.features]

    def open(self, clip: Clip) -> Heard:
        """Return a clip's states."""
        return Heard([one.read(clip, whole=self.whole) for one in self.features], self.normalise)

    def normalised(self, kind: str, clips: Sequence[Clip] = ()) -> "Hearing":
        """Return the same with a normalisation; ``"standard"`` measures training clips.

        Raises:
            MethodError: an unknown kind.
        """
        if kind not in NORMALISE:
            raise MethodError(f"there is no normalisation {kind!r}.{nearest(kind, NORMALISE)}")
        found = []
        if kind == "standard":
            heard = [self.open(clip).states for clip in clips[:MEASURED]]
            for own in zip(*heard, strict=True):
                parts = [resampled(states, len(states), spaced(len(states), FRAMES)) for states in own]
                found.append(moments(torch.cat(parts)))
        return Hearing(self.features, whole=self.whole, normalise=Normaliser(kind, found))


def joined(parts: Sequence[list[Tensor]]) -> list[Tensor]:
    """Put the frames of several clips one after another, for each upstream."""
    return [torch.cat(own) for own in zip(*parts, strict=True)]
