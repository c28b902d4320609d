"""How far a training moved the weights, and how much of that lies in rows of tokens that it never read."""

import math

import torch
from torch import Tensor

from ..whisper.checkpoints import Checkpoint

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
