"""Bringing hidden states of several upstreams onto one time grid, one number of layers and one scale."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

NORMALISE = ("frame", "none", "standard")


def layer_matrix(source: int, target: int) -> Tensor:
    """Return the linear interpolation along the layers, first on first and last on last.

    Args:
        source: layers there are.
        target: layers wanted.

    Returns:
        ``[target, source]``; rows sum to 1; the identity where both are equal.
    """
    if source == 1 or target == 1:
        return torch.full((target, source), 1.0 / source)
    place = torch.arange(target, dtype=torch.float64) * (source - 1) / (target - 1)
    low = place.floor().long().clamp(max=source - 2)
    found = torch.zeros(target, source, dtype=torch.float64)
    found[torch.arange(target), low] = 1 - (place - low)
    found[torch.arange(target), low + 1] = place - low
    return found.float()


def resampled(states: np.ndarray, frames: int, rows: np.ndarray | None = None) -> Tensor:
    """Interpolate a clip's states in time, centres of frames on centres, and return some of the new frames.

    As ``interpolate(mode="linear", align_corners=False)`` of PyTorch, of which only the wanted frames are computed.

    Args:
        states: ``[T, L, D]`` in any float format; only frames that are needed are read.
        frames: of the new grid.
        rows: which of them are wanted, in any order; all without it.

    Returns:
        ``[len(rows), L, D]``, float32; the states themselves where there are as many frames as wanted.
    """
    source = len(states)
    rows = np.arange(frames) if rows is None else rows
    if source == frames:
        return torch.from_numpy(np.asarray(states[rows], np.float32))
    at = np.clip((rows + 0.5) * (source / frames) - 0.5, 0, source - 1)
    low = np.floor(at).astype(np.int64)
    high, share = np.minimum(low + 1, source - 1), (at - low).astype(np.float32)[:, None, None]
    below, above = (np.asarray(states[places], np.float32) for places in (low, high))
    return torch.from_numpy(below + share * (above - below))


def spaced(frames: int, most: int) -> np.ndarray:
    """Return evenly spaced places of at most ``most`` frames, the first and the last among them."""
    return np.arange(frames) if frames <= most else np.linspace(0, frames - 1, most).round().astype(np.int64)


class Normaliser:
    """What is done to hidden states before they reach an interface: the same for all systems of a table."""

    def __init__(self, kind: str, statistics: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
        """Prepare.

        Args:
            kind: ``"frame"`` gives each layer of each frame mean 0 and variance 1; ``"standard"`` each layer and
                dimension by ``statistics``; ``"none"`` changes nothing.
            statistics: mean and standard deviation, ``[L, D]``, of each upstream.
        """
        self.kind, self.statistics = kind, list(statistics)

    def __call__(self, states: Tensor, upstream: int) -> Tensor:
        """Normalise states ``[N, L, D]`` of the upstream with this number."""
        if self.kind == "frame":
            return functional.layer_norm(states, states.shape[-1:])
        if self.kind == "standard":
            mean, deviation = self.statistics[upstream]
            return (states - mean) / deviation
        return states


def moments(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (at least 1e-5) of each layer and dimension of states ``[N, L, D]``."""
    return states.mean(0), states.std(0, correction=0).clamp(min=1e-5)
