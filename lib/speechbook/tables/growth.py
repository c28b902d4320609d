"""Tables of the chapter about adding domains: error against their number, and what one more costs and does.

They read the frame (:mod:`.results`) of an experiment that varies ``counts``, with a cap or without.
"""

import pandas as pd

from ..figures.numbers import change
from . import results
from .outcomes import plan_of
from .series import methods, single

LEVELS = ("none", "fine-tuning")  # methods of systems that do not grow
NEW = "added last"  # the group of domains that the last step adds


def _counted(table: pd.DataFrame) -> pd.DataFrame:
    """Add the ``count`` of domains in the model of each line."""
    return table.assign(count=table["variant"].str.extract(r"(\d+)$")[0].astype(int))


def by_count(found: pd.DataFrame) -> pd.DataFrame:
    """Return error against the number of domains in a model: on the first domains, and on all.

    Returns:
        Columns ``panel, system, method, x, value, low, high``; systems that are not one model, or not trained, have no
        ``x``: they are levels.
    """
    means = _counted(results.averages(found))
    fewest, most = means["count"].min(), means["count"].max()
    level = means["method"].isin(LEVELS)
    means = means.assign(x=means["count"].astype(float).mask(level))[~level | (means["count"] == most)]
    table = results.in_panels(means, {f"first {fewest}": f"the first {fewest}", f"first {most}": f"all {most}"})
    return table[["panel", "system", "method", "x", "value", "low", "high"]]


def scalings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the λ that each merge chose: one line a system, one column a number of domains."""
    own = _counted(single(rows).drop_duplicates(["system", "variant"]))
    own = own.assign(scaling=own["params"].str.get("scaling")).dropna(subset="scaling")
    table = own.pivot(index="system", columns="count", values="scaling").map("{:g}".format)
    return table.reindex(list(methods(rows))).dropna(how="all").rename_axis(index=None, columns="λ, domains:")


def changes(found: pd.DataFrame) -> pd.DataFrame:
    """Return what further domains do to a system: the last step, and for the first domains all steps together.

    Returns:
        Columns ``system, of, before, after`` (per cent), ``value, low, high`` (the paired change in points), of every
        system that grows; ``of`` is ``old`` (domains there before the last step), ``new`` (added by it) or ``first``.
    """
    means = _counted(results.averages(found))
    means = means[~means["method"].isin(LEVELS)]
    counts = sorted(means["count"].unique())
    fewest, before, after = counts[0], *counts[-2:]
    grown = _counted(results.first_seed(found[found["before"].notna()]))
    grown = grown[(grown["count"] == after) & grown["system"].isin(means["system"])]
    steps = {"old": (f"first {before}", before), "new": (NEW, before), "first": (f"first {fewest}", fewest)}
    parts = []
    for of, (group, start) in steps.items():
        errors = means[means["place"] == group].pivot(index="system", columns="count", values="value")
        own = grown[(grown["place"] == group) & (grown["before"] == f"first {start}")].set_index("system")
        parts.append(own.assign(of=of, before=errors[start], after=errors[after]).reset_index())
    return pd.concat(parts, ignore_index=True)[["system", "of", "before", "after", "value", "low", "high"]]


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what the last step takes: one line a system that grows.

    Args:
        rows: of the experiment.

    Returns:
        Indexed by system; columns ``windows`` (of speech that must be trained on) and ``seconds`` (of training and
        merging, on the machine of the rows).
    """
    new = [cell.name for cell in plan_of(rows).groups[NEW]]
    own = _counted(single(rows))
    last = own[(own["count"] == own["count"].max()) & ~own["method"].isin(LEVELS)]
    last = last.drop_duplicates("system").set_index("system")
    return pd.DataFrame.from_dict({system: _cost(row, new) for system, row in last.iterrows()}, orient="index")


def _cost(row: pd.Series, new: list[str]) -> dict[str, float]:
    """Return windows and seconds of the trainings that a system needs for new domains, and of its merge."""
    merge = float(row["merge_seconds"] or 0) if pd.notna(row["merge_seconds"]) else 0.0
    needed = [
        log
        for name, log in row["training"].items()
        if row["method"] == "joint training" or any(one == name.split()[1] for one in new)
    ]
    return {"windows": sum(log["windows"] for log in needed), "seconds": sum(log["seconds"] for log in needed) + merge}


def readable(changed: pd.DataFrame, taken: pd.DataFrame) -> pd.DataFrame:
    """Return :func:`changes` and :func:`costs` as one table to be read."""
    told = changed.assign(
        before=changed["before"].map("{:.1f}".format),
        after=changed["after"].map("{:.1f}".format),
        change=[change(row) for row in changed.itertuples()],
    ).pivot(index="system", columns="of", values=["before", "after", "change"])
    shown = {f"{of}, {what}": told[what, of] for of in ("old", "new") for what in ("before", "after", "change")}
    shown["windows to train"] = taken["windows"].map("{:.0f}".format)
    shown["seconds"] = taken["seconds"].map("{:.0f}".format)
    return pd.DataFrame(shown).loc[list(changed["system"].unique())].rename_axis(index=None, columns="WER, %")
