"""Which merge leads for which purpose, how many others do as well, and what it asks for.

The averages are those that :func:`speechbook.tables.results.averages` returns; only merges that give one model compete.
"""

from collections.abc import Mapping

import pandas as pd

from speechmerge.merging.methods import registry

from ..figures import style

# What a method needs besides the models.
SHORT = {"grams": "speech", "fishers": "labelled speech", "entropy": "unlabelled speech"}
SHORT |= dict.fromkeys(("score", "loss", "gradient"), "dev speech")


def one_model(means: pd.DataFrame) -> pd.DataFrame:
    """Keep the averages of merges that give one model for all domains."""
    known = registry()
    return means[means["method"].map(lambda name: name in known and known[name].family != "per_task")]


def best(means: pd.DataFrame, group: str) -> str:
    """Return the merge that gives one model with the lowest error on a group."""
    own = one_model(means)
    own = own[own["place"] == group]
    return str(own.loc[own["value"].idxmin(), "system"])


def of_groups(means: pd.DataFrame) -> pd.DataFrame:
    """Return for each group of domains the merge with the lowest error, and how many others its interval covers.

    Args:
        means: averages.

    Returns:
        One line a group, ready to be read: the merge, its error and interval, its family, and the families of which
        some merge lies within that interval.
    """
    lines = {}
    for group, own in one_model(means).groupby("place", sort=False):
        own = own.sort_values("value")
        top, close = own.iloc[0], own[own["value"] <= own.iloc[0]["high"]]
        families = dict.fromkeys(style.LABELS[style.family(method)] for method in close["method"])
        lines[group] = {
            "lowest error": top["system"], "WER, %": f"{top['value']:.1f}",
            "95 % interval": f"{top['low']:.1f}{style.DASH}{top['high']:.1f}",
            "merges within it": f"{len(close)} of {len(own)}", "their kinds": ", ".join(families),
        }  # fmt: skip
    return pd.DataFrame.from_dict(lines, orient="index")


def distances(means: pd.DataFrame) -> pd.DataFrame:
    """Return how many points every merge into one model lies behind the best of each group, and that one's own reach.

    Args:
        means: averages.

    Returns:
        Columns ``panel, system, method, value, reach``; ``reach`` is the upper half of the leader's interval.
    """
    parts = []
    for group, own in one_model(means).groupby("place", sort=False):
        top = own.loc[own["value"].idxmin()]
        parts.append(own.assign(panel=group, value=own["value"] - top["value"], reach=top["high"] - top["value"]))
    return pd.concat(parts)[["panel", "system", "method", "value", "reach"]].reset_index(drop=True)


def prices(systems: Mapping[str, str]) -> pd.DataFrame:
    """Return what merges ask for besides the experts and a λ: data, chance, and work; one line a system.

    Args:
        systems: method of each system.
    """
    lines = {}
    for system, method in systems.items():
        found = registry()[method]
        data = ", ".join(SHORT[key] for key in found.data) or "none"
        chance = "random masks" if found.stochastic else "none"
        lines[system] = {"kind": style.LABELS[found.family], "data": data, "chance": chance, "work": found.cost}
    return pd.DataFrame.from_dict(lines, orient="index")
