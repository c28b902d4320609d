"""The library's decoder with what whisper.cpp's flash attention adds: keys of zeros behind the encoder's positions.

Their number is filled up to a multiple of 256, here from 1,500 to 1,536, and nothing masks the 36 that are added, so
that every query of the encoder, and of the decoder's look at it, gives them weight.
"""

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from speechmerge.evaluation.decoding import Decoder

NAME, POSITIONS, GRAIN = "padded_keys", 1500, 256


def attention(module, query, key, value, attention_mask, scaling=None, **_):
    """Attend as PyTorch does, over padded keys where they are the encoder's positions."""
    if key.shape[2] == POSITIONS:
        more = (0, 0, 0, -POSITIONS % GRAIN)
        key, value, attention_mask = functional.pad(key, more), functional.pad(value, more), None
        causal = False
    else:
        causal = attention_mask is None and query.shape[2] > 1
    found = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling, is_causal=causal
    )
    return found.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def padded(decoder: Decoder) -> Decoder:
    """Make a decoder attend so from now on."""
    for module in decoder.model.modules():
        if isinstance(module, torch.nn.Module) and hasattr(module, "config"):
            module.config._attn_implementation = NAME
    return decoder
