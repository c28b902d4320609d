"""The Matched Pairs Sentence-Segment Word Error test (MAPSSWE): do two systems make as many word errors as each other?

Errors close together depend on each other, those far apart hardly do. So utterances are cut into segments where both
systems are right again, and a segment is one observation. The test is Gillick and Cox's (Some statistical issues in the
comparison of speech recognition algorithms, ICASSP 1989), cut and numbers are NIST's (Pallett, Fisher and Fiscus, Tools
for the analysis of benchmark speech recognition tests, ICASSP 1990; ``mtchprs.c`` and ``statdist.c`` of ``sc_stats``):

- two errors, of whichever system, are in different segments if at least :data:`BUFFER` reference words stand between
  them that both systems have right, with no error among them; the ends of an utterance end a segment too;
- stretches that both have right are no observations;
- ``z`` is the mean over segments of first minus second errors, by its standard error with ``n - 1`` in the variance;
  ``z`` is taken for standard normal, which needs many segments.

We deviate in two places. Alignments are jiwer's, where every edit costs one; NIST's ``sclite`` charges 4 for a
substitution and 3 for an insertion or deletion. So it takes a deletion and an insertion where jiwer may take two
substitutions: the same errors at other words, which can join or part segments. And where all segments differ alike
``sc_stats`` gives ``z = 0``; here ``z`` is infinite.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import jiwer
import numpy as np

BUFFER = 2  # words that both systems have right part two segments: NIST's value


@dataclass(frozen=True)
class MatchedPairs:
    """Outcome of the test.

    Attributes:
        segments: in which either system has an error.
        difference: mean over segments of the first system's errors minus the second's, in words.
        z: the difference by its standard error.
        p_value: two-sided.
    """

    segments: int
    difference: float
    z: float
    p_value: float


def mapsswe(errors: np.ndarray) -> MatchedPairs:
    """Test whether two systems differ in errors per segment; with one segment or none there is no evidence, ``p = 1``.

    Args:
        errors: of both systems, shape ``[segments, 2]``, as :func:`segmented` sums them; those of several
            languages are joined for a test over all of them.
    """
    differences = errors[:, 0] - errors[:, 1]
    n = len(differences)
    mean = float(differences.mean()) if n else 0.0
    if n < 2 or not mean:
        return MatchedPairs(n, mean, 0.0, 1.0)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    z = mean / error if error else math.copysign(math.inf, mean)
    return MatchedPairs(n, mean, z, 2 * NormalDist().cdf(-abs(z)))


def error_places(references: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
    """Errors of one system at each place of normalised texts, utterance after utterance: what it is compared by.

    Gaps between words and words take turns, as :func:`_places` has them; between utterances stand words without errors,
    enough to part segments.
    """
    apart = np.zeros(2 * BUFFER + 1, int)
    found = [part for pair in zip(references, hypotheses, strict=True) for part in (_places(*pair), apart)]
    return np.concatenate([np.zeros(0, int), *found])


def _places(reference: str, hypothesis: str) -> np.ndarray:
    """Errors at each place of a reference of ``n`` words, shape ``[2n + 1]``: gaps are even, words odd.

    A gap counts the words inserted there; a word counts one if it is substituted or deleted.
    """
    found = np.zeros(2 * len(reference.split()) + 1, int)
    if not reference:
        found[0] = len(hypothesis.split())
        return found
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        if chunk.type == "insert":
            found[2 * chunk.ref_start_idx] += chunk.hyp_end_idx - chunk.hyp_start_idx
        elif chunk.type != "equal":
            found[2 * chunk.ref_start_idx + 1 : 2 * chunk.ref_end_idx : 2] = 1
    return found


def segmented(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sum the errors of two systems, as :func:`error_places` has them, over segments; shape ``[segments, 2]``."""
    both = np.stack([first, second], axis=1)
    wrong = np.flatnonzero(both.any(axis=1))
    between = wrong[1:] // 2 - (wrong[:-1] + 1) // 2  # words, all of them right, from one error to the next
    starts = np.flatnonzero(np.concatenate([[True], between >= BUFFER]))
    return np.add.reduceat(both[wrong], starts) if len(wrong) else both[:0]
