"""Attention a few windows at a time, for processors on which PyTorch's fused kernel is the slower one."""

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.whisper.modeling_whisper import eager_attention_forward

from ..devices import AMX, AVX, cpu_features

SCORES = 2**25  # as many stay in a processor's cache, or nearly
BY_WINDOW = "by_window"  # our name for it in transformers' registry


def implementation(device: torch.device) -> str:
    """Name the fastest attention there, in transformers' words: its fused ``"sdpa"``, or :func:`by_window`.

    PyTorch's fused kernel gains nothing from AVX-512 BF16 instructions; with AMX and on GPUs it is the faster one.
    """
    return BY_WINDOW if device.type == "cpu" and cpu_features() & {AMX, AVX} == {AVX} else "sdpa"


def by_window(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Attend as transformers' unfused attention does, to so many windows at once that the scores are few.

    Args:
        module: the attention module.
        query: (windows, heads, targets, width of a head).
        key: (windows, heads, sources, width of a head).
        value: shaped like ``key``.
        attention_mask: added to the scores; (windows or 1, heads or 1, targets, sources).
        scaling: factor of the scores; without it, one over the root of the width of a head.
        dropout: share of the weights that are dropped in training.

    Returns:
        What was attended to, (windows, targets, heads, width of a head), and None for the weights.
    """
    windows, heads, targets, _width = query.shape
    size = max(1, SCORES // (heads * targets * key.shape[2]))
    masks = [None] * windows if attention_mask is None else attention_mask.expand(windows, -1, -1, -1).split(size)
    parts = zip(query.split(size), key.split(size), value.split(size), masks, strict=False)
    return torch.cat([eager_attention_forward(module, *part, scaling, dropout)[0] for part in parts]), None


AttentionInterface.register(BY_WINDOW, by_window)
AttentionMaskInterface.register(BY_WINDOW, eager_mask)
