"""Numbers as they are read: changes with their signs, values and changes with their intervals."""

import pandas as pd


def signed(number: float, digits: int = 1) -> str:
    """Return a change with its sign; what rounds to zero has none."""
    text = f"{number:+.{digits}f}".replace("-", "−")
    return text[1:] if float(f"{number:.{digits}f}") == 0 else text


def interval(row: pd.Series, gap: str = " to ") -> str:
    """Return the ends ``low, high`` of the interval of a change: "−0.3 to +2.7"."""
    return f"{signed(row.low)}{gap}{signed(row.high)}"


def change(row: pd.Series, gap: str = " to ") -> str:
    """Return a change ``value`` and its interval ``low, high`` with their signs: "+1.2 (−0.3 to +2.7)"."""
    return f"{signed(row.value)} ({interval(row, gap)})"


def points(row: pd.Series, gap: str = " to ") -> str:
    """Return a change and its interval in a sentence: "+1.2 points, −0.3 to +2.7"."""
    return f"{signed(row.value)} points, {interval(row, gap)}"


def level(row: pd.Series, gap: str = " to ") -> str:
    """Return a value and its interval ``value, low, high``, if it has one: "12.3 (10.9 to 13.8)"."""
    return f"{row.value:.1f}" + ("" if pd.isna(row.low) else f" ({row.low:.1f}{gap}{row.high:.1f})")
