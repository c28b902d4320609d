"""Tables of the chapter about adding domains: error against their number, and what one more costs and does."""

import pandas as pd

from ..errors import StudyError
from . import domains
from .series import plan_of, single


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of single domains of the first seed, with ``name``, ``count`` of domains in the model and ``inside``."""
    own = single(rows)
    own = own.assign(name=domains.names(own), count=own["variant"].str.extract(r"(\d+)$")[0].astype(int))
    order = list(dict.fromkeys(system.system for system in plan_of(own).systems))
    own = own.sort_values(["system", "count"], key=lambda c: c.map(order.index) if c.name == "system" else c)
    places = zip(own["name"], own["task"], own["experts"], strict=True)
    return own.assign(inside=[f"{name}:{task}" in experts for name, task, experts in places])


def _mean(cells: pd.DataFrame) -> dict[str, float]:
    """Mean error of domains in per cent, each counting once; the interval adds their variances."""
    halves = (cells["ci_high"] - cells["ci_low"]) / 2
    half = 100 * float((halves**2).sum() ** 0.5) / len(cells)
    value = 100 * float(cells["wer"].mean())
    return {"value": value, "low": value - half, "high": value + half}


def by_count(rows: pd.DataFrame) -> pd.DataFrame:
    """Return error against the number of domains in a model: on the first domains, and on all.

    Args:
        rows: of an experiment that varies ``counts``.

    Returns:
        Columns ``panel, system, method, x, value, low, high``; systems that are not one model, or not trained, have no
        ``x``: they are levels.
    """
    cells = _cells(rows)
    fewest, most = int(cells["count"].min()), int(cells["count"].max())
    first = set(cells[(cells["count"] == fewest) & cells["inside"]]["name"])
    every, lines = set(cells["name"]), []
    for panel, among in ((f"the first {fewest}", first), (f"all {len(every)}", every)):
        chosen = cells[cells["name"].isin(among)]
        for (system, method, count), own in chosen.groupby(["system", "method", "count"], sort=False):
            level = method in ("none", "fine-tuning")
            if len(own) == len(among) and (not level or count == most):
                x = float("nan") if level else float(count)
                lines.append({"panel": panel, "system": system, "method": method, "x": x} | _mean(own))
    return pd.DataFrame(lines)


def added(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what the last domain costs and does: one line a system, errors before and after it is added.

    Args:
        rows: of an experiment that varies ``counts``.

    Returns:
        Columns ``system, method, old_before, old_after, new_before, new_after`` (per cent), ``windows`` (of speech that
        must be trained on) and ``seconds`` (of training and merging, on the machine of the rows).

    Raises:
        StudyError: the rows hold fewer than two numbers of domains.
    """
    cells = _cells(rows)
    counts = sorted(cells["count"].unique())
    if len(counts) < 2:
        raise StudyError(f"rows of {len(counts)} number of domains cannot say what one more does; run the experiment.")
    before, after = cells[cells["count"] == counts[-2]], cells[cells["count"] == counts[-1]]
    old = set(before[before["inside"]]["name"])
    new = [name for name in after[after["inside"]]["name"].unique() if name not in old]
    lines = []
    for (system, method), own in after.groupby(["system", "method"], sort=False):
        if method in ("none", "fine-tuning"):
            continue
        earlier = before[before["system"] == system]
        line = {"system": system, "method": method}
        for when, found in (("before", earlier), ("after", own)):
            line[f"old_{when}"] = _mean(found[found["name"].isin(old)])["value"]
            line[f"new_{when}"] = _mean(found[found["name"].isin(new)])["value"]
        lines.append(line | _cost(own.iloc[0], new))
    order = ["system", "method", "old_before", "old_after", "new_before", "new_after", "windows", "seconds"]
    return pd.DataFrame(lines)[order]


def _cost(row: pd.Series, new: list[str]) -> dict[str, float]:
    """Return windows and seconds of the trainings that a system needs for new domains, and of its merge."""
    merge = float(row["merge_seconds"] or 0) if pd.notna(row["merge_seconds"]) else 0.0
    needed = [
        log
        for name, log in row["training"].items()
        if row["method"] == "joint training" or any(one == name.split()[1] for one in new)
    ]
    return {"windows": sum(log["windows"] for log in needed), "seconds": sum(log["seconds"] for log in needed) + merge}


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return :func:`added` as it is shown."""
    shown = table.set_index("system").drop(columns="method")
    titles = {
        "old_before": "old domains, before", "old_after": "old, after", "new_before": "new domain, before",
        "new_after": "new, after", "windows": "windows to train", "seconds": "seconds",
    }  # fmt: skip
    errors = shown.columns[:4]
    shown = shown.astype(object)
    shown[errors] = shown[errors].map("{:.1f}".format)
    shown[["windows", "seconds"]] = shown[["windows", "seconds"]].map("{:.0f}".format)
    return shown.rename(columns=titles).rename_axis(index=None, columns="WER, %")
