"""Number formats: which of two loses digits of the other, and whether numbers are equal but for rounding."""

import math

import torch
from torch import Tensor

ROUNDINGS = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
)  # what numbers may have passed through before they were saved


def loses(source: torch.dtype, target: torch.dtype) -> bool:
    """Tell whether ``target`` cannot hold every number of ``source``; of fp16 and bf16 each loses some of the other."""
    return torch.promote_types(source, target) != target


def passages(source: torch.dtype) -> list[torch.dtype]:
    """Return the formats that may have rounded numbers stored as ``source`` on their way: itself, then coarser ones."""
    return [source, *(via for via in ROUNDINGS if loses(source, via))]


def rounded(values: Tensor, copy: Tensor, via: torch.dtype) -> Tensor:
    """Tell for each scalar whether ``copy`` is ``values`` rounded to ``via`` and then to the copy's own format.

    Where ``values`` have the finer steps, a last digit of them is allowed for: they may be a rounding themselves, and
    rounding twice is not rounding once (6 % of bf16 numbers made from fp16 ones differ from those made from fp32).
    """
    values = values.to(copy.device)
    if torch.finfo(values.dtype).eps < torch.finfo(copy.dtype).eps or via != values.dtype:
        ends = (torch.nextafter(values, values.new_tensor(end)) for end in (-math.inf, math.inf))
        low, high = (end.to(via).to(copy.dtype) for end in ends)
        return (low <= copy) & (copy <= high) & torch.isfinite(copy)
    return (values.to(copy.dtype) == copy) & torch.isfinite(copy)


def alike(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors of different formats are equal but for the rounding to the coarser one."""
    pairs = [(a, b) for a, b in ((one, other), (other, one)) if loses(a.dtype, b.dtype)]
    return any(bool(rounded(a, b, a.dtype).all()) for a, b in pairs)
