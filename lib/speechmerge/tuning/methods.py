"""Which merges are tried, in which order, and which parameters beside λ are worth a second look.

The order is that of the project's own comparisons of all methods on five languages and on ten domains: simple sums
first, for they are cheap and rarely far from the best, then those that share out or flatten singular directions, which
led both comparisons, then those that thin updates.
"""

from collections.abc import Sequence
from typing import Any

from ..errors import MethodError, nearest
from ..merging.methods import Method, find, registry
from .updates import Candidate

AVERAGE = Candidate("weight_average")  # what every choice is compared with
DEFAULT = (
    "task_arithmetic",
    "iso_c",
    "tsvm",
    "subspace_boosting",
    "karcher",
    "iso_cts",
    "ties",
    "lines",
    "breadcrumbs",
    "lors",
)
READINGS: dict[str, dict[str, Any]] = {  # where another value than the default did better in the comparisons
    "tsvm": {"orthogonalise": "newton_schulz"},
    "karcher": {"space": "deltas"},
    "multi_slerp": {"space": "deltas"},
    "slerp": {"space": "deltas"},
}
LONGER = {  # length of a method's best update beside that of the best sum, as found; 1 where nothing is said
    "iso_c": 2.1,
    "iso_cts": 2.1,
    "subspace_boosting": 2.2,
    "tsvm": 1.15,
    "karcher": 0.8,
    "ties": 1.3,
    "breadcrumbs": 1.5,
    "lines": 0.65,
}
MORE: dict[str, list[dict[str, Any]]] = {  # tried around the best merges
    "ties": [{"density": 0.4}, {"density": 0.7}, {"density": 0.1}],
    "breadcrumbs": [{"density": 0.5, "outliers": 0.05}, {"density": 0.8, "outliers": 0.02}],
    "breadcrumbs_ties": [{"density": 0.5, "outliers": 0.05}],
    "lors": [{"density": 0.6}, {"rank_ratio": 0.05}, {"density": 0.2}, {"rank_ratio": 0.1}],
    "mp": [{"density": 0.6}, {"density": 0.2}],
    "svp": [{"rank_ratio": 0.05}, {"rank_ratio": 0.1}],
    "lines": [{"beta": 0.25}, {"beta": 1.0}],
    "iso_cts": [{"common": 0.5}, {"common": 0.95}],
    "tsvm": [{"orthogonalise": "procrustes"}],
    "subspace_boosting": [{"boost": 0.05}, {"boost": 0.002}],
    "boosted_tsvm": [{"boost": 0.1}, {"boost": 0.6}],
    "dare": [{"density": 0.8}, {"density": 0.3}],
    "della": [{"density": 0.9}, {"density": 0.4}],
    "della_linear": [{"density": 0.9}, {"density": 0.4}],
    "consensus": [{"strictness": 0.2}, {"strictness": 0.6}],
    "pcb": [{"density": 0.3}, {"density": 0.05}],
    "sce": [{"density": 0.3}, {"density": 0.6}],
}
LAST = ("wudi", "optmerge")  # minutes a merge; no better in the comparisons


def usable(method: Method) -> bool:
    """Tell whether a method can be tuned here: it needs the models alone, and makes one model of them."""
    return not method.data and method.family != "per_task"


def chosen(names: Sequence[str] | None, experts: int) -> tuple[str, ...]:
    """Return the methods to try, in order.

    Args:
        names: of methods; ``["all"]`` for every one that needs the models alone, ``None`` for :data:`DEFAULT`.
        experts: how many are merged.

    Raises:
        MethodError: a name is unknown, given twice, or of a method that cannot be tuned here.
    """
    every = [name for name, method in registry().items() if usable(method) and method.experts in (None, experts)]
    if names is None or list(names) == ["all"]:
        wanted = DEFAULT if names is None else (*DEFAULT, *every)
        found = tuple(dict.fromkeys(name for name in wanted if name in every and name not in LAST))
        return found if names is None else (*found, *(name for name in LAST if name in every))
    for number, name in enumerate(names):
        if name == "all" or name not in registry():
            raise MethodError(f"There is no merge method {name!r}.{nearest(name, ['all', *registry()])}")
        if name in names[:number]:
            raise MethodError(f"--methods names {name} twice; name each method once.")
        if name not in every:
            method = find(name)
            needs = f"merges {method.experts} experts only" if usable(method) else "needs more than the models"
            needs = "makes one model for each expert" if method.family == "per_task" else needs
            raise MethodError(f"{name} cannot be tuned here, for it {needs}; leave it out of --methods.")
    return tuple(names)


def first(name: str, seed: int) -> Candidate:
    """Return what is tried of a method first."""
    drawn = {"seed": seed} if find(name).stochastic else {}
    return Candidate.of(name, READINGS.get(name, {}) | drawn)


def variants(candidate: Candidate) -> list[Candidate]:
    """Return the candidate with other values of the parameters that are worth it."""
    return [candidate.but(**params) for params in MORE.get(candidate.method, [])]


def weighed(candidate: Candidate) -> bool:
    """Tell whether each expert may have a weight of its own."""
    return "weights" in find(candidate.method).parameters
