"""Rows of the token table that a training never read, set back to the base's.

An optimiser whose loss runs over all tokens moves every row at every step. What is left after this is what the training
texts taught.
"""

import json
from dataclasses import asdict
from pathlib import Path

from ..errors import TrainingError
from ..files import atomic_folder, check_writable
from ..whisper import models
from ..whisper.checkpoints import open_checkpoint, read_json
from . import training_recipe, updates
from .training import copy_companions
from .training_recipe import Recipe, Source, TrainingLog


def reset(trained: Path, output: Path) -> TrainingLog:
    """Write a trained model with the base's rows for all tokens that its training texts do not use.

    Args:
        trained: folder of a model made by :func:`.training.train`, whose record names base and texts.
        output: folder to write; its log is that of the training, with the update measured again.

    Raises:
        TrainingError: the corpora do not hold what the model was trained on any more.
        CheckpointError: the folder lacks its record, or is damaged.
    """
    record = read_json(trained / "training.json")
    recipe = Recipe(**record["recipe"] | {"sources": tuple(Source(**one) for one in record["recipe"]["sources"])})
    train_sets, dev_sets = training_recipe.load(recipe)
    if training_recipe.fingerprint(train_sets + dev_sets) != record["data"]:
        raise TrainingError(f"{trained} was trained on other speech than the corpora hold now; train it again.")
    base = open_checkpoint(models.base_model(recipe.base))
    tokenizer = models.load_tokenizer(trained)
    unseen = updates.unseen_tokens(train_sets, tokenizer, base.shapes[updates.TABLE][0])
    whisper = models.load_model(trained)
    table = whisper.get_input_embeddings().weight.data
    table[unseen] = base.read(updates.TABLE)[unseen].to(table.dtype)
    check_writable(output, open_checkpoint(trained).bytes())
    with atomic_folder(output) as folder, models.without_bars():
        copy_companions(trained, folder)
        whisper.save_pretrained(folder)
        update = updates.measured(base, open_checkpoint(folder), unseen)
        log = TrainingLog(**record["log"] | update)
        told = record | {"log": asdict(log), "reset": True}
        (folder / "training.json").write_text(json.dumps(told, indent=1, default=str))
    return log
