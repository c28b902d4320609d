"""What a live chapter needs: speech in a folder, models that hear the same clips, and words for how far it came."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechmerge.budget import Budget
from speechmerge.corpora import Clip
from speechmerge.evaluation import scoring
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.predictions import Prediction
from speechmerge.finetuning.training_recipe import TrainingLog

FEWEST = 4  # clips of each language that every model hears, however little time is left


def counts(
    decoders: Mapping[str, Decoder], test: Mapping[str, Sequence[Clip]], budget: Budget
) -> dict[str, list[scoring.Counts]]:
    """Let every model transcribe the same first clips of each language, as many as the budget allows.

    They hear them in rounds. A round has at most as many clips as were heard before, and no more than fit into the time
    that is left, by the time a clip of the round before took; so how many it is depends on the machine.

    Args:
        decoders: the models by name.
        test: clips by language.
        budget: when it is over no further round begins; the first one always does.

    Returns:
        For each model the word errors, one entry a language.
    """
    found: dict[str, dict[str, list[Prediction]]] = {name: {x: [] for x in test} for name in decoders}
    done, size = 0, FEWEST
    while size and done < max(map(len, test.values())):
        before = budget.left()
        part = {x: clips[done : done + size] for x, clips in test.items()}
        for name, decoder in decoders.items():
            for language, clips in _transcribed(decoder, part).items():
                found[name][language] += clips
        done += size
        took = max(before - budget.left(), 1e-9) / size
        size = int(min(done, max(0.0, budget.left() / took)))
    return {
        name: [scoring.count(clips, test[x][: len(clips)], x) for x, clips in heard.items()]
        for name, heard in found.items()
    }


def _transcribed(decoder: Decoder, part: Mapping[str, Sequence[Clip]]) -> dict[str, list[Prediction]]:
    """Decode clips of several languages together, for each call has a cost of its own."""
    clips = [clip for some in part.values() for clip in some]
    spoken = [language for language, some in part.items() for _ in some]
    found = iter(decoder.decode(clips, spoken, "asr", progress=False))
    return {language: [next(found) for _ in some] for language, some in part.items()}


def clips_folder(clips: Sequence[Clip], folder: Path) -> Path:
    """Write clips as a reader's own speech may lie: a file each, and ``metadata.csv`` with what is said in it."""
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["file_name", "text"])
        for number, clip in enumerate(clips):
            name = f"{number:04}.flac"
            (folder / name).write_bytes(clip.flac)
            lines.writerow([name, clip.text])
    return folder


def trained(logs: Mapping[str, TrainingLog], epochs: int) -> str:
    """Say how far each training came: ``es: 6 of 6 steps over 10.1 minutes of speech, 1.2 windows a second; …``.

    Args:
        logs: of trainings with a budget, by name.
        epochs: what their recipe asks for.
    """
    minutes = {name: epochs * log.minutes_of_speech * log.steps / log.planned for name, log in logs.items()}
    return "; ".join(
        f"{name}: {log.steps} of {log.planned} steps over {minutes[name]:.1f} minutes of speech, "
        f"{log.windows_per_second:.1f} windows a second"
        for name, log in logs.items()
    )


def listened(found: Mapping[str, Sequence[scoring.Counts]], test: Mapping[str, Sequence[Clip]]) -> str:
    """Say how many clips every model heard: ``12 of 40 in es, 12 of 40 in it``."""
    [heard] = {tuple(len(language.ids) for language in languages) for languages in found.values()}
    return ", ".join(f"{n} of {len(clips)} in {x}" for n, (x, clips) in zip(heard, test.items(), strict=True))
