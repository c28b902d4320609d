"""What an experiment compares: paired differences of systems on all its cells, cell by cell, and on groups of cells.

An average over a group is the mean of its cells' error rates, each cell counting once, as the tables of arXiv
2603.05354 have it: the full average over ten domains and five others is then (10 · ID + 5 · OOD) / 15.

One hypothesis that runs away can outweigh a domain. Beside every average over a group and every difference of two
stands one with a cap: of each utterance at most as many errors count as it has words.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from speechmerge.evaluation.resampling import compare, comparison, interval, resampled_rates
from speechmerge.evaluation.scoring import Scores

from .plans import Cell, Plan, System

OTHERS = "others"  # in the place of a language: all cells that took no part in a training
PAIRED = ("system", "against", "task", "variant", "seed")  # what tells comparisons apart
BY_LANGUAGE = (*PAIRED, "language")
GROUPED = ("kind", "system", "against", "group", "variant", "seed")

Found = Mapping[Cell, Scores]
Key = tuple[str, str, int]  # system, variant, seed


def paired(plan: Plan, scores: Sequence[Found]) -> list[dict]:
    """Compare every system with those that the experiment names, on all cells of the table, task by task.

    Args:
        plan: of the experiment.
        scores: of each of the plan's systems, by cell.

    Returns:
        Rows ``system, against, task, variant, seed, difference, ci_low, ci_high, p_value``.
    """
    known = {_key(system): found for system, found in zip(plan.systems, scores, strict=True)}
    return [
        row
        for system, found in zip(plan.systems, scores, strict=True)
        for kind, against, other in others(plan, _key(system))
        if kind == "paired"
        for row in _rows(system, against, found, known.get(other, {}), _whole(plan, found))
    ]


def by_language(plan: Plan, scores: Sequence[Found]) -> list[dict]:
    """Compare every system with the one that the experiment's field ``by_language`` names, cell by cell.

    Returns:
        Rows as :func:`paired` has them and ``language``: a line for each language, for ``pooled`` (all cells the table
        is about) and for ``others`` (all it is tested on besides).
    """
    against = plan.experiment.by_language
    # A system without training has the first seed only, and is what models of every seed are compared with.
    known = {(s.system, s.variant): found for s, found in reversed(list(zip(plan.systems, scores, strict=True)))}
    return [
        row
        for system, found in zip(plan.systems, scores, strict=True)
        if system.system != against and (against, system.variant) in known
        for row in _rows(system, against, found, known[against, system.variant], _by_language(plan, found))
    ]


def grouped(plan: Plan, scores: Sequence[Found]) -> list[dict]:
    """Return a row for each system and group, and one for each pair of systems the experiment compares.

    A system that was not tested on all cells of a group has no row of it.

    Returns:
        Rows told apart by ``kind``:

        - ``average``: ``system, method, group, variant, seed, cells, wer, ci_low, ci_high``;
        - ``paired``: ``system, against, group, variant, seed, cells, difference, ci_low, ci_high, p_value``; the
          difference is system minus against on the same utterances;
        - ``grown``, where numbers of domains are compared: the same, with each of the system's own variants of fewer
          domains as ``against``;
        - ``capped average`` and so on: the same with a cap on the errors of an utterance.

        Rates are fractions; intervals are 95 % of the bootstrap, utterances redrawn within each cell.
    """
    return [row for cap in (False, True) for row in _grouped(plan, scores, cap)]


def others(plan: Plan, key: Key) -> Iterator[tuple[str, str, Key]]:
    """Yield what a system is compared with: the kind of comparison, its name, and its system, variant and seed."""
    system, variant, seed = key
    for against in plan.experiment.against:
        if against != system:
            yield "paired", against, (against, variant, seed)
    if plan.experiment.vary == "counts":
        variants = list(dict.fromkeys(one.variant for one in plan.systems))
        for fewer in variants[: variants.index(variant)]:
            yield "grown", fewer, (system, fewer, seed)


def _key(system: System) -> Key:
    return system.system, system.variant, system.seed


def _whole(plan: Plan, found: Found) -> dict[tuple[str, str], list[Cell]]:
    """All cells of the table, by task."""
    tasks = dict.fromkeys(cell.task for cell in found)
    return {(task, ""): [cell for cell in found if cell.task == task and cell in plan.cells] for task in tasks}


def _by_language(plan: Plan, found: Found) -> dict[tuple[str, str], list[Cell]]:
    """Cells that are compared together, by task and language or name of the group."""
    places = {}
    for task in dict.fromkeys(cell.task for cell in found):
        own = [cell for cell in found if cell.task == task]
        places |= {(task, cell.name): [cell] for cell in own}
        for name, among in (("pooled", plan.cells), (OTHERS, plan.also)):
            places[task, name] = [cell for cell in own if cell in among]
    return places


def _rows(
    system: System, against: str, found: Found, other: Found, places: Mapping[tuple[str, str], list[Cell]]
) -> Iterator[dict]:
    """Yield a comparison for each place whose cells both systems were tested on."""
    for (task, language), cells in places.items():
        if cells and all(cell in other for cell in cells):
            row = {"system": system.system, "against": against, "task": task}
            row |= ({"language": language} if language else {}) | {"variant": system.variant, "seed": system.seed}
            yield row | asdict(compare([found[cell] for cell in cells], [other[cell] for cell in cells]))


def _grouped(plan: Plan, scores: Sequence[Found], cap: bool) -> Iterator[dict]:
    """Yield averages and paired differences of every group, with a cap on the errors of an utterance or without."""
    prefix = "capped " if cap else ""
    for name, cells in plan.groups.items():
        samples = {
            _key(system): _sampled(cells, found, cap)
            for system, found in zip(plan.systems, scores, strict=True)
            if all(cell in found for cell in cells)
        }
        for system in (system for system in plan.systems if _key(system) in samples):
            rate, drawn = samples[_key(system)]
            low, high = interval(drawn)
            place = {"system": system.system, "variant": system.variant, "seed": system.seed, "group": name}
            place["cells"] = [f"{cell.name}:{cell.task}" for cell in cells]
            found = {"against": None, "method": system.method, "wer": rate, "ci_low": low, "ci_high": high}
            yield {"kind": f"{prefix}average"} | place | found
            for kind, against, other in others(plan, _key(system)):
                if other in samples:
                    found = asdict(comparison(rate - samples[other][0], drawn - samples[other][1]))
                    yield {"kind": f"{prefix}{kind}"} | place | {"against": against} | found


def _sampled(cells: tuple[Cell, ...], found: Found, cap: bool) -> tuple[float, np.ndarray]:
    """Return a system's mean rate over cells and its bootstrap samples; all systems redraw the same utterances."""
    chosen = [found[cell].capped() if cap else found[cell] for cell in cells]
    return float(np.mean([one.rate for one in chosen])), resampled_rates(chosen, macro=True)
