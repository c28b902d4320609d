"""Attention a few windows at a time, for processors on which PyTorch's fused kernel is the slower one."""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from ..devices import AMX, bf16_pays, cpu_features

SCORES = 2**24  # as many stay in a processor's cache, or nearly
SAFE = 64.0  # between this and its negative, sums of exponentials neither overflow nor vanish
BY_WINDOW = "by_window"  # our name for it in transformers' registry


def implementation(device: torch.device) -> str:
    """Name the fastest attention there, in transformers' words: its fused ``"sdpa"``, or :func:`by_window`.

    PyTorch's fused kernel gains nothing from AVX-512 BF16 instructions, and its gradient nothing from AMX either.
    """
    return BY_WINDOW if device.type == "cpu" and bf16_pays(device) else "sdpa"


def by_window(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[Tensor, None]:
    """Attend without a fused kernel, in so many windows at once that their scores are few.

    In float32, and with AMX where nothing is learnt, the fused kernel is the faster one, and is what runs.

    Args:
        module: the attention module.
        query: (windows, heads, targets, width of a head).
        key: (windows, heads, sources, width of a head).
        value: shaped like ``key``.
        attention_mask: added to the scores; (windows or 1, heads or 1, targets, sources).
        scaling: factor of the scores; without it, one over the root of the width of a head.
        dropout: share of the weights that are dropped in training.
        others: what the fused kernel understands besides.

    Returns:
        What was attended to, (windows, targets, heads, width of a head), and None for the weights.
    """
    if query.dtype != torch.bfloat16 or (AMX in cpu_features() and not torch.is_grad_enabled()):
        others |= {"is_causal": False}  # what is not to be seen is in the mask
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **others)
    windows, heads, targets, width = query.shape
    size = max(1, SCORES // (heads * targets * key.shape[2]))
    query = query * (width**-0.5 if scaling is None else scaling)
    masks = [0.0] * windows if attention_mask is None else attention_mask.expand(windows, -1, -1, -1).split(size)
    if attention_mask is None and not torch.is_grad_enabled() and targets > width:
        found = [_result(*part) for part in zip(query.split(size), key.split(size), value.split(size), strict=True)]
        return torch.cat(found).transpose(1, 2).contiguous(), None
    found = []
    for asked, offered, told, mask in zip(query.split(size), key.split(size), value.split(size), masks, strict=False):
        scores = asked @ offered.transpose(2, 3)
        weights = (scores if attention_mask is None else scores + mask).softmax(-1)
        found.append(functional.dropout(weights, dropout, module.training) @ told)
    return torch.cat(found).transpose(1, 2).contiguous(), None


def _result(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend in as few passes over the scores as there can be, which is a tenth faster where nothing is learnt.

    A column of ones beside the values gives the sums of the exponentials, and the result is divided by them in place of
    the scores; the sums are rounded to the values' number format.
    """
    scores = query @ key.mT
    if _largest(query) * _largest(key) > SAFE:  # a bound of the scores
        scores -= scores.amax(-1, keepdim=True)
    found = scores.exp_() @ functional.pad(value, (0, 1), value=1.0)
    return found[..., :-1] / found[..., -1:]


def _largest(vectors: Tensor) -> float:
    return torch.linalg.vector_norm(vectors, dim=-1).max().item()


AttentionInterface.register(BY_WINDOW, by_window)
AttentionMaskInterface.register(BY_WINDOW, eager_mask)
