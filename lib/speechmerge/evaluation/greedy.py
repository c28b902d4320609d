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
    return follow(Reader(whisper, features), whisper, prompts, limits, forbidden)


class Reader:
    """A model on its way through the tokens of a batch: what it heard, and what it keeps of the tokens so far."""

    def __init__(self, whisper: "WhisperForConditionalGeneration", features: Tensor) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self.whisper = whisper
        self.heard = whisper.model.encoder(features).last_hidden_state
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def scores(self, given: Tensor) -> Tensor:
        """Read the next tokens ``[rows, n]``; return the scores of those that may follow, ``[rows, tokens]`` fp32."""
        states = self.whisper.model.decoder(
            given, encoder_hidden_states=self.heard, past_key_values=self.cache, use_cache=True
        )
        return self.whisper.proj_out(states.last_hidden_state[:, -1]).float()

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows only."""
        self.cache.batch_select_indices(rows)
        self.heard = self.heard[rows]


@torch.inference_mode()
def follow(
    reader: Reader,
    whisper: "WhisperForConditionalGeneration",
    prompts: Tensor,
    limits: Sequence[int],
    forbidden: Sequence[int] = (),
    temperature: float = 0.0,
) -> list[list[int]]:
    """Return what :func:`search` does, for any ``reader`` with the methods of :class:`Reader`.

    At a ``temperature`` above 0 tokens are drawn, with torch's own random numbers.
    """
    settings, device = whisper.generation_config, prompts.device
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    never = torch.tensor(forbidden, dtype=torch.long, device=device)
    at_first = torch.tensor(settings.begin_suppress_tokens or (), dtype=torch.long, device=device)
    found: list[list[int]] = [[] for _ in limits]
    rows, given = list(range(len(limits))), prompts  # rows of the caches, some of which may have ended

    def runs(row: int) -> bool:
        return len(found[row]) < limits[row] and (not found[row] or found[row][-1] not in ends)

    while True:
        scores = reader.scores(given).index_fill_(-1, never, -torch.inf)
        if given is prompts:
            scores.index_fill_(-1, at_first, -torch.inf)
        if temperature:
            given = torch.multinomial((scores / temperature).softmax(-1), 1)
        else:
            given = scores.argmax(-1, keepdim=True)
        for row, token in zip(rows, given[:, 0].tolist(), strict=True):
            if runs(row):
                found[row].append(token)
        left = [i for i, row in enumerate(rows) if runs(row)]
        if not left:
            return found
        if len(left) <= KEPT * len(rows):
            kept = torch.tensor(left, device=device)
            reader.keep(kept)
            rows, given = [rows[i] for i in left], given[kept]
