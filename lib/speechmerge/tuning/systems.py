"""The models that can be heard: base, experts, merges, and any other folder."""

from dataclasses import dataclass
from pathlib import Path

from . import methods
from .search import Trial
from .updates import Candidate


@dataclass(frozen=True)
class System:
    """A model that can be heard: the base, an expert, another model's folder, or a merge."""

    name: str
    expert: int | None = None
    merge: tuple[Candidate, float] | None = None
    folder: Path | None = None

    @property
    def key(self) -> str:
        """What tells its predictions from others'."""
        if self.merge:
            return f"{self.merge[0].key}-{self.merge[1]:g}"
        return self.name if self.expert is None else f"expert-{self.expert}"


BASE, AVERAGE = System("base"), System("average", merge=(methods.AVERAGE, 1.0))


def merged(trial: Trial) -> System:
    """Return the system of a trial."""
    return System(f"{trial.candidate}, λ={trial.scaling:g}", merge=(trial.candidate, trial.scaling))
