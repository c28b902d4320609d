"""Tables of the chapter about directions: effective rank by part of the network, overlaps, dev loss against λ."""

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from ..study import store
from .results import ordered
from .vector_tables import BLOCKS

EXPERTS = "one expert"  # the mean over all of them
LONGEST = 2.0  # λ that is drawn; at longer ones the loss of every merge is so high that it hides the rest


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


def by_scaling(profile: str, experiment: str, methods: Mapping[str, str]) -> pd.DataFrame:
    """Return the dev loss of sweeps at every λ tried, as :func:`speechbook.figures.curves.lines` draws it.

    Args:
        profile: whose results.
        experiment: that sweeps a share of the rank and searches λ by loss.
        methods: merge method of each swept system.

    Returns:
        Columns ``panel, system, method, x`` (λ), ``value`` (nats a token) and ``low, high``, which are empty: a panel a
        share, a line a swept system.
    """
    lines = []
    for step, tried in store.choices(profile, experiment).items():
        swept = re.match(r"tune (?P<system>.+) \w+=(?P<share>[\d.e+-]+) ", step)
        if swept and swept["system"] in methods:
            line = {"system": swept["system"], "method": methods[swept["system"]], "share": float(swept["share"])}
            lines += [line | {"x": one["scaling"], "value": one["loss"]} for one in tried if one["scaling"] <= LONGEST]
    table = pd.DataFrame(lines).sort_values("x")
    table = ordered(table, share=sorted(table["share"]), system=list(methods))
    return table.assign(
        panel=table.pop("share").map(lambda share: f"{100 * share:g} % of the rank"),
        low=float("nan"),
        high=float("nan"),
    )


def apart(tried: pd.DataFrame) -> pd.Series:
    """Return how far the least loss of the first system lies above that of the second, a line a share.

    Args:
        tried: what :func:`by_scaling` returns of two systems.
    """
    first, second = dict.fromkeys(tried["system"])
    least = tried.groupby(["panel", "system"], sort=False)["value"].min().unstack()
    return least[first] - least[second]
