"""Committed results as the tests of claims read them: scores in points, by language, and intervals over languages.

Points are per cent of WER and BLEU from 0 to 100, and differences keep their own sign: a positive one means more
errors, or a better translation.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy import stats

from speechmerge.errors import StudyError
from speechmerge.evaluation.scoring import METRICS

from ..figures.style import AVERAGE
from ..study import experiments, store
from ..tables.outcomes import with_scores

UNITS = {task: metric.upper() for task, metric in METRICS.items()}
SIGN = {"asr": -1, "st": 1}  # of a change of the score for the better
SIDES = {  # where a difference lies if the first system is what is claimed
    "better": {"asr": "below", "st": "above"},
    "worse": {"asr": "above", "st": "below"},
    "equal": {"asr": "within", "st": "within"},
}
LEVEL = 0.05
COLUMNS = (*store.IDENTITY, "wer", "bleu", "ci_low", "ci_high")  # of rows, that claims are about
Z95 = NormalDist().inv_cdf(0.975)


class NotRunError(StudyError):
    """The rows that a claim needs are not there."""


class NotTestableError(StudyError):
    """The experiments of the profile cannot tell, whatever their rows say."""


class Results:
    """The committed results of a profile, as the tests read them; trainings of the first seed."""

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self._read: dict[str | tuple[str, str], pd.DataFrame] = {}  # statistics by name, rows by experiment and task

    @cached_property
    def _tasks(self) -> dict[str, list[str]]:
        return {name: described.tasks for name, described in experiments.experiments().items()}

    def rows(self, experiment: str, task: str) -> pd.DataFrame:
        """Return the rows of one task and of the first seed, with ``score, low, high`` in points.

        Raises:
            NotTestableError: the experiment has no such task.
            NotRunError: there are no such rows.
        """
        if (experiment, task) in self._read:
            return self._read[experiment, task]
        if task not in self._tasks[experiment]:
            raise NotTestableError(f"{experiment} is not run with {'translation' if task == 'st' else 'transcription'}")
        found = pd.DataFrame(store.measured(self.profile, experiment), columns=list(COLUMNS))
        found = found[found["task"] == task]
        if found.empty:
            raise NotRunError(f"{experiment} has no rows")
        found = with_scores(found[found["seed"] == found["seed"].min()])
        self._read[experiment, task] = found.astype({"score": float, "low": float, "high": float})
        return self._read[experiment, task]

    def average(self, experiment: str, system: str, task: str) -> float:
        """Return a system's score over all languages: pooled over words, or the mean BLEU."""
        rows = self.rows(experiment, task)
        whole = rows[(rows["system"] == system) & (rows["language"] == AVERAGE[task])]
        if len(whole) != 1:
            raise NotRunError(f"{experiment} has no average of {system}")
        return float(whole["score"].iloc[0])

    def languages(self, experiment: str, system: str, task: str = "asr") -> pd.DataFrame:
        """Return a system's scores by language (index) and variant (columns), averages left out.

        Raises:
            NotRunError: there are none.
        """
        rows = self.rows(experiment, task)
        rows = rows[(rows["system"] == system) & (rows["domain"] != "all")]
        if rows.empty:
            raise NotRunError(f"{experiment} has no rows of {system}")
        return rows.pivot(index="language", columns="variant", values="score")

    def _statistics(self, name: str) -> pd.DataFrame:
        if name not in self._read:
            found = store.lines(self.profile, name)
            if not found:
                raise NotRunError(f"there are no comparisons {name}")
            self._read[name] = pd.DataFrame(found)
        return self._read[name]

    def changes(self, experiment: str, system: str, against: str, task: str = "asr") -> pd.DataFrame:
        """Return paired differences in each language, in points: index language, columns ``difference, low, high``.

        Raises:
            NotRunError: the two were not compared language by language.
        """
        found = self._statistics(f"{experiment}.by_language")
        found = found[(found["system"] == system) & (found["against"] == against) & (found["task"] == task)]
        found = found[(found["seed"] == found["seed"].min()) & ~found["language"].isin(["pooled", "others"])]
        if found.empty:
            raise NotRunError(f"{experiment} has no comparison of {system} and {against} by language")
        points = 100 * found.set_index("language")[["difference", "ci_low", "ci_high"]]
        return points.rename(columns={"ci_low": "low", "ci_high": "high"})

    def groups(self, experiment: str) -> pd.DataFrame:
        """Return averages over groups of cells and their paired differences, of the first seed.

        Raises:
            NotRunError: there are none.
        """
        found = self._statistics(f"{experiment}.groups")
        return found[found["seed"] == found["seed"].min()]

    def group_average(self, experiment: str, group: str, system: str) -> float:
        """Return a system's mean error over a group of cells.

        Raises:
            NotRunError: there is no such row.
        """
        found = self.groups(experiment).query("kind == 'average' and group == @group and system == @system")
        if len(found) != 1:
            raise NotRunError(f"{experiment} has no average of {system}, {group}")
        return 100 * float(found["wer"].iloc[0])

    def group_paired(self, experiment: str, group: str, system: str, against: str) -> tuple[float, float, float]:
        """Return the paired difference of two systems over a group and its interval, whichever was subtracted.

        Raises:
            NotRunError: the two were not compared.
        """
        found = _paired(self.groups(experiment).query("kind == 'paired' and group == @group"), system, against)
        if len(found) != 1:
            raise NotRunError(f"{experiment} has no paired comparison of {system} and {against}, {group}")
        [(value, low, high)] = found[["difference", "low", "high"]].astype(float).itertuples(index=False)
        return value, low, high

    def paired(self, experiment: str, system: str, against: str, task: str) -> pd.DataFrame:
        """Return paired differences in points, a line a variant and seed, whichever of the two was subtracted.

        Raises:
            NotRunError: the two were not compared.
        """
        found = self._statistics(f"{experiment}.paired")
        found = _paired(found[found["task"] == task], system, against)
        if found.empty:
            raise NotRunError(f"{experiment} has no paired comparison of {system} and {against}")
        return found


def _paired(found: pd.DataFrame, system: str, against: str) -> pd.DataFrame:
    """Return the comparisons of two systems, ``difference, low, high`` in points, whichever was subtracted."""
    own, sign = found[(found["system"] == system) & (found["against"] == against)], 100
    if own.empty:
        own, sign = found[(found["system"] == against) & (found["against"] == system)], -100
    ends = sign * own[["ci_low", "ci_high"]]
    return own.assign(difference=sign * own["difference"], low=ends.min(axis=1), high=ends.max(axis=1))


def gain(difference: Sequence[float], score: float, task: str = "asr") -> tuple[float, float, float]:
    """Return a difference and the ends of its interval as a gain in per cent of a score, which is taken as exact.

    Raises:
        NotTestableError: the score is zero.
    """
    if not score:
        raise NotTestableError("the score to compare with is zero, of which nothing is a percentage")
    value, *ends = (100 * SIGN[task] * x / score for x in difference)
    return value, min(ends), max(ends)


def student(values: Sequence[float], level: float = LEVEL) -> tuple[float, float, float]:
    """Mean of a few units and the ends of its interval by Student's t distribution.

    Raises:
        NotTestableError: there are fewer than two units.
    """
    n = len(values)
    if n < 2:
        raise NotTestableError("one language is no sample of languages")
    quantile = stats.t.ppf(1 - level / 2, n - 1)
    mean, half = float(np.mean(values)), float(quantile * np.std(values, ddof=1) / math.sqrt(n))
    return mean, mean - half, mean + half
