"""Verdicts that take the training seed into account: one bootstrap for all systems of a table, intervals, equivalence.

A difference between two systems has two sources of chance: the clips it was measured on and the seeds the systems were
trained with. Both are redrawn, and they are crossed: all seeds are tested on the same clips. A resample draws as many
seeds as there are, with replacement, then the clips within each language, and takes the mean rate over the drawn seeds
(Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007). All systems share all draws, so that seeds and
clips pair up in differences, and averages of differences come from one joint bootstrap.

No bootstrap of crossed data is exact. On made-up counts with three seeds, 95 % intervals covered the truth in 84 % of
cases where the seeds decided nearly all, in 92 to 98 % where seeds and clips did, in over 99 % where seeds did nothing.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ScoringError, nearest
from .resampling import RESAMPLES, check_alike, interval, pooled, resampled_rates
from .scoring import Scores

Tested = Mapping[Hashable, Scores]  # scores of a model by language, or by what else a table's cells are
HOLDS, FAILS, EQUIVALENT, OPEN = "holds", "does not hold", "no difference larger than the margin", "inconclusive"
SIGNS = {"lower": -1, "higher": 1}


@dataclass(frozen=True)
class Bootstrap:
    """The draws that all systems of one table share.

    A system is given as the scores of each of its training seeds, in the order of the seeds. One whose training has
    no seed, such as the pretrained model, is repeated for each.

    Attributes:
        cells: of the table, in an order that is the same for all systems: a cell's place decides its clips' draws.
        seeds: number of training seeds of every system; with one, only clips are redrawn, and the samples are those of
            :func:`~speechmerge.evaluation.resampling.resampled_rates`.
        macro: average the cells' rates instead of pooling their words; BLEU and chrF are always averaged.
        seed: of the resampling.
    """

    cells: tuple[Hashable, ...]
    seeds: int = 1
    macro: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a table without training seeds."""
        if self.seeds < 1:
            raise ScoringError(f"the table has {self.seeds} training seeds; expected at least one.")

    def rate(self, system: Sequence[Tested]) -> tuple[float, np.ndarray]:
        """Return a system's rate over all cells it was tested on, the mean over its seeds, and samples ``[R]`` of it.

        Raises:
            ScoringError: it does not have the table's number of seeds, its seeds were not scored alike, or it was
                tested on no cell or on one that the table does not have.
        """
        if len(system) != self.seeds:
            raise ScoringError(
                f"a system has scores of {len(system)} training seeds, the table has {self.seeds}; train the missing "
                "ones, or repeat the scores of a system that is not trained."
            )
        cells = _same_cells(system)
        if not cells or not set(cells) <= set(self.cells):
            raise ScoringError(f"a system was tested on {_names(cells)}; expected cells among {_names(self.cells)}.")
        _check_alike(system)
        places = [self.cells.index(cell) for cell in cells]
        scores = [[tested[cell] for cell in cells] for tested in system]
        samples = [resampled_rates(one, macro=self.macro, seed=self.seed, places=places) for one in scores]
        rates = [np.mean([s.rate for s in one]) if self.macro else pooled(one) for one in scores]
        return float(np.mean(rates)), self._over_seeds(np.array(samples))

    def difference(self, *pairs: tuple[Sequence[Tested], Sequence[Tested]]) -> tuple[float, np.ndarray]:
        """Return the mean over pairs of the first system's rate minus the second's, and samples ``[R]`` of it.

        Give both to :func:`~speechmerge.evaluation.resampling.comparison` for an interval and a p-value.

        Raises:
            ScoringError: as for :meth:`rate`, two of the systems were not scored alike, or there is no pair.
        """
        if not pairs:
            raise ScoringError("there is no pair of systems to compare; give at least one.")
        _check_alike(tested for pair in pairs for system in pair for tested in system)
        found = []
        for first, second in pairs:
            _same_cells([*first, *second])
            (rate, samples), (other, others) = self.rate(first), self.rate(second)
            found.append((rate - other, samples - others))
        return float(np.mean([d for d, _ in found])), np.mean([s for _, s in found], axis=0)

    def _over_seeds(self, samples: np.ndarray) -> np.ndarray:
        """Mean of redrawn seeds, ``[R]``, of their samples ``[S, R]``.

        Means of S values redrawn from themselves vary ``(S - 1) / S`` times as much as they should, a third too little
        for three seeds; what seeds add is stretched to make up for it.
        """
        if self.seeds == 1:
            return samples[0]
        # The 1 at the end keeps this stream apart from those of the clips.
        rng = np.random.default_rng([self.seed, self.seeds, 1])
        weights = rng.multinomial(self.seeds, np.full(self.seeds, 1 / self.seeds), size=RESAMPLES).T / self.seeds
        centre = samples.mean(axis=0)
        return centre + np.sqrt(self.seeds / (self.seeds - 1)) * ((weights * samples).sum(axis=0) - centre)


def _same_cells(models: Sequence[Tested]) -> list[Hashable]:
    """Return the cells that all models were tested on, in the first one's order."""
    for tested in models[1:]:
        if tested.keys() != models[0].keys():
            raise ScoringError(
                f"the systems were tested on {_names(models[0])} and on {_names(tested)}; test both on all."
            )
    return list(models[0])


def _check_alike(models: Iterable[Tested]) -> None:
    known = {}
    for cell, scores in (item for tested in models for item in tested.items()):
        check_alike(known.setdefault(cell, scores), scores)


def _names(cells: Iterable[Hashable]) -> str:
    return ", ".join(map(str, cells)) or "nothing"


def seed_deviation(differences: np.ndarray) -> float:
    """Standard deviation that the training seed gives a difference, in the unit of the differences.

    Args:
        differences: of pairs of systems, each pair measured with the same seeds; shape ``[pairs, seeds]``. Deviations
            within pairs are pooled, for three seeds alone say little.

    Raises:
        ScoringError: there is only one seed.
    """
    pairs, seeds = differences.shape
    if seeds < 2:
        raise ScoringError(f"{pairs} differences were measured with {seeds} training seed; at least two are needed.")
    return float(np.sqrt(np.mean(np.var(differences, axis=1, ddof=1))))


def widened(samples: np.ndarray, deviation: float) -> np.ndarray:
    """Add to samples ``[R]`` of a difference with one seed what other training seeds would do to it.

    That is taken for normal, with mean zero and the given standard deviation, and independent of the clips; so an
    interval of half width ``h`` grows to about ``sqrt(h² + (1.96 · deviation)²)``. The deviation is taken for known:
    one that was estimated from few seeds makes the interval rather too narrow.

    Args:
        samples: of the difference, or of the average of differences, that the deviation belongs to.
        deviation: as :func:`seed_deviation` finds it elsewhere.

    Raises:
        ScoringError: the deviation is negative or not finite.
    """
    if not 0 <= deviation < np.inf:
        raise ScoringError(f"the standard deviation between seeds is {deviation}; expected a number of at least 0.")
    # The 2 at the end keeps this stream apart from those of clips and seeds.
    return samples + deviation * np.random.default_rng([0, 0, 2]).standard_normal(len(samples))


def verdict(samples: np.ndarray, direction: str, margin: float) -> str:
    """Judge the claim that a difference is lower, or higher, than zero.

    Equivalence is looked at first, for a difference that is certain but smaller than the margin is none that counts: by
    two one-sided tests at 5 % (Schuirmann 1987), that is, the 90 % interval lies within the margin on either side of
    zero. Otherwise the claim holds, or does not, if the 95 % interval lies wholly on its side of zero or on the other.

    Args:
        samples: of the difference, shape ``[R]``.
        direction: ``"lower"`` or ``"higher"``.
        margin: in the unit of the difference; the largest difference that counts as none.

    Returns:
        :data:`HOLDS`, :data:`FAILS`, :data:`EQUIVALENT` or :data:`OPEN`.

    Raises:
        ScoringError: the margin is not above zero, or the direction is unknown.
    """
    if direction not in SIGNS:
        raise ScoringError(f"the direction of a claim is {direction!r}.{nearest(direction, SIGNS)}")
    if not 0 < margin < np.inf:
        raise ScoringError(f"the margin of a claim is {margin}; expected a number above 0.")
    low, high = np.percentile(samples, [5, 95])
    if -margin < low and high < margin:
        return EQUIVALENT
    low, high = sorted(SIGNS[direction] * end for end in interval(samples))
    return HOLDS if low > 0 else FAILS if high < 0 else OPEN
