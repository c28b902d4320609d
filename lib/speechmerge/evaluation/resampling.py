"""How sure a score is: bootstrap intervals, and the paired comparison of two systems on the same utterances."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ScoringError
from .scoring import Scores

RESAMPLES = 10_000


@functools.lru_cache(maxsize=32)
def _draws(n: int, seed: int, index: int) -> np.ndarray:
    """How often each of ``n`` utterances is redrawn, ``[RESAMPLES, n]``: the same for every system.

    Counts are about one, so 16 bits hold them; 32 of these arrays are kept, more than a table has cells, for systems
    are scored one after another.
    """
    return np.random.default_rng([seed, index]).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.uint16)


@functools.lru_cache(maxsize=256)
def _resampled(scores: Scores, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Redraw the utterances of one language; numerators and denominators, each ``[RESAMPLES]``."""
    return scores.resampled(_draws(len(scores.ids), seed, index))


def resampled_rates(
    scores: Sequence[Scores], *, macro: bool = False, seed: int = 0, places: Sequence[int] | None = None
) -> np.ndarray:
    """Bootstrap rates, shape ``[RESAMPLES]``: utterances are redrawn within each language.

    Args:
        scores: one entry per language; the same seed redraws the same utterances for every system.
        macro: average the languages' rates instead of pooling their words; BLEU is always averaged.
        seed: of the resampling.
        places: of the languages in a longer list whose draws they take; their places here if not given.
    """
    places = range(len(scores)) if places is None else places
    tops, bottoms = zip(*(_resampled(one, seed, i) for i, one in zip(places, scores, strict=True)), strict=True)
    if macro:
        return np.mean([t / np.maximum(b, 1) for t, b in zip(tops, bottoms, strict=True)], axis=0)
    return np.sum(tops, axis=0) / np.maximum(np.sum(bottoms, axis=0), 1)


def pooled(scores: Sequence[Scores]) -> float:
    """All errors over all reference words; the mean of the languages' BLEU, as a fraction."""
    return weighted([one.rate for one in scores], [one.weight for one in scores])


def weighted(rates: Sequence[float], weights: Sequence[float]) -> float:
    """Mean of rates by their weights: reference words for error rates, one a language for BLEU."""
    return sum(rate * weight for rate, weight in zip(rates, weights, strict=True)) / max(1, sum(weights))


def dev_error(rates: Mapping[str, float]) -> float:
    """Return what choices on dev data minimise: the error of a model that does one task or both.

    It is the word error rate pooled over languages; for translation one minus the mean BLEU; the mean of the two where
    a model does both.

    Args:
        rates: by task, as :func:`pooled` returns them.
    """
    return sum(1 - rate if task == "st" else rate for task, rate in rates.items()) / len(rates)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of bootstrap samples."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """Paired difference of two systems on the same utterances: first minus second, as a fraction."""

    difference: float
    ci_low: float
    ci_high: float
    p_value: float


def compare(first: Sequence[Scores], second: Sequence[Scores]) -> Comparison:
    """Paired bootstrap of the pooled rates; negative means a lower word error rate, or a lower BLEU, of the first.

    The p-value is two-sided: twice the smaller share of resamples on either side of zero.

    Raises:
        ScoringError: the systems were scored on different utterances or with different normalisers.
    """
    if len(first) != len(second):
        raise ScoringError(f"the systems were scored on {len(first)} and {len(second)} languages; score both on all.")
    for a, b in zip(first, second, strict=True):
        check_alike(a, b)
    return comparison(pooled(first) - pooled(second), resampled_rates(first) - resampled_rates(second))


def check_alike(first: Scores, second: Scores) -> None:
    """Refuse scores of different utterances or with different normalisers."""
    if first.ids != second.ids or first.normaliser != second.normaliser:
        raise ScoringError(
            f"the systems were not scored alike: {len(first.ids)} and {len(second.ids)} utterances, normalisers "
            f"{first.normaliser!r} and {second.normaliser!r}; score both on the same references."
        )


def comparison(difference: float, samples: np.ndarray) -> Comparison:
    """Return a difference with the interval and the p-value that its bootstrap samples, ``[R]``, give."""
    below, above = ((np.sum(side) + 1) / (len(samples) + 1) for side in (samples <= 0, samples >= 0))
    return Comparison(difference, *interval(samples), float(min(1.0, 2 * min(below, above))))
