"""chrF2 that can be resampled: sacrebleu gives scores through its public interface, but not what they are summed from.

Popović, chrF: character n-gram F-score for automatic MT evaluation, WMT 2015; orders 1 to 6, recall weighs double,
white space left out, case kept: sacrebleu's defaults, whose corpus score comes out.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

ORDERS = range(1, 7)
BETA = 2  # recall weighs this many times as much as precision


def character_matches(hypothesis: str, reference: str) -> np.ndarray:
    """Count n-grams of the hypothesis, of the reference, and those they share, shape ``[6, 3]``.

    As sacrebleu has it, those of the hypothesis count only where the reference is long enough to hold any.
    """
    said, wanted = ("".join(text.split()) for text in (hypothesis, reference))
    counts = []
    for n in ORDERS:
        one, other = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (said, wanted))
        counts.append((one.total() if other else 0, other.total(), (one & other).total()))
    return np.array(counts)


def chrf(counts: np.ndarray) -> np.ndarray:
    """Compute chrF2, a fraction, from summed counts ``[..., 6, 3]``: F of the mean precision and the mean recall.

    The means are over the orders of which both sides hold n-grams.
    """
    said, wanted, shared = np.moveaxis(counts, -1, 0)
    held = (said > 0) & (wanted > 0)
    orders = np.maximum(held.sum(-1), 1)
    precision, recall = ((held * shared / np.maximum(of, 1)).sum(-1) / orders for of in (said, wanted))
    return (1 + BETA**2) * precision * recall / np.maximum(BETA**2 * precision + recall, np.finfo(float).tiny)


@dataclass(frozen=True, eq=False)
class CharacterMatches:
    """Translations of one language as chrF sees them: what the functions of :mod:`.resampling` ask of scores.

    Attributes:
        ids: of the utterances.
        counts: of n-grams, shape ``[n, 6, 3]``.
        normaliser: what the texts went through before they were compared.
    """

    ids: tuple[str, ...]
    counts: np.ndarray
    normaliser: str

    weight = 1  # chrF is averaged over languages, not pooled

    @property
    def rate(self) -> float:
        """The whole's chrF as a fraction."""
        return float(chrf(self.counts.sum(0)))

    def only(self, kept: np.ndarray) -> "CharacterMatches":
        """Leave out utterances; ``kept`` is true for those that stay, shape ``[n]``."""
        ids = tuple(one for one, stays in zip(self.ids, kept, strict=True) if stays)
        return CharacterMatches(ids, self.counts[kept], self.normaliser)

    def resampled(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return chrF of redrawn utterances, and ones; ``draws`` counts each utterance, shape ``[R, n]``."""
        return chrf(np.tensordot(draws.astype(float), self.counts, axes=1)), np.ones(len(draws))
