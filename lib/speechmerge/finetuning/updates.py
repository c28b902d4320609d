"""How far a training moved the weights, and how much of that lies in rows of tokens that it never read."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..whisper.checkpoints import Checkpoint
from ..whisper.prompts import prompt_ids
from .training_recipe import DataSets

if TYPE_CHECKING:
    from transformers import WhisperTokenizer

TABLE = "model.decoder.embed_tokens.weight"


def measured(base: Checkpoint, trained: Checkpoint, unseen: Tensor) -> dict[str, float]:
    """Return ``update``, ``in_table`` and ``in_unseen_rows`` of a :class:`.training_recipe.TrainingLog`.

    Args:
        base: the model before.
        trained: the model after.
        unseen: bool of shape ``[tokens]``, the rows of the token table that no training text uses.
    """
    whole, before, table = 0.0, 0.0, torch.zeros(len(unseen), dtype=torch.float64)
    for name in base.shapes:
        start = base.read(name).double()
        squares = (trained.read(name).double() - start).square()
        whole, before = whole + squares.sum().item(), before + start.square().sum().item()
        if name == TABLE:
            table = squares.sum(1)
    shares = {"in_table": table.sum().item(), "in_unseen_rows": table[unseen].sum().item()}
    return {"update": math.sqrt(whole / before)} | {name: x / whole if whole else 0.0 for name, x in shares.items()}


def unseen_tokens(sets: DataSets, tokenizer: "WhisperTokenizer", vocabulary: int) -> torch.Tensor:
    """Return a mask, bool of shape ``[vocabulary]``, of the tokens that no prompt and no target of ``sets`` holds.

    A text is looked at with and without a space before it, for it may stand first in a window or later.
    """
    texts = {clip.text if task == "asr" else clip.translation for clips, _, task in sets for clip in clips}
    ids = tokenizer([*texts, *(f" {text}" for text in texts)], add_special_tokens=False).input_ids
    used = {token for own in ids for token in own} | {tokenizer.eos_token_id}
    used |= {token for _, language, task in sets for token in prompt_ids(tokenizer, language, task)}
    mask = torch.ones(vocabulary, dtype=torch.bool)
    mask[sorted(used)] = False
    return mask
