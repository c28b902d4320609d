"""Settings of decoding: what decides which hypotheses come out. Nothing here computes."""

import math
from dataclasses import dataclass

from ..errors import ScoringError, nearest
from ..precisions import PRECISIONS

# Raise when a change alters hypotheses. Version 3, in which rows leave the batch, differs from version 2 in rounding
# alone: rows measured with version 2 stay valid as measured, but are not mixed with new ones.
VERSION = 3
STOPS = ("finished", "bound")
MAX_TOKENS = 224  # half of Whisper's decoder context, its own limit for one window


@dataclass(frozen=True)
class Decoding:
    """Settings that decide which hypotheses come out.

    Attributes:
        beams: 1 is greedy; more is beam search.
        stop: when a beam search ends: ``"finished"``, as in Whisper's reference code, when as many hypotheses have
            finished as there are beams; ``"bound"``, when no unfinished one can still score higher.
        precision: ``"bf16"``, ``"fp32"`` or ``"auto"`` (bf16 where it pays).
        tokens_per_second: a clip of ``s`` seconds may give ``20 + tokens_per_second * s`` tokens, at most 224; far
            above any speech rate, it only ends runaway repetition early.
        guard: whether a hypothesis that ran away is replaced by sampling at ever higher temperatures, as in Whisper's
            reference code.
    """

    beams: int = 1
    stop: str = "finished"
    precision: str = "auto"
    tokens_per_second: float = 20.0
    guard: bool = False

    def __post_init__(self) -> None:
        """Refuse words that are no setting, and numbers with which nothing is decoded."""
        for name, known in (("precision", PRECISIONS), ("stop", STOPS)):
            value = getattr(self, name)
            if value not in known:
                raise ScoringError(f"{name} is {value!r}.{nearest(value, known)}")
        beams, pace = self.beams, self.tokens_per_second
        if not isinstance(beams, int) or isinstance(beams, bool) or beams < 1:
            raise ScoringError(f"beams is {beams!r}; expected a whole number from 1 up.")
        if not isinstance(pace, int | float) or isinstance(pace, bool) or not 0 < pace < math.inf:
            raise ScoringError(f"tokens_per_second is {pace!r}; expected a number above 0.")

    def limit(self, seconds: float) -> int:
        """Return the most tokens that a clip of so many seconds may give."""
        return min(MAX_TOKENS, int(20 + self.tokens_per_second * seconds))
