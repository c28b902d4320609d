"""The race for the best merge: all methods on some of the speech first, then the promising ones on all of it.

What is asked next depends on the answers alone, never on the clock or on how much budget is left: a search that is cut
short has tried the first so many of the merges that a longer one tries. So the number of evaluations and the seed
decide what comes out.

What is minimised is the mean, over all speech, of the dev loss beside a reference: that of the expert whose speech it
is, and the base's for speech that must be kept. A ratio, because nats a token differ several-fold between languages; an
arithmetic mean, because a speech that a merge ruins should weigh more than a little gained on the others.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..merging import searching
from . import methods
from .updates import Candidate

SOME, ALL = "some", "all"  # of the clips that choose
LENGTH = 0.9  # of the best sum of two or five experts, beside the root mean square of the experts' own lengths
HOPELESS, BEHIND = 0.15, 0.05  # of the least mean loss: how far behind a method is given up, or not refined
FINALISTS = 4  # methods that go on to all clips
CLOSER = 1.25  # factor between neighbouring λ on all clips
GROWN, TURNS = 0.5, 3  # how strongly weights answer to losses, and how often


class Spent(Exception):
    """No evaluation is left."""


@dataclass(frozen=True)
class Trial:
    """One merge measured: dev losses in nats a token for each speech, and their mean beside the references."""

    candidate: Candidate
    scaling: float
    fidelity: str
    losses: tuple[float, ...]
    score: float

    @property
    def usable(self) -> bool:
        """Whether all its losses are numbers."""
        return math.isfinite(self.score)


Ask = Callable[[Candidate, float, str], Trial]
Norm = Callable[[Candidate], float]


def search(
    names: Sequence[str], ask: Ask, norm: Norm, ratios: Callable[[Trial], list[float]], *, length: float, seed: int
) -> bool:
    """Try merges until nothing worth trying is left, or ``ask`` raises :class:`Spent`.

    Args:
        names: of the methods, in order.
        ask: measures a candidate at a λ on some or all clips, and remembers it.
        norm: of a candidate's update; 0 where there is none, for it cannot be made.
        ratios: of a trial's losses beside the references, one for each expert (the mean over its speech).
        length: of the experts' updates, their root mean square.
        seed: of random methods.

    Returns:
        Whether it came to its end.
    """
    race = _Race(ask, norm, ratios)
    try:
        race.run([methods.first(name, seed) for name in names], LENGTH * length)
    except Spent:
        return False
    return True


class _Race:
    def __init__(self, ask: Ask, norm: Norm, ratios: Callable[[Trial], list[float]]) -> None:
        self.ask, self.norm, self.ratios = ask, norm, ratios
        self.best: dict[str, dict[Candidate, Trial]] = {SOME: {}, ALL: {}}

    def run(self, candidates: Sequence[Candidate], length: float) -> None:
        guesses = {}
        for candidate in candidates:
            if norm := self.norm(candidate):
                longer = methods.LONGER.get(candidate.method, 1.0)
                guesses[candidate] = searching.rounded(longer * length / norm)
                self._ask(candidate, guesses[candidate], SOME)
        for candidate in self._ranked(SOME):
            if self._near(candidate, SOME, HOPELESS):
                self._descend(candidate, guesses[candidate], SOME)
        for candidate in self._ranked(SOME)[:FINALISTS]:
            self._closer(candidate)
        for candidate in self._ranked(ALL)[:FINALISTS]:
            self._vary(candidate)
        for candidate in self._ranked(ALL)[:FINALISTS]:
            if methods.weighed(candidate):
                self._weigh(candidate)
        for candidate in self._ranked(SOME)[FINALISTS:]:
            if self._near(candidate, SOME, BEHIND):
                self._closer(candidate)

    def _ask(self, candidate: Candidate, scaling: float, fidelity: str) -> float:
        trial, best = self.ask(candidate, scaling, fidelity), self.best[fidelity]
        if trial.usable and (candidate not in best or trial.score < best[candidate].score):
            best[candidate] = trial
        return trial.score

    def _ranked(self, fidelity: str) -> list[Candidate]:
        """Return candidates by their best trial so far, the best first."""
        return sorted(self.best[fidelity], key=lambda c: self.best[fidelity][c].score)

    def _near(self, candidate: Candidate, fidelity: str, behind: float) -> bool:
        best = self.best[fidelity]
        return best[candidate].score <= (1 + behind) * min(trial.score for trial in best.values())

    def _descend(self, candidate: Candidate, start: float, fidelity: str, step: float = searching.STEP) -> None:
        searching.descend(
            lambda scaling: self._ask(candidate, scaling, fidelity),
            start,
            step=step,
            worth=lambda: self._near(candidate, fidelity, BEHIND),
        )

    def _closer(self, candidate: Candidate) -> None:
        """Look for λ on all clips, around the best on some of them."""
        if candidate not in self.best[ALL]:
            self._descend(candidate, self.best[SOME][candidate].scaling, ALL, CLOSER)

    def _vary(self, candidate: Candidate) -> None:
        """Try other parameters on some clips, at the length of the best update; go on with what is better."""
        length = self.best[ALL][candidate].scaling * self.norm(candidate)
        for other in methods.variants(candidate):
            if self.norm(other) > 0 and other not in self.best[SOME]:
                self._descend(other, searching.rounded(length / self.norm(other)), SOME)
                found = self.best[SOME].get(other)
                if found and found.score < self.best[SOME][candidate].score:
                    self._closer(other)

    def _weigh(self, candidate: Candidate) -> None:
        """Give more weight to experts whose speech lags behind, as long as it helps on all clips."""
        weights = [1.0] * len(self.ratios(self.best[ALL][candidate]))
        held = candidate
        for _ in range(TURNS if len(weights) > 1 else 0):
            ratios = self.ratios(self.best[ALL][held])
            mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
            weights = [w * (r / mean) ** GROWN for w, r in zip(weights, ratios, strict=True)]
            weights = [round(w * len(weights) / math.fsum(weights), 3) for w in weights]
            other = candidate.but(weights=weights)
            if other in self.best[ALL] or not self.norm(other):
                return
            before = self.best[ALL][held]
            scaling = searching.rounded(before.scaling * self.norm(held) / self.norm(other))
            if self._ask(other, scaling, ALL) >= before.score:
                return
            held = other


def finalists(trials: Sequence[Trial], most: int) -> list[Trial]:
    """Return the trials that are decoded: the least mean losses on all clips, then on some; never the plain average.

    Two of one candidate must have λ that decoding can tell apart, and of one method there are at most two.
    """
    usable = [trial for trial in trials if trial.usable and trial.candidate != methods.AVERAGE]
    kept: list[Trial] = []
    for trial in sorted(usable, key=lambda t: (t.fidelity != ALL, t.score)):
        alike = [
            k for k in kept
            if k.candidate == trial.candidate and abs(math.log(k.scaling / trial.scaling)) < searching.APART
        ]  # fmt: skip
        family = [k for k in kept if k.candidate.method == trial.candidate.method]
        if not alike and len(family) < 2:
            kept.append(trial)
    return kept[:most]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the points that no other one beats on both sides; less is better on both."""
    order = sorted(range(len(points)), key=lambda i: points[i])
    lowest = itertools.accumulate((points[i][1] for i in order), min, initial=math.inf)
    return [i for i, least in zip(order, lowest, strict=False) if points[i][1] < least]
