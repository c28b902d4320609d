"""How alike two upstreams are, before anybody fuses them: in what they hear, and in which clips they get wrong."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .alignment import spaced
from .examples import Example
from .hearing import Hearing

FRAMES = 1_000  # of dev, over all clips


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Return the linear centred kernel alignment of two sets of features of the same frames (arXiv 1905.00414, eq. 3).

    Args:
        first: ``[N, D1]``.
        second: ``[N, D2]``.

    Returns:
        Between 0 and 1; 1 for features that are equal up to rotation and scale.
    """
    first, second = (one.double() - one.double().mean(0) for one in (first, second))
    shared = (first.T @ second).square().sum()
    return float(shared / ((first.T @ first).norm() * (second.T @ second).norm()))


def kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return Cohen's κ of two systems' errors: 1 if the same clips are wrong, 0 if no more so than by chance."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    agreed = np.mean(a == b)
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return 1.0 if chance == 1 else float((agreed - chance) / (1 - chance))


def summed(hearing: Hearing, weights: Sequence[Sequence[float]], fold: Sequence[Example]) -> list[Tensor]:
    """Return the weighted sum of each upstream's layers on about a thousand frames, evenly spaced over some clips.

    Args:
        hearing: of one or several upstreams, normalised.
        weights: of the layers of each.
        fold: examples whose clips are heard.
    """
    each = max(1, FRAMES // len(fold))
    found: list[list[Tensor]] = [[] for _ in weights]
    for one in fold:
        heard = hearing.open(one.clip)
        for place, states in enumerate(heard.take(spaced(heard.frames, each))):
            found[place].append(torch.einsum("l,nld->nd", torch.tensor(weights[place]), states))
    return [torch.cat(own) for own in found]
