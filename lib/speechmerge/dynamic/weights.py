"""From how far a clip lies from each expert to which weights decode it. Pure functions over arrays."""

import torch
from torch import Tensor


def similarity(distances: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the weight of each expert for each clip, softmax_t(-d_t / s), each row of sum one.

    The scale s is ``temperature`` times the clip's mean distance, so that it needs no unit.

    Args:
        distances: shape ``[N, T]``, at least 0.
        temperature: above 0; near 0 the nearest expert takes all.

    Returns:
        Shape ``[N, T]``.
    """
    scale = temperature * distances.mean(-1, keepdim=True)
    return (-distances / scale.clamp_min(torch.finfo(distances.dtype).tiny)).softmax(-1)


def grained(weights: Tensor, total: int) -> Tensor:
    """Round weights of sum one to whole numbers of sum ``total``, by largest remainders; ``[N, T]`` int64.

    Of equal remainders the first expert's is rounded up. Clips of equal numbers share a merged model.
    """
    exact = weights.double() * total
    floor = (exact + 1e-6).floor()
    missing = total - floor.sum(-1, keepdim=True)
    order = (floor - exact).argsort(dim=-1, stable=True)
    return (floor + (order.argsort(dim=-1, stable=True) < missing)).long()


def nearest(distances: Tensor) -> Tensor:
    """Return each clip's nearest expert, ``[N]``; the first of equally near ones."""
    return (distances == distances.amin(-1, keepdim=True)).long().argmax(-1)
