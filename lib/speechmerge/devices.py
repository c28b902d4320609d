"""Which device and which number format to compute in."""

import ctypes
import functools
import gc
import sys
from pathlib import Path

import torch

from .errors import MethodError, nearest

DEVICES = ("auto", "cpu", "cuda")
AMX, AVX = "amx_bf16", "avx512_bf16"  # Linux's names of the processor features with bf16 products
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # glibc's names for mallopt(3)


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def usable_device(name: str | torch.device) -> torch.device:
    """Return a device; ``"auto"`` is the GPU if there is one.

    Raises:
        MethodError: there is no such device here.
    """
    if str(name) == "auto":
        return best_device()
    try:
        device = torch.device(str(name))
    except RuntimeError:
        raise MethodError(f"device is {name!r}.{nearest(name, DEVICES)}") from None
    if device.type not in DEVICES:
        raise MethodError(f"device is {str(name)!r}; expected one of {', '.join(DEVICES)}.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and not count:
        raise MethodError(f"device={str(name)!r}, but there is no GPU here; use device='auto' or 'cpu'.")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise MethodError(f"device={str(name)!r}, but the GPUs here have the numbers 0 to {count - 1}.")
    return device


@functools.cache
def cpu_features() -> frozenset[str]:
    """Return what the processor can do, in Linux's words; empty elsewhere."""
    file = Path("/proc/cpuinfo")
    return frozenset(file.read_text().split()) if file.exists() else frozenset()


def bf16_pays(device: torch.device) -> bool:
    """Tell whether bf16 matrix products are faster than fp32 there: GPUs and CPUs with instructions for them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and not cpu_features().isdisjoint((AMX, AVX))


def number_format(device: torch.device, precision: str) -> torch.dtype:
    """Return the format to compute in: ``"bf16"``, ``"fp32"``, or ``"auto"``, which is bf16 where it pays."""
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and bf16_pays(device)) else torch.float32


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """Return the autocast context for a ``precision`` as in :func:`number_format`.

    Weights stay fp32 in memory; only the products inside the context are computed in bf16.
    """
    enabled = number_format(device, precision) == torch.bfloat16
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def keep_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it to the system after every large tensor.

    Training, decoding and merging on a CPU allocate the same large tensors again and again; without this, each step
    pays for new pages (a fifth to a third of its time). Elsewhere than on glibc nothing happens.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(M_ARENA_MAX, 1)  # what the forward pass frees serves the backward pass, which is another thread
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def release_memory() -> None:
    """Give back what :func:`keep_memory` kept: call it between pieces of work, or the process only ever grows."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if malloc_trim is not None:
            malloc_trim(0)
