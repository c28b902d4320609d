"""One round of ``pace.py`` with whatever library stands on the path: prints seconds of the clock and of the processors.

It asks only for what every version of the library has.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from speechmerge import corpora
from speechmerge.evaluation.decoding import Decoder
from speechmerge.finetuning.packing import pack
from speechmerge.finetuning.training import Recipe, Source, train
from speechmerge.merging import measuring
from speechmerge.whisper import models
from speechmerge.whisper.checkpoints import open_checkpoint

CLIPS = 64


def timed(work: Callable[[], object], units: int) -> tuple[float, float]:
    """Return units of work a second of the clock, and of the processors."""
    clock, processors = time.perf_counter(), time.process_time()
    work()
    return units / (time.perf_counter() - clock), units / (time.process_time() - processors)


def main() -> None:
    """Read base, corpus, language and minutes; print what each kind of work does a second."""
    base, corpus, language, minutes = sys.argv[1:]
    folder, found = models.base_model(base), {}
    recipe = Recipe(base, (Source(corpus, language),), minutes=float(minutes), epochs=1, batch=4)
    with tempfile.TemporaryDirectory() as work:
        processors = time.process_time()
        log = train(recipe, Path(work) / "trained", progress=False)
        # The processors' seconds hold loading and the dev loss too, the same for both libraries.
        found["training"] = (log.windows_per_second, log.windows / (time.process_time() - processors))
    clips = sorted(corpora.load(corpus, language, "test"), key=lambda clip: clip.id)[:CLIPS]
    decoder = Decoder(folder)
    decoder.decode(clips[:4], language, "asr", progress=False)
    found["decoding"] = timed(lambda: decoder.decode(clips, language, "asr", progress=False), len(clips))
    speech = [(corpora.load(corpus, language, "dev"), language, "asr")]
    if hasattr(measuring, "listener"):
        measured, checkpoint = measuring.listener(folder, speech), open_checkpoint(folder)
        state = {name: checkpoint.read(name) for name in checkpoint.shapes if name != "proj_out.weight"}
        found["dev loss"] = timed(lambda: measured(state), len(pack(*speech[0], None)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
