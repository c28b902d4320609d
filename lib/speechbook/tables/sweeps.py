"""Error on groups of domains against a swept parameter, and how it differs from that at one value.

Systems that sweep a parameter are called ``NAME PARAMETER=VALUE``. What is returned is drawn by
:func:`speechbook.figures.curves.lines`.
"""

import pandas as pd

from ..figures.numbers import signed
from . import results
from .series import SWEPT


def lines(table: pd.DataFrame, *, level: str = "Zero-shot") -> pd.DataFrame:
    """Return the lines of systems such as ``kept values boost=0.1``, a panel a place, by growing value.

    Args:
        table: a frame.
        level: a system that is drawn as a level line, before all others; the rest of those that sweep nothing is left
            out.

    Returns:
        Columns ``panel, system, method, x, value, low, high``.
    """
    parts = table["system"].str.extract(SWEPT)
    named = table.assign(x=parts["x"].astype(float), system=parts["system"].fillna(level))
    named = named[parts["x"].notna() | (table["system"] == level)].sort_values("x", kind="stable")
    order = [level, *dict.fromkeys(parts["system"].dropna())]
    found = results.in_panels(named, list(dict.fromkeys(table["place"])), order)
    return found[["panel", "system", "method", "x", "value", "low", "high"]]


def differences(found: pd.DataFrame, against: str, at: float) -> pd.DataFrame:
    """Return paired differences against a swept parameter, from a system that all lines end in; as :func:`lines` does.

    Args:
        found: a frame.
        against: the system at the end of every line, where they are zero; drawn as a level line too.
        at: its value of the parameter.
    """
    table = results.differences(found[found["of"] == "group"], against)
    parts = table.assign(line=table["system"].str.extract(SWEPT)["system"]).dropna(subset="line")
    ends = {f"{line} at={at:g}": method for line, method in zip(parts["line"], parts["method"], strict=True)}
    zeros = pd.DataFrame(
        {"system": system, "method": method, "place": place, "value": 0.0, "low": 0.0, "high": 0.0}
        for system, method in ({against: "none"} | ends).items()
        for place in dict.fromkeys(table["place"])
    )
    return lines(pd.concat([table, zeros], ignore_index=True), level=against)


def clear_points(table: pd.DataFrame, system: str) -> str:
    """Say where on one line of :func:`differences` the intervals leave out zero: "in domain at 0.5 (−0.5)"."""
    line = table[(table["system"] == system) & ((table["low"] > 0) | (table["high"] < 0))]
    told = [f"{row.panel} at {row.x:g} ({signed(row.value)})" for row in line.itertuples()]
    return ", ".join(told) or "none"
