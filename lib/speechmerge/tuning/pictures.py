"""Pictures of a report as SVG whose colours come from the page, so that they are right in light, dark and print."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import escape

WIDTH, HEIGHT = 640, 380  # of a picture in its own units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 62, 18, 16, 50
OUTSIDE = 1.25  # of the plain average and the chosen merge: points further off are left out of the trade-off
NARROW, ROW = 430, 26  # of the picture of differences, and of a line in it


class Frame:
    """Axes: from data to places in the picture, with round ticks.

    Args:
        xs, ys: least and greatest value of each axis.
        log: whether the first axis is logarithmic.
        width: of the picture.
    """

    def __init__(
        self, xs: tuple[float, float], ys: tuple[float, float], *, log: bool = False, width: int = WIDTH
    ) -> None:
        self.log, self.xs, self.ys, self.width = log, xs, ys, width

    def x(self, value: float) -> float:
        """Return the place of a value on the first axis."""
        low, high, value = (math.log(v) if self.log else v for v in (*self.xs, value))
        return round(LEFT + (self.width - LEFT - RIGHT) * (value - low) / (high - low), 1)

    def y(self, value: float) -> float:
        """Return the place of a value on the second axis."""
        low, high = self.ys
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    def axes(self, x_label: str, y_label: str) -> str:
        """Return the grid with its numbers and labels."""
        parts = []
        for value in powers(*self.xs) if self.log else ticks(*self.xs):
            x = self.x(value)
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
            parts.append(_text(x, HEIGHT - BOTTOM + 18, f"{value:g}", "tick middle"))
        for value in ticks(*self.ys):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{self.width - RIGHT}" y1="{y}" y2="{y}"/>')
            parts.append(_text(LEFT - 8, y + 4, f"{value:g}", "tick end"))
        parts.append(_text((LEFT + self.width - RIGHT) / 2, HEIGHT - 10, x_label, "label middle"))
        turned = f'transform="rotate(-90 16 {(TOP + HEIGHT - BOTTOM) / 2})"'
        parts.append(_text(16, (TOP + HEIGHT - BOTTOM) / 2, y_label, "label middle", turned))
        return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """Return round values between two ends, about five."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if raw <= step)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between two ends."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [round(step * 10.0**e, 10) for e in exponents for step in (1, 2, 5)]
    return [value for value in values if low <= value <= high]


def _text(x: float, y: float, words: str, classes: str, more: str = "") -> str:
    return f'<text class="{classes}" x="{x}" y="{y}" {more}>{escape(words)}</text>'


def _svg(inside: str, told: str, height: float = HEIGHT, width: int = WIDTH) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(told)}">{inside}</svg>'


def _range(values: Sequence[float], margin: float = 0.06) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = margin * ((high - low) or abs(high) or 1.0)
    return low - room, high + room


def _dot(x: float, y: float, family: str, told: str, classes: str = "") -> str:
    return f'<circle class="dot {family} {classes}" cx="{x}" cy="{y}" r="5"><title>{escape(told)}</title></circle>'


def trade_off(numbers: Mapping[str, Any]) -> tuple[str, int]:
    """Draw every merge that was tried by its loss on the experts' speech and on what must be kept.

    Returns:
        The picture, and how many merges lie outside it.
    """
    points, kept = numbers["front"], any(one["expert"] is None for one in numbers["speech"])
    marked = [p for p in points if p["front"] or _same(p, numbers["chosen"]) or p["method"] == "weight_average"]
    limits = [OUTSIDE * max(p[side] for p in marked) for side in ("experts", "kept")]
    inside = [p for p in points if p["experts"] <= limits[0] and p["kept"] <= limits[1]]
    frame = Frame(_range([p["experts"] for p in inside]), _range([p["kept"] for p in inside]))
    other = "what must be kept" if kept else "the speech that fares worst"
    parts = [
        frame.axes("loss beside the own expert's, mean over the experts' speech", f"loss beside its reference, {other}")
    ]
    best = sorted((p for p in inside if p["front"]), key=lambda p: p["experts"])
    steps = " ".join(f"{'L' if i else 'M'}{frame.x(p['experts'])},{frame.y(p['kept'])}" for i, p in enumerate(best))
    parts.append(f'<path class="front" d="{steps}"/>' if len(best) > 1 else "")
    for p in sorted(inside, key=lambda p: p["front"]):
        classes = "best" if p["front"] else "faint"
        parts.append(_dot(frame.x(p["experts"]), frame.y(p["kept"]), p["family"], _told(p), classes))
    for p in inside:
        if _same(p, numbers["chosen"]):
            parts.append(_marked(frame.x(p["experts"]), frame.y(p["kept"]), "chosen"))
        elif p["method"] == "weight_average":
            parts.append(_marked(frame.x(p["experts"]), frame.y(p["kept"]), "untuned average"))
    told = f"{len(inside)} merges by loss on the experts' speech and on {other}; lower left is better"
    return _svg("".join(parts), told), len(points) - len(inside)


def _marked(x: float, y: float, word: str) -> str:
    side = "end" if x > WIDTH / 2 else "start"
    place = x - 12 if side == "end" else x + 12
    return f'<circle class="ring" cx="{x}" cy="{y}" r="9"/>' + _text(place, y - 8, word, f"name {side}")


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("method", "params", "scaling"))


def _told(p: Mapping[str, Any]) -> str:
    params = ", ".join(f"{name}={value}" for name, value in p["params"].items())
    return f"{p['title']}{f' ({params})' if params else ''}, λ = {p['scaling']:g}"


def curve(numbers: Mapping[str, Any]) -> str:
    """Draw loss against λ for the chosen method: the mean over all speech, each speech, and what was decoded.

    Returns:
        The picture; nothing where only one λ was measured.
    """
    trials = [trial for trial in numbers["curve"] if trial["score"] is not None]
    if len(trials) < 2:
        return ""
    each = [[x / r for x, r in zip(t["losses"], numbers["references"], strict=True)] for t in trials]
    top = 2.5 * min(t["score"] for t in trials)
    values = [v for row in each for v in row if v <= top]
    scalings = [t["scaling"] for t in trials]
    frame = Frame((min(scalings) / 1.08, max(scalings) * 1.08), _range(values), log=True)
    parts = [frame.axes("λ", "loss beside its reference")]
    names = [one["name"] for one in numbers["speech"]]
    ends: list[tuple[float, str]] = []
    for number, name in enumerate(names):
        line = [(frame.x(s), frame.y(row[number])) for s, row in zip(scalings, each, strict=True) if row[number] <= top]
        parts.append(_line(line, "line", name))
        ends += [(line[-1][1], name)] if line else []
    parts.append(
        _line([(frame.x(t["scaling"]), frame.y(t["score"])) for t in trials if t["score"] <= top], "mean", "mean")
    )
    parts += _apart(ends)
    for one in numbers["heard"]:
        if one["score"] is not None and one["score"] <= top and _alike(one, numbers["chosen"]):
            x, y = frame.x(one["scaling"]), frame.y(one["score"])
            parts.append(_dot(x, y, one["family"], _told(one), "best"))
            parts.append(_text(x, y + 20, f"{one['error']:.1%}", "name middle"))
    return _svg(
        "".join(parts), f"loss against λ of {numbers['chosen']['title']}, least near {numbers['chosen']['scaling']:g}"
    )


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("method", "params"))


def _line(points: Sequence[tuple[float, float]], classes: str, told: str) -> str:
    path = " ".join(f"{'L' if i else 'M'}{x},{y}" for i, (x, y) in enumerate(points))
    return f'<path class="{classes}" d="{path}"><title>{escape(told)}</title></path>' if path else ""


def _apart(ends: list[tuple[float, str]]) -> list[str]:
    """Name lines at their right ends, so far apart that names do not cover each other."""
    parts, last = [], -math.inf
    for y, name in sorted(ends):
        last = max(y, last + 14)
        parts.append(_text(WIDTH - RIGHT - 4, last - 4, name, "tick end"))
    return parts


def differences(numbers: Mapping[str, Any], against: str) -> str:
    """Draw how the chosen merge differs from another system, speech by speech, with 95 % intervals, in points."""
    rows = [row for row in numbers["paired"] if row["against"] == against]
    if not rows:
        return ""
    low = 100 * min(0.0, *(row["low"] for row in rows))
    high = 100 * max(0.0, *(row["high"] for row in rows))
    frame = Frame(_range([low, high], 0.08), (0.0, 1.0), width=NARROW)
    bottom = TOP + ROW * len(rows)
    parts = []
    for value in ticks(*frame.xs):
        x = frame.x(value)
        parts.append(f'<line class="{"zero" if value == 0 else "grid"}" x1="{x}" x2="{x}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 16, f"{value:+g}" if value else "0", "tick middle"))
    for place, row in enumerate(rows):
        y = TOP + ROW * (place + 0.5)
        classes = "better" if row["high"] < 0 else "worse" if row["low"] > 0 else "open"
        name = "mean" if row["speech"] is None else row["speech"]
        parts.append(_text(LEFT - 8, y + 4, name, "tick end strong" if row["speech"] is None else "tick end"))
        ends = frame.x(100 * row["low"]), frame.x(100 * row["high"])
        parts.append(f'<line class="span {classes}" x1="{ends[0]}" x2="{ends[1]}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="point {classes}" cx="{frame.x(100 * row["difference"])}" cy="{y}" r="4.5"/>')
    parts.append(
        _text(
            (LEFT + NARROW - RIGHT) / 2,
            bottom + 34,
            "points of error; left of zero the merge is better",
            "label middle",
        )
    )
    return _svg("".join(parts), f"differences of the chosen merge from {against}", bottom + 44, NARROW)
