"""The choice among merges that were decoded: the least error of those that keep what must be kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import methods
from .lab import Lab
from .plan import Plan
from .search import ALL, Trial, finalists, front
from .speech import CHOOSE
from .systems import AVERAGE, BASE, System, merged

WALK = 3  # merges that are decoded beyond the finalists where none of those keeps what must be kept


@dataclass(frozen=True)
class Heard:
    """A merge decoded on the clips that choose.

    Attributes:
        system: the merge.
        trial: its losses; ``None`` where it was not measured.
        errors: of each speech, as fractions.
        excess: by how much more than allowed it loses on the speech that must be kept, at worst; not above 0 where it
            keeps to all of it.
    """

    system: System
    trial: Trial | None
    errors: tuple[float, ...]
    excess: float

    @property
    def error(self) -> float:
        """Mean error over all speech, each counting alike."""
        return sum(self.errors) / len(self.errors)

    @property
    def rank(self) -> tuple[float, float]:
        """What is to be small: the error, and among equals the mean loss."""
        return round(self.error, 9), self.trial.score if self.trial else math.inf

    @property
    def keeps(self) -> bool:
        """Whether it loses no more than is allowed."""
        return self.excess <= 1e-12


@dataclass(frozen=True)
class Choice:
    """What was decoded, in order, and which of it was chosen."""

    heard: tuple[Heard, ...]
    chosen: Heard
    allowed: Mapping[int, float]
    references: Mapping[int, float]

    @property
    def kept(self) -> bool:
        """Whether the chosen merge keeps what must be kept."""
        return self.chosen.keeps


def choose(lab: Lab, allowed: Mapping[int, float], most: int, planned: Plan) -> Choice:
    """Decode the best merges and the plain average on the clips that choose, and choose one.

    Where none of them keeps what must be kept, others of the front between mean loss and loss on that speech are
    decoded, going halfway towards what keeps most, and back.

    Args:
        lab: after the search.
        allowed: by the number of a speech, how much error it may gain beside its reference.
        most: finalists; where the machine is slower than planned, the first of them.
        planned: what decoding was planned to take.
    """
    references = {i: lab.errors_of(_reference(lab, i), i) for i in allowed}

    def hear(system: System, trial: Trial | None) -> Heard:
        errors = tuple(lab.errors(system, CHOOSE))
        excess = max((errors[i] - references[i] - loss for i, loss in allowed.items()), default=0.0)
        return Heard(system, trial, errors, excess)

    heard = [hear(AVERAGE, next((t for t in lab.trials if t.candidate == methods.AVERAGE), None))]
    needed = planned.per_clip * sum(len(one.choose) for one in lab.speeches) + planned.reporting
    for number, trial in enumerate(finalists(lab.trials, most)):
        if number and lab.late(f"finalist {number}", needed):
            break
        heard.append(hear(merged(trial), trial))
    if allowed and not any(one.keeps for one in heard):
        _walk(lab, heard, sorted(allowed), hear)
    keeping = [one for one in heard if one.keeps]
    chosen = min(keeping, key=lambda one: one.rank) if keeping else min(heard, key=lambda one: one.excess)
    return Choice(tuple(heard), chosen, allowed, references)


def _reference(lab: Lab, number: int) -> System:
    expert = lab.speeches[number].expert
    return BASE if expert is None else lab.expert(expert)


def _walk(lab: Lab, heard: list[Heard], kept: Sequence[int], hear) -> None:
    """Decode along the front, by halves, until a merge keeps what must be kept; then back towards less mean loss."""
    trials = [t for t in lab.trials if t.usable]
    trials = [t for t in trials if t.fidelity == ALL] or trials
    sides = [(t.score, max(t.losses[i] / lab.references[i] for i in kept)) for t in trials]
    path = [trials[i] for i in front(sides)]
    known = {one.system.key: one for one in heard}
    low, high, left = 0, len(path) - 1, WALK
    while low <= high:
        middle = (low + high + 1) // 2
        system = merged(path[middle])
        if system.key not in known:
            if not left:
                return
            left -= 1
            known[system.key] = hear(system, path[middle])
            heard.append(known[system.key])
        low, high = (low, middle - 1) if known[system.key].keeps else (middle + 1, high)


def ranked(choice: Choice) -> list[Heard]:
    """Return what was decoded, the chosen first, the others by whether they keep to what is allowed and their error."""
    others = [one for one in choice.heard if one is not choice.chosen]
    return [choice.chosen, *sorted(others, key=lambda one: (not one.keeps, one.rank))]


def path_of(trials: Sequence[Trial], trial: Trial | None) -> list[Trial]:
    """Return the trials of the same candidate by λ, on all clips where there are such of that λ."""
    if trial is None:
        return []
    own: dict[float, Trial] = {}
    for one in trials:
        if one.candidate == trial.candidate and (one.scaling not in own or one.fidelity == ALL):
            own[one.scaling] = one
    return [own[scaling] for scaling in sorted(own)]
