"""Greedy search in which rows leave the batch when they have ended: short hypotheses do not pay for long ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # who only reads predictions need not wait for transformers
    from transformers import WhisperForConditionalGeneration

KEPT = 0.75  # ended rows stay until no more than this share of the rows runs on: leaving costs as much as a few steps


@torch.inference_mode()
def search(
    whisper: "WhisperForConditionalGeneration",
    features: Tensor,
    prompts: Tensor,
    limits: Sequence[int],
    forbidden: Sequence[int] = (),
) -> list[list[int]]:
    """Return the likeliest token at every step, row by row, the end included where it was reached.

    The tokens are those of transformers' ``generate``, which keeps every row until the longest has ended; up to
    rounding, for products of fewer rows may be summed in another order.

    Args:
        whisper: the model; its generation settings say the end and what may not come first.
        features: log-mel frames, ``[rows, mel, frames]``.
        prompts: tokens of the prompt, ``[rows, L]``.
        limits: most tokens of each row.
        forbidden: tokens that never come.
    """
    from transformers import DynamicCache, EncoderDecoderCache

    settings, device = whisper.generation_config, features.device
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    never = torch.tensor(forbidden, dtype=torch.long, device=device)
    at_first = torch.tensor(settings.begin_suppress_tokens or (), dtype=torch.long, device=device)
    heard = whisper.model.encoder(features).last_hidden_state
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    found: list[list[int]] = [[] for _ in limits]
    rows, given = list(range(len(limits))), prompts  # rows of the caches, some of which may have ended

    def runs(row: int) -> bool:
        return len(found[row]) < limits[row] and (not found[row] or found[row][-1] not in ends)

    while True:
        states = whisper.model.decoder(given, encoder_hidden_states=heard, past_key_values=cache, use_cache=True)
        scores = whisper.proj_out(states.last_hidden_state[:, -1]).float().index_fill_(-1, never, -torch.inf)
        if given is prompts:
            scores.index_fill_(-1, at_first, -torch.inf)
        given = scores.argmax(-1, keepdim=True)
        for row, token in zip(rows, given[:, 0].tolist(), strict=True):
            if runs(row):
                found[row].append(token)
        left = [i for i, row in enumerate(rows) if runs(row)]
        if not left:
            return found
        if len(left) <= KEPT * len(rows):
            kept = torch.tensor(left, device=device)
            cache.batch_select_indices(kept)
            rows, given, heard = [rows[i] for i in left], given[kept], heard[kept]
