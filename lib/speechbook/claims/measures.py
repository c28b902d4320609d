"""Tests that compare systems within a table: each reads committed results and returns measured parts."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from ..figures.numbers import signed
from ..tables.series import SWEPT
from ..tables.transfer import FEWEST, rank_correlation
from .parts import Part
from .results import LEVEL, SIDES, Z95, NotRunError, NotTestableError, Results, gain


def paired(
    results: Results, experiment: str, system: str, against: str, task: str = "asr", claimed: str = "better",
    place: str | None = None, least: float = 0,
) -> list[Part]:  # fmt: skip
    """Difference of two systems on the same utterances; ``claimed`` is ``better``, ``worse`` or ``equal``.

    It is that of the average, or of a group of places. Equal means that the interval lies within the margin
    that the results know for the second system's score; better may be claimed by ``least`` so many points of error.
    """
    found = results.paired(experiment, system, against, task, place)
    row = found.iloc[0]
    scores = [results.score(experiment, name, task, place) for name in (system, against)]
    bound = results.margin(task, scores[1]) if claimed == "equal" else -least
    note = f"; {scores[0]:.1f} and {scores[1]:.1f}"
    note += f"; margin {bound:.1f}" if claimed == "equal" else f"; at least {least:g} claimed" if least else ""
    if len(others := found["value"].iloc[1:]):
        note += f"; {sum(others * row.value > 0)} of {len(others)} other seeds agree"
    what = f"{system} − {against}" + (f", {place}" if place else "")
    same = claimed != "equal" and not least and bool(row.get("same", False))
    return [Part(what, row.value, row.low, row.high, results.unit(task), SIDES[claimed][task], bound, note, same)]


def relative(
    results: Results, experiment: str, systems: Sequence[str], against: str, task: str, least: float,
    place: str | None = None,
) -> list[Part]:  # fmt: skip
    """Relative gain, in per cent, of the best of some systems over another; claimed to be at least ``least``."""
    pick, [system, *others] = max if task == "st" else min, systems
    if others:
        system = pick(systems, key=lambda name: results.score(experiment, name, task, place))
    found = _relative(results, experiment, system, against, task, place)
    where = f", {place}" if place else f" in {results.unit(task)}"
    return [Part(f"gain of {system} over {against}{where}", *found, "%", "above", least)]


def _relative(
    results: Results, experiment: str, system: str, against: str, task: str, place: str | None = None
) -> tuple[float, float, float]:
    row = results.paired(experiment, system, against, task, place).iloc[0]
    return gain(row[["value", "low", "high"]], results.score(experiment, against, task, place), task)


def best(results: Results, experiment: str, systems: Sequence[str], others: Sequence[str], place: str) -> list[Part]:
    """Tests that the best of some systems beats all merges named ``others``; the best is chosen on the same clips."""
    winner = min(systems, key=lambda name: results.score(experiment, name, "asr", place))
    return [part for other in others for part in paired(results, experiment, winner, other, place=place)]


def swept(
    results: Results, experiment: str, sweep: str, against: str, place: str, claimed: str, last: bool = False
) -> list[Part]:
    """The same for the first (or last) value of a sweep, whose systems are called ``SWEEP NAME=VALUE``."""
    names = map(SWEPT.fullmatch, results.scores(experiment)["system"].unique())
    found = [(float(name["x"]), name[0]) for name in names if name and name["system"] == sweep]
    if not found:
        raise NotRunError(f"{experiment} has no rows of {sweep}")
    return paired(results, experiment, (max if last else min)(found)[1], against, "asr", claimed, place)


def gain_by_task(results: Results, experiment: str, system: str, against: str) -> list[Part]:
    """Relative gain in transcription minus that in translation, as two independent, normal quantities."""
    first, second = (_relative(results, experiment, system, against, task) for task in ("asr", "st"))
    half = math.hypot(*((high - low) / 2 for _, low, high in (first, second)))
    what, value = f"gain of {system} over {against}, WER − BLEU", first[0] - second[0]
    note = f"; {signed(first[0])} % and {signed(second[0])} %"
    return [Part(what, value, value - half, value + half, "%", "above", note=note)]


def correlation(results: Results, tables: Sequence[str], systems: Sequence[str], base: str) -> list[Part]:
    """Rank correlation over the languages of some tables between what two systems gain over the base."""
    gains = [
        np.concatenate([(results.languages(t, base) - results.languages(t, system)).to_numpy()[:, 0] for t in tables])
        for system in systems
    ]
    if len(gains[0]) < FEWEST or not all(map(np.ptp, gains)):
        raise NotTestableError(f"{len(gains[0])} languages are too few, or too much alike, for a rank correlation")
    value, low, high = rank_correlation(*gains)
    what = f"gains of {' and '.join(systems)} in {len(gains[0])} languages"
    return [Part(what, value, low, high, "rank correlation", "above")]


def worse_somewhere(results: Results, tables: Sequence[str], system: str, against: str) -> list[Part]:
    """Largest rise of the error in any language; intervals are widened, for the largest of many is looked at."""
    found = pd.concat([results.changes(table, system, against) for table in tables])
    wider = NormalDist().inv_cdf(1 - LEVEL / 2 / len(found)) / Z95
    ends = [found["value"] + wider * (found[end] - found["value"]) for end in ("low", "high")]
    what = f"{system} − {against}, worst of {len(found)} languages ({found['value'].idxmax()})"
    return [Part(what, found["value"].max(), ends[0].max(), ends[1].max(), "WER", "above")]
