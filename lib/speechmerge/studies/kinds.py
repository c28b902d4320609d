"""Kinds of experiments: tables of systems, once or for each of their variants, and statistics of task vectors."""

from itertools import combinations

from ..errors import StudyError, nearest
from .planning import Table
from .plans import Cell, Plan

VARIATIONS = ("subsets", "counts", "minutes")


def _systems(plan: Plan, seeds: list[int]) -> None:
    """Steps of a table that compares systems, once or for each of its variants."""
    vary = plan.experiment.get("vary")
    if vary is None:
        Table(plan, plan.cells, seeds).rows()
    elif vary == "subsets":
        names = dict.fromkeys(cell.name for cell in plan.cells)
        for subset in (subset for size in plan.settings["vary"][vary] for subset in combinations(names, size)):
            group = tuple(cell for cell in plan.cells if cell.name in subset)
            Table(plan, group, seeds, variant="+".join(subset)).rows()
    elif vary == "minutes":
        for value in plan.settings["vary"][vary]:
            Table(plan, plan.cells, seeds, variant=f"{value:g} min", minutes=value).rows()
    elif vary == "counts":
        names = list(dict.fromkeys(cell.name for cell in plan.cells))
        for count in plan.settings["vary"][vary]:
            group = tuple(cell for cell in plan.cells if cell.name in names[:count])
            Table(plan, group, seeds, variant=f"first {count}", rate_of=plan.cells).rows()
        plan.groups |= _of_counts(plan, names)
    else:
        raise StudyError(f"{plan.name}: nothing varies with {vary!r}.{nearest(vary, VARIATIONS)}")
    if "describe" in plan.experiment:
        Table(plan, plan.cells, seeds).described(plan.experiment["describe"])


def _of_counts(plan: Plan, names: list[str]) -> dict[str, tuple[Cell, ...]]:
    """Name groups of a table for growing numbers: the first, all, and those before the last step and added by it.

    Raises:
        StudyError: the profile has fewer than two numbers.
    """
    counts = plan.settings["vary"]["counts"]
    if len(counts) < 2:
        raise StudyError(f"{plan.name}: the profile's `vary: counts` has {counts}; give two numbers or more.")
    inside = {f"first {count}": names[:count] for count in (counts[0], *counts[-2:])}
    inside["added last"] = names[counts[-2] : counts[-1]]
    return {group: tuple(cell for cell in plan.cells if cell.name in among) for group, among in inside.items()}


def _task_vectors(plan: Plan, seeds: list[int]) -> None:
    """Steps that describe the experts' task vectors."""
    Table(plan, plan.cells, seeds).described(plan.experiment.get("describe", []))


KINDS = {"systems": _systems, "task_vectors": _task_vectors}
