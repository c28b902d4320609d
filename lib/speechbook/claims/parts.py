"""A claim is measured in parts, each a number with an interval, and the parts together give its verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

from speechmerge.evaluation.inference import EQUIVALENT, FAILS, HOLDS, OPEN

from ..figures.numbers import signed

NOT_TESTABLE, NOT_RUN = "not testable here", "not run here"
VERDICTS = (HOLDS, FAILS, EQUIVALENT, OPEN, NOT_TESTABLE, NOT_RUN)
MARKS = {1: "✓", -1: "✗", 0: "○"}  # a part for the claim, against it, undecided
SAME = "≈"  # a difference was claimed, and there is none larger than the margin
LOOKS = {  # colour and sign of a verdict in a picture
    HOLDS: ("#117733", MARKS[1]),
    FAILS: ("#882255", MARKS[-1]),
    EQUIVALENT: ("#2F8FC0", SAME),
    OPEN: ("#d2d2d2", MARKS[0]),
    NOT_TESTABLE: ("#eeeeee", "–"),
    NOT_RUN: ("#f8f8f8", "…"),
}


@dataclass(frozen=True)
class Part:
    """One measured quantity and what the claim says about it.

    Attributes:
        what: the quantity, for readers.
        value: measured, in the unit.
        low: lower end of its 95 % interval.
        high: upper end.
        unit: ``WER`` or ``BLEU`` (points), ``%`` …
        claimed: ``"below"`` or ``"above"`` the bound, or ``"within"`` the bound on either side of zero.
        bound: see ``claimed``.
        note: what else a reader should know, put behind the interval.
        same: a difference is claimed, and the protocol's verdict is that there is none larger than the margin.
        counted: nothing is estimated, so that no interval is shown.
    """

    what: str
    value: float
    low: float
    high: float
    unit: str
    claimed: str
    bound: float = 0.0
    note: str = ""
    same: bool = False
    counted: bool = False

    @property
    def outcome(self) -> int:
        """1 if the interval lies where the claim says, -1 if it lies wholly where the claim denies it, else 0."""
        if self.same:
            return 0
        if self.claimed == "within":
            inside = -self.bound <= self.low and self.high <= self.bound
            return 1 if inside else -int(self.low > self.bound or self.high < -self.bound)
        below, above = self.high < self.bound, self.low > self.bound
        return int(below) - int(above) if self.claimed == "below" else int(above) - int(below)

    @property
    def favour(self) -> float:
        """How far the least favourable end of the interval lies on the claim's side of the bound."""
        if self.claimed == "within":
            return self.bound - max(abs(self.low), abs(self.high))
        return self.bound - self.high if self.claimed == "below" else self.low - self.bound

    def __str__(self) -> str:
        mark = SAME if self.same else MARKS[self.outcome]
        if self.counted:
            return f"{mark} {self.what}: {self.value:.3g} {self.unit}{self.note}"
        digits = 1 if self.high - self.low >= 1 else 2
        value, low, high = (signed(number, digits) for number in (self.value, self.low, self.high))
        return f"{mark} {self.what}: {value} {self.unit} ({low} to {high}){self.note}"


def verdict(parts: Sequence[Part]) -> str:
    """A claim holds if all its parts do; it does not hold if one interval lies wholly on the other side.

    If it fails only by parts without a difference larger than the margin, that is the verdict.
    """
    outcomes = [part.outcome for part in parts]
    if all(outcome == 1 for outcome in outcomes):
        return HOLDS
    if -1 in outcomes:
        return FAILS
    return EQUIVALENT if all(part.same or part.outcome == 1 for part in parts) else OPEN


def lines(parts: Sequence[Part], *, most: int = 6) -> list[str]:
    """Return what was measured, a line a part; of many parts the counts and, for each unit, the least favourable."""
    if len(parts) <= most:
        return [str(part) for part in parts]
    outcomes = [part.outcome for part in parts]
    counts = f"{outcomes.count(1)} for the claim, {outcomes.count(-1)} against it, {outcomes.count(0)} undecided"
    hardest = [min((p for p in parts if p.unit == unit), key=lambda p: p.favour) for unit in units(parts)]
    return [f"{len(parts)} comparisons: {counts}; the least favourable:", *(str(part) for part in hardest)]


def units(parts: Sequence[Part]) -> list[str]:
    """Units of the parts, each once, in order."""
    return list(dict.fromkeys(part.unit for part in parts))
