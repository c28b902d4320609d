"""Tests that follow systems over a figure's variants: the number of languages, the minutes of speech, the share kept.

The languages are the sample: intervals are Student's over languages. Five of them are too few for a bootstrap of
means, whose intervals would be a third too narrow.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..tables.results import first_seed
from ..tables.series import SWEPT, number
from .parts import Part
from .results import LEVEL, SIDES, SIGN, NotRunError, NotTestableError, Results, student

UNPRUNED = "Finetuned"
STRONG = 0.5  # a pruning that keeps at most this share is a strong one


def paired_by_size(results: Results, experiment: str, system: str, against: str, task: str = "asr") -> list[Part]:
    """Mean paired difference over the subsets of each size, its ends averaged, for the subsets share utterances."""
    found = first_seed(results.paired(experiment, system, against, task))
    by_size = found.groupby(found["variant"].map(position))[["value", "low", "high"]].mean()
    return [
        Part(f"{system} − {against}, {size:g} languages", *map(float, row), results.unit(task), SIDES["better"][task])
        for size, row in zip(by_size.index, by_size.to_numpy(), strict=True)
    ]


def position(variant: str) -> float:
    """Where a variant stands on its axis: the number of languages, or the binary logarithm of the minutes."""
    return math.log2(number(variant)) if variant.endswith(" min") else number(variant)


def _means(scores: pd.DataFrame) -> pd.DataFrame:
    """Average scores by language and variant over the variants at the same position, positions in order."""
    means = scores.T.groupby(scores.columns.map(position)).mean().T
    if means.shape[1] < 2:
        raise NotTestableError("the profile has one point, and a trend needs two")
    return means


def slopes(scores: pd.DataFrame) -> list[float]:
    """Slope of each language's scores over the positions of the variants."""
    means = _means(scores)
    return [float(np.polyfit(means.columns, line, 1)[0]) for line in means.to_numpy()]


def trend(results: Results, experiment: str, system: str, against: str | None = None, task: str = "asr") -> list[Part]:
    """Slope of a score, or of a difference of two, over the variants; claimed to get worse."""
    scores, what = results.languages(experiment, system, task), system
    if against:
        scores, what = scores - results.languages(experiment, against, task), f"{system} − {against}"
    return [Part(f"{what}, {_step(scores)}", *student(slopes(scores)), results.unit(task), SIDES["worse"][task])]


def _step(scores: pd.DataFrame) -> str:
    """What a slope is counted by."""
    return "a doubling of the speech" if scores.columns[0].endswith(" min") else "a further language"


def step_worse(results: Results, experiment: str, system: str, tasks: Sequence[str]) -> list[Part]:
    """Largest loss at any step of the variants, in any task; intervals are widened, for the largest is looked at."""
    steps = []
    for task in tasks:
        means = _means(results.languages(experiment, system, task))
        steps += [(task, -SIGN[task] * means[[a, b]].diff(axis=1)[b]) for a, b in itertools.pairwise(means.columns)]
    found = [(*student(change, LEVEL / len(steps)), results.unit(task)) for task, change in steps]
    value, _, _, unit = max(found)
    ends = (max(f[i] for f in found) for i in (1, 2))
    return [Part(f"{system}, largest loss of {len(steps)} steps (of {unit})", value, *ends, "points", "above")]


def _gains(results: Results, experiment: str, method: str, task: str) -> pd.DataFrame:
    """What a strong pruning gains, in per cent of the expert's score, by language and variant.

    The share kept is the one that is best for the other languages, so that choosing it on the test clips does not
    flatter the gain.
    """
    names = results.scores(experiment, task)["system"].unique()
    found = [(name, match) for name in names if (match := SWEPT.fullmatch(name)) and match["system"] == method]
    kept = [results.languages(experiment, name, task) for name, match in found if float(match["x"]) <= STRONG]
    if not kept:
        raise NotRunError(f"{experiment} has no rows of {method}")
    whole = results.languages(experiment, UNPRUNED, task)
    gains = SIGN[task] * np.stack(
        [100 * (scores[whole.columns] / whole - 1) for scores in kept]
    )  # [ratio, language, variant]
    others = gains.sum(axis=1, keepdims=True) - gains
    best = np.take_along_axis(gains, others.argmax(axis=0)[None], axis=0)[0]
    return pd.DataFrame(best, index=whole.index, columns=whole.columns)


def pruning(results: Results, experiment: str, method: str, task: str = "asr") -> list[Part]:
    """Gain of the best strong pruning over the whole expert, averaged over the variants."""
    gains = _gains(results, experiment, method, task)
    return [Part(f"gain by {method}, {results.unit(task)}", *student(gains.mean(axis=1)), "%", "above")]


def pruning_trend(results: Results, experiment: str, method: str, task: str = "asr") -> list[Part]:
    """Slope of that gain over the variants."""
    gains = _gains(results, experiment, method, task)
    return [Part(f"gain by {method}, {_step(gains)}", *student(slopes(gains)), "%", "above")]


def pruning_more(results: Results, experiment: str, first: tuple[str, str], second: tuple[str, str]) -> list[Part]:
    """Difference of the gains of two pairs of method and task."""
    other, one = (_gains(results, experiment, *which).mean(axis=1) for which in (second, first))
    names = [f"{method}, {results.unit(task)}" for method, task in (first, second)]
    return [Part(f"gain by {names[0]} − by {names[1]}", *student(one - other), "%", "above")]
