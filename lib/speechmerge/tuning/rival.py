"""The rival of every merge: one model trained from the base on all experts' training speech together."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from .. import corpora
from ..errors import TrainingError
from ..finetuning import training
from ..finetuning.training_recipe import Recipe, Source
from .request import Request
from .speech import Speech, read

SHARE = 0.3  # of the minutes
RATE, EPOCHS = 3e-5, 5  # AdamW's peak rate and the passes, as good as any in the project's comparisons


def trained(asked: Request, folder: Path, speeches: Sequence[Speech]) -> Path:
    """Train the rival, or return it if it was trained before; with a budget of minutes it takes :data:`SHARE` of them.

    Raises:
        TrainingError: a source names no training split, or a recording to train on also chooses or reports.
    """
    sources = asked.train or tuple(dict.fromkeys(source for _, own in asked.experts for source in own))
    if not asked.train:
        for source in sources:
            if not _trains(source):
                raise TrainingError(
                    f"--joint: {source} names no training split beside its dev and test; give the training speech with "
                    "--train, as it was given to the experts."
                )
    recipe = Recipe(base=asked.base, sources=sources, learning_rate=RATE, epochs=EPOCHS, seed=asked.seed)
    _check_apart(recipe, speeches)
    training.train(recipe, folder, seconds=asked.minutes and SHARE * 60 * asked.minutes)
    return folder


def _trains(source: Source) -> bool:
    found = read(source)
    return found.splits_given and {"train", "dev", "test"} <= {clip.split for clip in found.clips}


def _check_apart(recipe: Recipe, speeches: Sequence[Speech]) -> None:
    """Refuse to train on recordings that choose or report."""
    held = {hashlib.sha256(clip.flac).digest(): one for one in speeches for clip in (*one.choose, *one.report)}
    for source in recipe.sources:
        for clip in corpora.load(source.corpus, source.language, "train"):
            if one := held.get(hashlib.sha256(clip.flac).digest()):
                raise TrainingError(
                    f"--joint: clip {clip.id!r} of {source} is also in {one.name}, which chooses or reports; train on "
                    "other recordings."
                )
