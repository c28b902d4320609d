"""What a system changes in each language: paired differences from one other system, cell by cell."""

from collections.abc import Sequence
from dataclasses import asdict

from speechmerge.evaluation.resampling import compare
from speechmerge.evaluation.scoring import Scores

from .plans import Cell, Plan

OTHERS = "others"  # in the place of a language: all cells that took no part in a training


def compared(plan: Plan, scores: Sequence[dict[Cell, Scores]]) -> list[dict]:
    """Compare every system with the one that the experiment's field ``by_language`` names.

    Args:
        plan: of the experiment; without that field there is nothing to compare.
        scores: of each of the plan's systems, by cell.

    Returns:
        Rows ``system, against, task, language, variant, seed, difference, ci_low, ci_high, p_value``, with a line for
        each language, for ``pooled`` (all cells the table is about) and for ``others`` (all it is tested on besides).
    """
    against = plan.experiment.by_language
    # A system without training has the first seed only, and is what models of every seed are compared with.
    known = {(s.system, s.variant): found for s, found in reversed(list(zip(plan.systems, scores, strict=True)))}
    rows = []
    for system, found in zip(plan.systems, scores, strict=True):
        other = known.get((against, system.variant))
        if other is None or system.system == against:
            continue
        for (task, language), cells in _groups(plan, found).items():
            row = {"system": system.system, "against": against, "task": task, "language": language}
            row |= {"variant": system.variant, "seed": system.seed}
            rows.append(row | asdict(compare([found[c] for c in cells], [other[c] for c in cells])))
    return rows


def _groups(plan: Plan, found: dict[Cell, Scores]) -> dict[tuple[str, str], list[Cell]]:
    """Cells that are compared together, by task and language or name of the group."""
    groups = {}
    for task in dict.fromkeys(cell.task for cell in found):
        own = [cell for cell in found if cell.task == task]
        groups |= {(task, cell.name): [cell] for cell in own}
        for name, among in (("pooled", plan.cells), (OTHERS, plan.also)):
            if cells := [cell for cell in own if cell in among]:
                groups[task, name] = cells
    return groups
