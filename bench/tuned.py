"""`speechmerge tune` held against every method it tried: the same experts, the same test clips, in one run.

``python bench/tuned.py ca=FOLDER es=FOLDER … --minutes 10``: experts of the languages of table 1, trained with near
sentences kept apart (profile ``tiny``). The tuning chooses on dev clips alone. Then the best merge of each method by
its own search is decoded on test clips, beside the plain average, the base and each own expert, and the table is kept
in ``results/bench``.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from speechbook.pages.live import clips_folder
from speechbook.study import experiments, store
from speechmerge import machine
from speechmerge.corpora import Clip
from speechmerge.evaluation import resampling, scoring
from speechmerge.evaluation.decoding import Decoder
from speechmerge.finetuning.training_recipe import Source
from speechmerge.merging import engine
from speechmerge.speech import pooled_clips
from speechmerge.tuning.request import Request
from speechmerge.tuning.tune import tune
from speechmerge.whisper import models

PROFILE, CLIPS = "tiny", 60  # test clips of a language, as the book's chapter on every method has them
Speech = Mapping[str, list[Clip]]


def speech_of(language: str, split: str, cap: int | None = None) -> list[Clip]:
    """Return the clips of a language of the profile."""
    settings = experiments.profiles()[PROFILE]
    return pooled_clips(settings.corpora[language], language, "asr", split, cap, kept_apart=settings.kept_apart)


def heard(decoder: Decoder, test: Speech) -> list[scoring.Scores]:
    """Decode all test clips, language by language; of a clip at most as many errors count as it has words."""
    return [
        scoring.score(decoder.decode(clips, x, "asr", progress=False), clips, x, "asr").capped()
        for x, clips in test.items()
    ]


def systems(folders: Mapping[str, Path], numbers: dict, test: Speech) -> Iterator[tuple[dict, list[scoring.Scores]]]:
    """Decode every system, the tuned one first."""
    base, experts = models.base_model(experiments.profiles()[PROFILE].base), list(folders.values())
    decoder = Decoder(base)

    def merged(one: dict) -> list[scoring.Scores]:
        state: dict[str, Tensor] = engine.merged(one["method"], base, experts, scaling=one["scaling"], **one["params"])
        decoder.use(state)
        return heard(decoder, test)

    yield _told("chosen by tune", numbers["chosen"]), merged(numbers["chosen"])
    for one in best_of_each(numbers["tried"]):
        yield _told(one["title"], one), merged(one)
    own = [heard(Decoder(folder), {x: test[x]})[0] for x, folder in folders.items()]
    yield {"system": "own experts", "method": "fine-tuning", "scaling": None}, own
    yield {"system": "base", "method": "none", "scaling": None}, heard(Decoder(base), test)


def best_of_each(tried: list[dict]) -> list[dict]:
    """Return each method's trial with the lowest score: those on all clips count before those on some."""
    best: dict[str, dict] = {}
    for one in sorted(tried, key=lambda one: (one["on"] != "all", one["score"])):
        best.setdefault(one["method"], one)
    return list(best.values())


def _told(system: str, one: dict) -> dict:
    return {"system": system, "method": one["method"], "scaling": one["scaling"]}


def main() -> None:
    """Read the options, tune, decode, keep."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("experts", nargs="+", metavar="LANGUAGE=FOLDER")
    options.add_argument("--minutes", type=float, default=10.0)
    chosen = options.parse_args()
    folders = {x: Path(folder) for x, _, folder in (word.partition("=") for word in chosen.experts)}
    with tempfile.TemporaryDirectory() as temporary:
        asked = []
        for x, folder in folders.items():
            place = Path(temporary, x)
            for name, split in (("validation", "dev"), ("test", "test")):
                clips_folder(speech_of(x, split), place / name)
            asked.append((str(folder), (Source(str(place), x),)))
        started = time.perf_counter()
        request = Request(experiments.profiles()[PROFILE].base, tuple(asked), minutes=chosen.minutes)
        numbers = tune(request, Path(temporary, "tuned"), tell=functools.partial(print, flush=True))
        seconds = time.perf_counter() - started
        test = {x: speech_of(x, "test", CLIPS) for x in folders}
        found = list(systems(folders, numbers, test))
    reference = found[0][1]
    rows = []
    for about, scores in found:
        low, high = resampling.interval(resampling.resampled_rates(scores))
        row = about | {"error": resampling.pooled(scores), "ci_low": low, "ci_high": high}
        if scores is not reference:  # tuned minus this one, on the same clips
            against = resampling.compare(reference, scores)
            row |= {"difference": against.difference, "low": against.ci_low, "high": against.ci_high}
        rows.append(row | {"clips": sum(len(one.ids) for one in scores), "languages": list(folders)})
        print(f"{row['system']:40s} {row['error']:.2%} [{low:.2%}, {high:.2%}]", flush=True)
    told = {"minutes": chosen.minutes, "seconds": round(seconds, 1), **machine.stamp()}
    store.write_statistics("bench", "tuned", [row | told for row in rows])


if __name__ == "__main__":
    main()
