"""Averages over groups of cells that an experiment names, and paired differences between systems on each group.

An average is the mean of the cells' error rates, each cell counting once, as the tables of arXiv 2603.05354 have it:
the full average over ten domains and five others is then (10 · ID + 5 · OOD) / 15.

One hypothesis that runs away can outweigh a domain. Beside every average and difference stands one with a cap: of each
utterance at most as many errors count as it has words.
"""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from speechmerge.evaluation.resampling import comparison, interval, resampled_rates
from speechmerge.evaluation.scoring import Scores

from .plans import Cell, Plan, System

IDENTITY = ("kind", "system", "against", "group", "variant", "seed")


def grouped(plan: Plan, scores: list[dict[Cell, Scores]]) -> list[dict]:
    """Return a row for each system and group, and one for each pair of systems the experiment compares.

    Args:
        plan: whose ``groups`` name cells; a system that was not tested on all cells of a group has no row of it.
        scores: of every system of the plan, in its order.

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
    return [row for cap in (False, True) for row in _rows(plan, scores, cap)]


def _rows(plan: Plan, scores: list[dict[Cell, Scores]], cap: bool) -> Iterator[dict]:
    """Yield averages and paired differences of every group, with a cap on the errors of an utterance or without."""
    prefix = "capped " if cap else ""
    for name, cells in plan.groups.items():
        samples = {
            (s.system, s.variant, s.seed): _sampled(cells, found, cap)
            for s, found in zip(plan.systems, scores, strict=True)
            if all(cell in found for cell in cells)
        }
        for system in plan.systems:
            key = (system.system, system.variant, system.seed)
            if key in samples:
                rate, drawn = samples[key]
                low, high = interval(drawn)
                place = _place(system, name, cells)
                found = {"against": None, "method": system.method, "wer": rate, "ci_low": low, "ci_high": high}
                yield {"kind": f"{prefix}average"} | place | found
                for kind, against, other in others(plan, key):
                    if other in samples:
                        found = asdict(comparison(rate - samples[other][0], drawn - samples[other][1]))
                        yield {"kind": f"{prefix}{kind}"} | place | {"against": against} | found


def others(plan: Plan, key: tuple[str, str, int]) -> Iterator[tuple[str, str, tuple[str, str, int]]]:
    """Yield what a system is compared with: the kind of comparison, its name, and its system, variant and seed."""
    system, variant, seed = key
    for against in plan.experiment.against:
        if against != system:
            yield "paired", against, (against, variant, seed)
    if plan.experiment.vary == "counts":
        variants = list(dict.fromkeys(one.variant for one in plan.systems))
        for fewer in variants[: variants.index(variant)]:
            yield "grown", fewer, (system, fewer, seed)


def _place(system: System, group: str, cells: tuple[Cell, ...]) -> dict:
    own = {"system": system.system, "variant": system.variant, "seed": system.seed}
    return own | {"group": group, "cells": [f"{cell.name}:{cell.task}" for cell in cells]}


def _sampled(cells: tuple[Cell, ...], found: dict[Cell, Scores], cap: bool) -> tuple[float, np.ndarray]:
    """Return a system's mean rate over cells and its bootstrap samples; all systems redraw the same utterances."""
    chosen = [found[cell].capped() if cap else found[cell] for cell in cells]
    return float(np.mean([one.rate for one in chosen])), resampled_rates(chosen, macro=True)
