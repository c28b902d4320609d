"""Tests that compare systems within a table: each reads committed results and returns measured parts."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd

from ..figures.curves import signed
from ..tables.transfer import FEWEST, rank_correlation
from .parts import Part
from .results import LEVEL, SIDES, Z95, NotTestableError, Results, gain


def paired(
    results: Results, experiment: str, system: str, against: str, task: str = "asr", claimed: str = "better"
) -> list[Part]:
    """Difference of two systems on the same utterances; ``claimed`` is ``better``, ``worse`` or ``equal``.

    Equal means that the interval lies within the margin that the results know for the second system's score.
    """
    found = results.paired(experiment, system, against, task).sort_values("seed")
    row = found.iloc[0]
    scores = [results.average(experiment, name, task) for name in (system, against)]
    note = f"; {scores[0]:.1f} and {scores[1]:.1f}"
    bound = 0.0
    if claimed == "equal":
        bound = results.margin(task, scores[1])
        note += f"; margin {bound:.1f}"
    if len(others := found["difference"].iloc[1:]):
        note += f"; {sum(others * row.difference > 0)} of {len(others)} other seeds agree"
    same = claimed != "equal" and bool(row.get("same", False))
    side = SIDES[claimed][task]
    ends = row.difference, row.low, row.high
    return [Part(f"{system} − {against}", *ends, results.unit(task), side, bound, note, same)]


def relative(
    results: Results, experiment: str, systems: Sequence[str], against: str, task: str, least: float
) -> list[Part]:
    """Relative gain, in per cent, of the best of some systems over another; claimed to be at least ``least``."""
    pick = max if task == "st" else min
    system = pick(systems, key=lambda name: results.average(experiment, name, task))
    value, low, high = _relative(results, experiment, system, against, task)
    return [Part(f"gain of {system} over {against} in {results.unit(task)}", value, low, high, "%", "above", least)]


def _relative(results: Results, experiment: str, system: str, against: str, task: str) -> tuple[float, float, float]:
    row = results.paired(experiment, system, against, task).sort_values("seed").iloc[0]
    return gain(row[["difference", "low", "high"]], results.average(experiment, against, task), task)


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
    ends = [found["difference"] + wider * (found[end] - found["difference"]) for end in ("low", "high")]
    what = f"{system} − {against}, worst of {len(found)} languages ({found['difference'].idxmax()})"
    return [Part(what, found["difference"].max(), ends[0].max(), ends[1].max(), "WER", "above")]
