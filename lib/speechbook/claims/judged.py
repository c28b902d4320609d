"""Results measured by the protocol, as the tests of claims read them: its primary metric, on all or on novel clips."""

import functools

from ..study import protocol
from ..study.protocol import ALL
from ..tables import evidence
from .results import Results


class Judged(Results):
    """As :class:`Results`, from the tables of measures and comparisons; all training seeds together."""

    def __init__(self, profile: str, clips: str = ALL) -> None:
        self.profile = profile
        self._read = functools.cache(functools.partial(evidence.frame, profile, clips=clips))

    def unit(self, task: str) -> str:
        """Return the unit of a task's score."""
        return "WER" if task == "asr" else "chrF"

    def margin(self, task: str, score: float) -> float:
        """Return the difference, in points, below which two systems count as equal, whatever their scores."""
        metric = evidence.primary(task)
        return evidence.SHOWN[metric][1] * protocol.read().margin(metric)
