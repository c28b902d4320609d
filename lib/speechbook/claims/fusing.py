"""Tests about fused frozen models: each reads the rows of fusion beside a profile and returns measured parts."""

import math
from collections.abc import Callable, Sequence

import pandas as pd

from speechmerge.errors import StudyError

from ..figures.numbers import signed
from ..tables import fused
from .parts import Part
from .results import MARGIN, NotRunError, Results, student

OFTEN = 2 / 3  # of the cells, at least, must have the sign of the mean
Named = str | tuple[str, ...]  # an experiment, or several that are read as one


def _read(results: Results, experiment: Named, table: Callable[..., pd.DataFrame] = fused.read) -> pd.DataFrame:
    """Return the rows of an experiment, or its comparisons, with the first seed; of several, those that have rows."""
    names = (experiment,) if isinstance(experiment, str) else experiment
    try:
        found = table(results.profile, *names)
    except StudyError as error:
        raise NotRunError(f"{names[0]} has no rows") from error
    return found[found["seed"] == found["seed"].min()]


def _cells(results: Results, experiment: Named, interface: str, against: str, **only: Sequence[str]) -> pd.DataFrame:
    """Return by how much an interface lowers another's error, for each task and set, some alone."""
    compared = _read(results, experiment, fused.differences)
    found = fused.reductions(_read(results, experiment), compared, interface, against)
    for column, values in only.items():
        found = found[found[column].isin(values)]
    if len(found) < 2:
        raise NotRunError(f"{experiment} does not compare {interface} with {against} in two cells or more")
    return found


def reduction(
    results: Results, experiment: Named, interface: str, against: str, sets: Sequence[str] = ()
) -> list[Part]:
    """Relative reduction of the error over all tasks and sets: its mean, and in how many of them it is one."""
    found = _cells(results, experiment, interface, against, **({"set": sets} if sets else {}))
    where = f", {fused.named(results.profile, sets[0])}" if sets else ""
    what = f"error of {fused.title(interface)} below that of {fused.title(against)}{where}"
    mean = Part(f"{what}, mean of {len(found)} cells", *student(found["value"]), "%", "above")
    often, least = int((found["value"] > 0).sum()), math.ceil(OFTEN * len(found)) - 0.5
    share = f"cells of {len(found)} in which it is, {least + 0.5:g} claimed"  # too few decide nothing
    return [mean, Part(share, often, often, len(found), "cells", "above", least, counted=True)]


def weakest(results: Results, experiment: str, interface: str, against: str, task: str) -> list[Part]:
    """Relative reduction of the error in one task, over all sets; claimed to be a rise."""
    found = _cells(results, experiment, interface, against, task=[task])
    what = f"error of {fused.title(interface)} below that of {fused.title(against)}, {found['panel'].iloc[0]}"
    return [Part(f"{what}, mean of {len(found)} sets", *student(found["value"]), "%", "below")]


def equal(results: Results, experiment: str, interface: str, against: str) -> list[Part]:
    """Relative difference of two interfaces over all tasks and sets; claimed to lie within the margin."""
    found = _cells(results, experiment, interface, against)
    what = f"error of {fused.title(interface)} below that of {fused.title(against)}, mean of {len(found)} cells"
    return [Part(what, *student(found["value"]), "%", "within", 100 * MARGIN)]


def pair_beats_one(results: Results, experiment: str) -> list[Part]:
    """Count the tasks in which the pair that dev prefers is reliably better than the one upstream that dev prefers."""
    rows, compared = _read(results, experiment), _read(results, experiment, fused.differences)
    pairs, ones = fused.best(rows, fused.TOGETHER, 2), fused.best(rows, fused.ALONE)
    chosen = pairs.merge(ones, on="task", suffixes=("", "_one"))
    held = compared[(compared["interface"] == fused.TOGETHER) & (compared["against"] == fused.ALONE)]
    found = held.merge(chosen[["task", "set", "set_one"]], on=["task", "set"])
    found = found[found["beside"] == found["set_one"]]
    if found.empty:
        raise NotRunError(f"{experiment} holds no pair against the better of single upstreams")
    counts = (found["value"] < 0).sum(), (found["high"] < 0).sum(), len(found) - (found["low"] > 0).sum()
    told = "; ".join(f"{row.panel}: {row.models} {signed(row.value)} points" for row in found.itertuples())
    what = f"tasks of {len(found)} in which the pair has fewer errors"
    return [Part(what, *map(int, counts), "tasks", "above", math.ceil(len(found) / 2) - 0.5, f"; {told}")]


def which_over_how_many(results: Results, experiment: str, interface: str) -> list[Part]:
    """Count the tasks in which sets of one size spread wider than means of sizes lie apart; half of all is claimed."""
    rows, told, often = _read(results, experiment), [], 0
    tasks = rows[rows["interface"] == interface].groupby("panel", sort=False)
    for panel, table in tasks:
        sizes = table.groupby("size")["value"]
        spread = (sizes.max() - sizes.min())[sizes.count() > 1].mean()
        step = sizes.mean().diff().abs().mean()
        if math.isnan(spread) or math.isnan(step):
            raise NotRunError(f"{experiment} has sets of one size alone, or one set of each size")
        often += spread > step
        told.append(f"{panel}: {spread:.1f} points among sets of one size, {step:.1f} from one size to the next")
    what = f"tasks of {len(told)} in which the choice of models weighs more than their number"
    least = math.ceil(len(told) / 2) - 0.5
    return [Part(what, often, often, often, "tasks", "above", least, f"; {'; '.join(told)}", counted=True)]
