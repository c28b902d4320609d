"""Results measured by the protocol, as the tests of claims read them: its primary metric, on all or on novel clips."""

from functools import cached_property

import pandas as pd

from speechmerge.evaluation.inference import EQUIVALENT

from ..study import experiments, protocol, store
from ..study.measures import ALL, OWN
from ..tables import evidence
from .results import NotRunError, Results, paired_rows


class Judged(Results):
    """As :class:`Results`, from the tables of measures and comparisons; all training seeds together."""

    def __init__(self, profile: str, clips: str = ALL) -> None:
        super().__init__(profile)
        self.clips = clips

    @cached_property
    def _rules(self) -> protocol.Protocol:
        return protocol.read()

    def unit(self, task: str) -> str:
        """Return the unit of a task's score."""
        return "WER" if task == "asr" else "chrF"

    def margin(self, task: str, score: float) -> float:
        """Return the difference, in points, below which two systems count as equal, whatever their scores."""
        metric = evidence.primary(task)
        return evidence.SHOWN[metric][1] * self._rules.margin(metric)

    def _table(self, kind: str, experiment: str, task: str) -> pd.DataFrame:
        """Return the lines of one of the two tables that are about the task and these clips, in points."""
        self._check_task(experiment, task)
        if (kind, experiment, task) not in self._read:
            if not store.lines(self.profile, f"{experiment}.{kind}"):
                raise NotRunError(f"{experiment} has no rows")
            read = evidence.measures if kind == "measures" else evidence.compared
            self._read[kind, experiment, task] = read(self.profile, experiment, task=task, clips=self.clips)
        return self._read[kind, experiment, task]

    def rows(self, experiment: str, task: str) -> pd.DataFrame:
        """Return a line a system, variant and language of the experiment's own, with ``score, low, high``.

        Raises:
            NotTestableError: the experiment has no such task.
            NotRunError: there are no such rows.
        """
        found = self._table("measures", experiment, task)
        return found[found["group"].isin(self._languages(experiment))].assign(language=found["group"], domain="")

    def _languages(self, experiment: str) -> tuple[str, ...]:
        """Return the languages (or domains) of an experiment's own cells."""
        return experiments.profiles()[self.profile].sets[experiments.experiments()[experiment].languages]

    def average(self, experiment: str, system: str, task: str) -> float:
        """Return a system's score over all of the experiment's own cells."""
        return self._value(experiment, OWN, system, task)

    def _value(self, experiment: str, group: str, system: str, task: str = "asr") -> float:
        found = self._table("measures", experiment, task).query("group == @group and system == @system")
        if len(found) != 1:
            raise NotRunError(f"{experiment} has no average of {system}, {group}")
        return float(found["score"].iloc[0])

    def changes(self, experiment: str, system: str, against: str, task: str = "asr") -> pd.DataFrame:
        """Return differences in each language that the two were compared in: ``difference, low, high`` in points."""
        found = self._pairs(experiment, system, against, task)
        found = found[found["group"].isin(self._languages(experiment))]
        found = found.set_index("group")[["difference", "low", "high"]]
        if found.empty:
            raise NotRunError(f"{experiment} has no comparison of {system} and {against} by language")
        return found

    def groups(self, experiment: str) -> pd.DataFrame:
        """Return the averages over groups of cells."""
        return self._table("measures", experiment, "asr")

    def group_average(self, experiment: str, group: str, system: str) -> float:
        """Return a system's error over a group of cells."""
        return self._value(experiment, group, system)

    def group_paired(self, experiment: str, group: str, system: str, against: str) -> tuple[float, float, float]:
        """Return the difference of two systems over a group and its interval."""
        found = self._pairs(experiment, system, against, "asr", group)
        [(value, low, high)] = found[["difference", "low", "high"]].astype(float).itertuples(index=False)
        return value, low, high

    def paired(self, experiment: str, system: str, against: str, task: str) -> pd.DataFrame:
        """Return the differences over the experiment's own cells, a line a variant; ``same``: within the margin."""
        found = self._pairs(experiment, system, against, task, OWN)
        return found.assign(seed=found["seeds"].map(min), same=found["verdict"] == EQUIVALENT)

    def _pairs(self, experiment: str, system: str, against: str, task: str, group: str | None = None) -> pd.DataFrame:
        """Return what was found of two systems, whichever was subtracted; of one group, if it is named."""
        found = self._table("comparisons", experiment, task)
        found = paired_rows(found, system, against)
        found = found if group is None else found[found["group"] == group]
        if found.empty:
            place = f", {group}" if group else ""
            raise NotRunError(f"{experiment} has no comparison of {system} and {against}{place}")
        return found
