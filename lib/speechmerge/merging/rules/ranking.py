"""Which entries of a row are the largest: exact, the same on any number of threads, and quick on long rows."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

STRIDE = 509  # one number in so many is sampled; prime, so that it never falls in step with rows
_LONG = 1 << 16  # rows from this length on are ranked by way of a sample


def quick(values: Tensor) -> Any:
    """Return a tensor of the CPU as NumPy's array, which compares and picks by a mask in a fraction of the time."""
    return values.numpy() if values.device.type == "cpu" else values


def marked(mask: Any) -> int:
    """Count what a mask of :func:`quick` values marks."""
    return int(torch.count_nonzero(mask) if isinstance(mask, Tensor) else np.count_nonzero(mask))


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
    edge = ranked(magnitude, size - count)
    mask = torch.as_tensor(quick(magnitude) >= quick(edge))
    if marked(quick(mask)) > count * (values.numel() // size):  # more than wanted in some row
        above = magnitude > edge
        equal = mask & ~above
        room = count - above.sum(-1, keepdim=True)
        mask = above | (equal & (equal.cumsum(-1) <= room))
    return mask


def keep_largest(values: Tensor, count: int) -> Tensor:
    """Zero all but the entries that :func:`largest` marks in each row of ``[..., n]``; of one row without a mask."""
    if values.numel() != values.shape[-1]:
        return values * largest(values, count)
    return _keep_largest(values.reshape(-1), count).view(values.shape)


def _keep_largest(row: Tensor, count: int) -> Tensor:
    if count >= len(row) or count <= 0:
        return row * float(count > 0)
    magnitude = row.abs()
    edge = ranked(magnitude, len(row) - count)
    if edge == 0:
        return row.clone()  # fewer entries than wanted are not zero
    found = torch.nn.functional.hardshrink(row, torch.nextafter(edge, torch.zeros_like(edge)).item())
    if surplus := marked(quick(magnitude) >= edge.item()) - count:
        found[(magnitude == edge).nonzero()[-surplus:, 0]] = 0
    return found


def ranked(values: Tensor, place: int) -> Tensor:
    """Return each row's value at an ascending position, ``[..., n]`` to ``[..., 1]``.

    Of long rows on a CPU a sorted sample brackets the value and only what lies within is ranked: a fifth of the time.
    """
    size = values.shape[-1]
    if size < _LONG or values.device.type != "cpu":
        return torch.kthvalue(values, place + 1, dim=-1, keepdim=True).values
    if values.dim() > 1:
        return torch.stack([ranked(row, place) for row in values])
    sample = values[:: max(STRIDE // 5, size // _LONG)].sort().values
    low, high = around(sample, place / size, 4.0)
    array = quick(values)
    inside = torch.as_tensor(array[(array >= low) & (array <= high)])
    within = place - marked(array < low)
    if not 0 <= within < len(inside):  # the sample was unlucky
        inside, within = values, place
    return inside.kthvalue(within + 1, keepdim=True).values


def around(sample: Tensor, share: float, deviations: float) -> tuple[float, float]:
    """Return values between which the given share of a row falls, so many standard deviations to each side."""
    size = len(sample)
    margin = deviations * math.sqrt(size * share * (1 - share)) + 2
    low, high = math.floor(share * size - margin), math.ceil(share * size + margin)
    return (
        sample[low].item() if low >= 0 else -math.inf,
        sample[high].item() if high < size else math.inf,
    )


def ranks(rows: Tensor) -> Tensor:
    """Return the ascending rank of each magnitude in its row, 0 to n - 1; of equal ones the first comes first.

    On a CPU, fp32 magnitudes are sorted as integers with their places in the lower bits, which NumPy does with vector
    instructions: a ninth of the time of two ``argsort``.

    Args:
        rows: shape ``[..., n]``.
    """
    places = torch.arange(rows.shape[-1], device=rows.device)
    magnitude = rows.abs()
    if rows.device.type == "cpu" and rows.dtype == torch.float32:
        order = (magnitude.view(torch.int32).long() << 32).bitwise_or_(places)
        order.numpy().sort()
        order &= 0xFFFFFFFF
    else:
        order = magnitude.argsort(dim=-1, stable=True)
    return torch.empty_like(order).scatter_(-1, order, places.expand_as(order))


def prune(matrix: Tensor, density: float) -> Tensor:
    """Zero all but the ⌈density · m · n⌉ largest magnitudes of each matrix ``[..., m, n]``."""
    flat = matrix.flatten(-2)
    count = keep_count(density, flat.shape[-1])
    return keep_largest(flat, count).reshape(matrix.shape)
