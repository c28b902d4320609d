"""Tables of the chapter about directions: effective rank by part of the network, overlaps, λ against rank."""

import re
from collections.abc import Sequence

import pandas as pd

from .results import ordered
from .vector_tables import BLOCKS

EXPERTS = "one expert"  # the mean over all of them


def pooled(spectrum: pd.DataFrame, merges: Sequence[str]) -> pd.DataFrame:
    """Give all experts one name, so that what is drawn or averaged is one expert beside the merges.

    Args:
        spectrum: rows of kind ``spectrum`` of :func:`speechmerge.merging.task_vectors.describe`.
        merges: the names among its experts that are merges, in the order to be shown.
    """
    named = spectrum.assign(expert=spectrum["expert"].where(spectrum["expert"].isin(merges), EXPERTS))
    return ordered(named, expert=[EXPERTS, *merges])


def effective_ranks(spectrum: pd.DataFrame) -> pd.DataFrame:
    """Return the mean effective rank of each model's matrices by part of the network, in per cent of the full rank.

    Args:
        spectrum: what :func:`pooled` returns.
    """
    inside = spectrum[spectrum["block"].isin(BLOCKS)]
    part = inside["stack"] + " " + inside["block"]
    share = 100 * inside["effective_rank"] / inside["rank"]
    table = inside.assign(part=part, share=share).groupby(["expert", "part"], sort=False)["share"].mean().unstack()
    table["all"] = share.groupby(inside["expert"], sort=False).mean()
    return table.loc[list(dict.fromkeys(spectrum["expert"]))].rename_axis(index=None, columns="% of full rank")


def overlaps(found: pd.DataFrame) -> pd.DataFrame:
    """Return how far the leading directions of two experts overlap, by part of the network, and what chance gives.

    Args:
        found: rows of kind ``overlap`` of :func:`speechmerge.merging.overlaps.describe`.

    Returns:
        Columns ``reads, by chance, writes, by chance``, in per cent, the mean over all pairs; one line a part.
    """
    inside = found[found["block"].isin(BLOCKS)]
    part = (inside["stack"] + " " + inside["block"]).rename(None)
    columns = {"reads": "reads", "chance_reads": "by chance", "writes": "writes", "chance_writes": "by chance "}
    return (100 * inside.groupby(part, sort=False)[list(columns)].mean()).rename(columns=columns)


def by_scaling(chosen: pd.DataFrame, methods: dict[str, str]) -> pd.DataFrame:
    """Return the dev error of sweeps at every λ that was tried, as :func:`speechbook.figures.curves.lines` draws it.

    Args:
        chosen: statistics ``NAME.chosen`` of an experiment that sweeps a parameter and tunes λ.
        methods: merge method of each swept system.

    Returns:
        Columns ``panel, system, method, x, value, low, high``: a panel a λ, a line a swept system; no intervals.
    """
    lines = []
    for row in chosen[chosen["kind"] == "tune"].to_dict("records"):
        step = re.match(r"tune (?P<system>.+) \w+=(?P<x>[\d.e+-]+) ", row["step"])
        if step and step["system"] in methods:
            place = {"system": step["system"], "method": methods[step["system"]], "x": float(step["x"])}
            for tried in row["tried"]:
                lines.append(place | {"scaling": tried["scaling"], "value": 100 * tried["error"]})
    table = pd.DataFrame(lines).sort_values(["scaling", "system", "x"], ascending=[True, False, True], kind="stable")
    table["panel"] = table.pop("scaling").map("λ = {:g}".format)
    return table.assign(low=float("nan"), high=float("nan")).reset_index(drop=True)
