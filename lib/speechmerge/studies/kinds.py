"""Kinds of experiments: tables of systems, once or for each of their variants, and statistics of task vectors."""

from itertools import combinations

from ..errors import StudyError, nearest
from .planning import Table
from .plans import Plan

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
    else:
        raise StudyError(f"{plan.name}: nothing varies with {vary!r}.{nearest(vary, VARIATIONS)}")
    if "describe" in plan.experiment:
        Table(plan, plan.cells, seeds).described(plan.experiment["describe"])


def _task_vectors(plan: Plan, seeds: list[int]) -> None:
    """Steps that describe the experts' task vectors."""
    Table(plan, plan.cells, seeds).described(plan.experiment.get("describe", []))


KINDS = {"systems": _systems, "task_vectors": _task_vectors}
