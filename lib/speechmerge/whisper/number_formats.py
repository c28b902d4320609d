"""Number formats: which of two loses digits of the other, and whether numbers are equal but for rounding."""

import math

import torch
from torch import Tensor

ROUNDINGS = (torch.bfloat16, torch.float16, torch.float32)  # coarsest steps first


def loses(source: torch.dtype, target: torch.dtype) -> bool:
    """Tell whether ``target`` cannot hold every number of ``source``; of fp16 and bf16 each loses some of the other."""
    return torch.promote_types(source, target) != target


def held(values: Tensor) -> torch.dtype:
    """Return the format with the largest steps that holds these very numbers, in whatever format they are stored."""
    kinds = (kind for kind in ROUNDINGS if torch.equal(values.to(kind).to(values.dtype), values))
    return next(kinds, values.dtype)


def passages(source: torch.dtype) -> list[torch.dtype]:
    """Return the formats that numbers of one may have passed through before they were saved in another."""
    return [source, *(via for via in ROUNDINGS if loses(source, via))]


def rounded(values: Tensor, copy: Tensor, via: torch.dtype, kind: torch.dtype) -> Tensor:
    """Tell for each scalar whether ``copy`` is ``values`` rounded to ``via`` and then to the copy's own format.

    Where ``values``, by nature of format ``kind``, have the finer steps, one step of them is allowed for: they may be
    a rounding themselves, and rounding twice is not rounding once (6 % of bf16 numbers made from fp16 ones differ from
    those made from what both were made of).
    """
    values = values.to(copy.device)
    same = (values.to(via).to(copy.dtype) == copy) & torch.isfinite(copy)
    if not same.all() and torch.finfo(kind).eps < max(torch.finfo(via).eps, torch.finfo(copy.dtype).eps):
        values = values.to(kind)
        ends = (torch.nextafter(values, values.new_tensor(end)) for end in (-math.inf, math.inf))
        low, high = (end.to(via).to(copy.dtype) for end in ends)
        return (low <= copy) & (copy <= high) & torch.isfinite(copy)
    return same


def alike(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of different formats are equal but for the rounding to the coarser one."""
    pairs = [(a, b) for a, b in ((one, other), (other, one)) if loses(a.dtype, b.dtype)]
    return any(bool(rounded(a, b, a.dtype, a.dtype).all()) for a, b in pairs)
