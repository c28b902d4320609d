"""Error on groups of domains against a swept parameter, and how it differs from that at one value.

Systems that sweep a parameter are called ``NAME PARAMETER=VALUE``. What is returned is drawn by
:func:`speechbook.figures.curves.lines`.
"""

import pandas as pd

from ..figures import curves
from . import domains
from .series import SWEPT


def averages(means: pd.DataFrame, *, level: str = "Zero-shot") -> pd.DataFrame:
    """Return averages of systems such as ``kept values boost=0.1`` against the parameter, a panel a group.

    Args:
        means: what :func:`speechbook.tables.domains.averages` returns.
        level: a system that is drawn as a level line, before all others; the rest of those that sweep nothing is left
            out.

    Returns:
        Columns ``panel, system, method, x, value, low, high``, by growing ``x``.
    """
    parts = means["system"].str.extract(SWEPT)
    shown = parts["x"].notna() | (means["system"] == level)
    table = means.assign(panel=means["group"], x=parts["x"].astype(float), system=parts["system"].fillna(level))[shown]
    order = {"panel": list(dict.fromkeys(table["panel"])), "system": [level, *dict.fromkeys(table["system"])]}

    def place(column: pd.Series) -> pd.Series:
        return column.map(order[column.name].index) if column.name in order else column

    table = table.sort_values(["panel", "system", "x"], key=place)
    return table[["panel", "system", "method", "x", "value", "low", "high"]].reset_index(drop=True)


def differences(found: pd.DataFrame, against: str, at: float) -> pd.DataFrame:
    """Return paired differences in points against a swept parameter, from a system that all lines end in.

    Args:
        found: statistics ``NAME.groups``.
        against: the system at the end of every line, where they are zero; drawn as a level line too.
        at: its value of the parameter.

    Returns:
        Columns ``panel, system, method, x, value, low, high``.
    """
    groups = list(dict.fromkeys(found["group"]))
    table = domains.differences(found, against, groups).rename(columns={"panel": "group"})
    parts = table.assign(line=table["system"].str.extract(SWEPT)["system"]).dropna(subset="line")
    ends = {f"{line} at={at:g}": method for line, method in zip(parts["line"], parts["method"], strict=True)}
    zero = dict.fromkeys(("value", "low", "high"), 0.0)
    zeros = pd.DataFrame(
        {"system": system, "method": method, "group": group} | zero
        for system, method in ({against: "none"} | ends).items()
        for group in groups
    )
    return averages(pd.concat([table, zeros], ignore_index=True), level=against)


def clear_points(table: pd.DataFrame, system: str) -> str:
    """Say where on one line of :func:`differences` the intervals leave out zero: "in domain at 0.5 (−0.5)"."""
    line = table[(table["system"] == system) & ((table["low"] > 0) | (table["high"] < 0))]
    told = [f"{row.panel} at {row.x:g} ({curves.signed(row.value)})" for row in line.itertuples()]
    return ", ".join(told) or "none"
