"""Committed results as the tests of claims read them: scores in points, by language, and intervals over languages.

Points are per cent of WER and BLEU from 0 to 100, and differences keep their own sign: a positive one means more
errors, or a better translation.
"""

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy import stats

from speechmerge.errors import StudyError
from speechmerge.evaluation.scoring import METRICS

from ..figures.style import AVERAGE
from ..study import experiments, protocol
from ..tables import evidence, results

UNITS = {task: metric.upper() for task, metric in METRICS.items()}
SIGN = {"asr": -1, "st": 1}  # of a change of the score for the better
SIDES = {  # where a difference lies if the first system is what is claimed
    "better": {"asr": "below", "st": "above"},
    "worse": {"asr": "above", "st": "below"},
    "equal": {"asr": "within", "st": "within"},
}
LEVEL = 0.05
MARGIN = 0.04  # of the score: a smaller change counts as none, for the paper's abstract calls 4 % of BLEU a gain
Z95 = NormalDist().inv_cdf(0.975)


class NotRunError(StudyError):
    """The rows that a claim needs are not there."""


class NotTestableError(StudyError):
    """The experiments of the profile cannot tell, whatever their rows say."""


class Results:
    """The committed results of a profile, as the tests read them."""

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self._read = functools.cache(functools.partial(results.read, profile))

    def _frame(self, experiment: str) -> pd.DataFrame:
        try:
            return self._read(experiment)
        except StudyError as error:
            raise NotRunError(f"{experiment} has no rows") from error

    def unit(self, task: str) -> str:
        """Return the unit of a task's score."""
        return UNITS[task]

    def margin(self, task: str, score: float) -> float:
        """Return the difference, in points, below which a system counts as equal to one with this score."""
        return MARGIN * score

    def scores(self, experiment: str, task: str = "asr") -> pd.DataFrame:
        """Return the scores of one task and of the first seed.

        Raises:
            NotTestableError: the experiment has no such task.
            NotRunError: there are no such scores.
        """
        if task not in experiments.experiments()[experiment].tasks:
            raise NotTestableError(f"{experiment} is not run with {'translation' if task == 'st' else 'transcription'}")
        found = self._frame(experiment)
        found = found[(found["task"] == task) & found["against"].isna()]
        if found.empty:
            raise NotRunError(f"{experiment} has no rows")
        return results.first_seed(found)

    def score(self, experiment: str, system: str, task: str = "asr", place: str | None = None) -> float:
        """Return a system's score at a place, or over all languages: pooled over words, or the mean BLEU.

        Raises:
            NotRunError: there is none.
        """
        found = self.scores(experiment, task)
        found = found[(found["system"] == system) & (found["place"] == (place or AVERAGE[task]))]
        if len(found) != 1:
            raise NotRunError(f"{experiment} has no average of {system}" + (f", {place}" if place else ""))
        return float(found["value"].iloc[0])

    def languages(self, experiment: str, system: str, task: str = "asr") -> pd.DataFrame:
        """Return a system's scores by language (index) and variant (columns), averages left out.

        Raises:
            NotRunError: there are none.
        """
        found = self.scores(experiment, task)
        found = found[(found["system"] == system) & (found["of"] == "place")]
        if found.empty:
            raise NotRunError(f"{experiment} has no rows of {system}")
        return found.pivot(index="place", columns="variant", values="value")

    def changes(self, experiment: str, system: str, against: str) -> pd.DataFrame:
        """Return paired differences in the WER of each language: index language, columns ``value, low, high``.

        Raises:
            NotRunError: the two were not compared language by language.
        """
        found = self._frame(experiment)
        found = found[(found["system"] == system) & (found["against"] == against) & (found["task"] == "asr")]
        found = results.first_seed(found[found["of"] == "place"])
        if found.empty:
            raise NotRunError(f"{experiment} has no comparison of {system} and {against} by language")
        return found.set_index("place")[["value", "low", "high"]]

    def paired(
        self, experiment: str, system: str, against: str, task: str = "asr", place: str | None = None
    ) -> pd.DataFrame:
        """Return paired differences ``value, low, high``, a line a variant and seed, whichever was subtracted.

        Raises:
            NotRunError: the two were not compared.
        """
        frame = self._frame(experiment)
        found, turned = (results.pair(frame, *two, task, place) for two in ((system, against), (against, system)))
        if found.empty:
            found = results.turned(turned)
        if found.empty:
            where = f", {place}" if place else ""
            raise NotRunError(f"{experiment} has no paired comparison of {system} and {against}{where}")
        return found.sort_values("seed", kind="stable")


class Judged(Results):
    """As the protocol measured them: its primary metric, on all or on novel clips, all training seeds together."""

    def __init__(self, profile: str, clips: str = evidence.ALL) -> None:
        self.profile = profile
        self._read = functools.cache(functools.partial(evidence.frame, profile, clips=clips))

    def unit(self, task: str) -> str:
        """Return the unit of a task's score."""
        return "WER" if task == "asr" else "chrF"

    def margin(self, task: str, score: float) -> float:
        """Return the difference, in points, below which two systems count as equal, whatever their scores."""
        metric = evidence.primary(task)
        return evidence.SHOWN[metric][1] * protocol.read().margin(metric)


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
