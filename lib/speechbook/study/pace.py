"""How fast the machine at hand trains and decodes, measured: what its times are estimated with."""

import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from speechmerge import machine
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.finetuning.training import Recipe, Source, train
from speechmerge.whisper import models

from . import kept
from .experiment import Pace
from .plans import Plan

SECONDS, CLIPS = 20.0, 64  # of training, and that are decoded


def measure(made: Plan) -> Pace:
    """Train for some seconds and decode some clips, on the first cell of a plan and with its settings.

    Returns:
        The pace of the profile with what was measured in place; copying, disk and numbers of clips stay as they are.

    Raises:
        CheckpointError, CorpusError: the base or the speech is not there.
    """
    settings, cell = made.settings, made.cells[0]
    sources = tuple(Source(corpus, cell.language, cell.task) for corpus in cell.corpora)
    given = settings.training.given() | {"learning_rate": settings.learning_rates[0], "kept_apart": cell.kept_apart}
    with tempfile.TemporaryDirectory() as name:
        recipe = Recipe(base=settings.base, sources=sources, **given)
        log = train(recipe, Path(name) / "model", seconds=SECONDS, progress=False)
    clips = kept.clips_of(asdict(cell), "test", CLIPS)
    decoder = Decoder(models.base_model(settings.base), Decoding(**settings.decoding.given()))
    started = time.perf_counter()
    decoder.decode(clips, cell.language, cell.task, progress=False)
    found = {
        "machine": f"this machine: {machine.hardware()}",
        "train_windows_per_second": log.windows_per_second,
        "decode_clips_per_second": len(clips) / (time.perf_counter() - started),
    }
    return settings.here.model_copy(update=found)
