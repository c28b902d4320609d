"""Kinds of experiments: tables of systems, once or for each of their variants, and statistics of task vectors."""

from collections.abc import Sequence
from itertools import combinations

from speechmerge.errors import StudyError

from .planning import Table
from .plans import Cell, Plan

# What becomes of rows of the token table that no training text uses.
ROWS: dict[str, dict] = {
    "trained": {},
    "kept": {"unseen_rows": "kept"},  # they never move
    "set back": {"reset": True},  # they are trained, and the base's are put in their place before anything is merged
}


def _systems(plan: Plan, seeds: Sequence[int]) -> None:
    """Steps of a table that compares systems, once or for each of its variants."""
    vary = plan.experiment.vary
    if vary is None:
        Table(plan, plan.cells, seeds).rows()
    elif vary == "subsets":
        names = dict.fromkeys(cell.name for cell in plan.cells)
        for subset in (subset for size in _sizes(plan, len(names)) for subset in combinations(names, size)):
            group = tuple(cell for cell in plan.cells if cell.name in subset)
            Table(plan, group, seeds, variant="+".join(subset)).rows()
    elif vary == "unseen_rows":
        for name, changes in ROWS.items():
            Table(plan, plan.cells, seeds, variant=f"unseen rows {name}", **changes).rows()
    elif vary == "minutes":
        for value in plan.values("vary", vary):
            Table(plan, plan.cells, seeds, variant=f"{value:g} min", minutes=value).rows()
    else:
        names = list(dict.fromkeys(cell.name for cell in plan.cells))
        for count in _sizes(plan, len(names)):
            group = tuple(cell for cell in plan.cells if cell.name in names[:count])
            Table(plan, group, seeds, variant=f"first {count}", rate_of=plan.cells).rows()
        plan.groups |= _of_counts(plan, names)
    if plan.experiment.describe:
        Table(plan, plan.cells, seeds).described(plan.experiment.describe)


def _sizes(plan: Plan, most: int) -> tuple[int, ...]:
    """Return how many of a table's languages or domains its variants have.

    Raises:
        StudyError: more than there are.
    """
    sizes = plan.values("vary", plan.experiment.vary)
    if max(sizes) > most:
        raise StudyError(f"{plan.name}: `vary: {plan.experiment.vary}` has {max(sizes)}, but there are {most} of them.")
    return sizes


def _of_counts(plan: Plan, names: list[str]) -> dict[str, tuple[Cell, ...]]:
    """Name groups of a table for growing numbers: the first, all, and those before the last step and added by it.

    Raises:
        StudyError: the profile has fewer than two numbers.
    """
    counts = plan.values("vary", "counts")
    if len(counts) < 2:
        raise StudyError(f"{plan.name}: the profile's `vary: counts` has {list(counts)}; give two numbers or more.")
    inside = {f"first {count}": names[:count] for count in (counts[0], *counts[-2:])}
    inside["added last"] = names[counts[-2] : counts[-1]]
    return {group: tuple(cell for cell in plan.cells if cell.name in among) for group, among in inside.items()}


def _task_vectors(plan: Plan, seeds: Sequence[int]) -> None:
    """Steps that describe the experts' task vectors."""
    Table(plan, plan.cells, seeds).described(plan.experiment.describe)


KINDS = {"systems": _systems, "task_vectors": _task_vectors}
