"""Figures for chapters that vary something: quality against a number, a matrix of changes, changes side by side.

They take finished tables in the units shown (per cent, points, BLEU). An interval is a pair of columns ``low, high``;
where it is missing, none is drawn.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from . import style
from .figured import Figured, Told
from .numbers import change, interval, level, signed

MOST_WIDE = 6  # columns of a heat map whose cells are as wide as an interval
CROWDED = 0.085  # of the axis: labels of ticks that are closer run into each other
LONG = 5  # characters of the label of a tick
DODGE = 0.022  # of the axis: how far apart systems stand that share an x
SIDES = [  # where the name of a point may stand: right, up, and the end that lies there
    (4, 4, "left"), (4, -10, "left"), (-4, 4, "right"), (-4, -10, "right"), (4, 12, "left"), (4, -18, "left"),
]  # fmt: skip
OPEN = [("-", True), ("--", False), ("-.", True), (":", False)]  # dashes and filled markers within a family


def _looks(table: pd.DataFrame) -> dict[str, dict]:
    """Line, marker and colour of each system: colour and marker by family, dashes apart within one.

    Systems that are no merges, in a table without ``method``, have a colour each.
    """
    if "method" not in table:
        kinds = zip(dict.fromkeys(table["system"]), itertools.cycle(style.LINES), itertools.cycle("osD^vP"))
        return {name: {"color": own, "marker": mark, "markersize": 5.5, "linestyle": "-"} for name, own, mark in kinds}
    looks, seen = {}, {}
    for system, method in dict(zip(table["system"], table["method"], strict=True)).items():
        family = style.family(method)
        dashes, filled = OPEN[seen.setdefault(family, 0) % len(OPEN)]
        seen[family] += 1
        colour = style.COLOURS[family]
        looks[system] = {
            "color": colour, "linestyle": dashes, "marker": style.MARKERS[family], "markersize": 5.5,
            "markerfacecolor": colour if filled else "white", "markeredgecolor": colour,
        }  # fmt: skip
    return looks


def _spread(own: pd.DataFrame) -> np.ndarray | None:
    """Lengths of the interval below and above each value, shape ``[2, n]``; None where there is none."""
    if own["low"].isna().all():
        return None
    return np.array([own["value"] - own["low"], own["high"] - own["value"]]).clip(min=0)


def legend(fig: Figure, panels: Iterable[Axes]) -> None:
    """Name everything that some panel draws once, below the figure."""
    handles = {}
    for axes in panels:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=min(5, len(handles)))


def titled_panels(names: Sequence[str], columns: int, height: float, **shared: bool) -> tuple[Figure, dict[str, Axes]]:
    """A figure of page width with one titled panel a name."""
    columns = min(columns, len(names))
    lines = -(-len(names) // columns)
    fig = Figure(figsize=(style.WIDTH, height * lines + 0.5), layout="constrained")
    found = fig.subplots(lines, columns, squeeze=False, **shared)
    for axes in found.flat[len(names) :]:
        axes.set_axis_off()
    panels = dict(zip(names, found.flat, strict=False))
    for name, axes in panels.items():
        axes.set_title(name)
    return fig, panels


def down(axes: Axes, names: Sequence[str], shown: bool) -> None:
    """Set names down a panel, the first on top; they are written where they are ``shown``, not in panels beside it."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names if shown else [])
    axes.grid(axis="y", visible=False)


def lines(
    table: pd.DataFrame, *, x: str, y: str, caption: str, logarithmic: bool = False, columns: int = 2,
    faint: pd.DataFrame | None = None, shared: bool = False,
) -> Figured:  # fmt: skip
    """Draw quality against a number: one panel a ``panel``, one line with intervals a system.

    Args:
        table: columns ``panel, system, method, x, value, low, high``; a system without ``x`` is a level line with its
            interval as a band.
        x: what the number is, for the axis and the description.
        y: what the value is, or, for each panel, ``{panel: text}``.
        caption: of the figure.
        logarithmic: whether the number is on a logarithmic axis.
        columns: most panels side by side.
        faint: columns ``panel, system, method, x, value``: single cases, drawn as faint dots behind the lines; with
            ``label``, that is what they say when they are pointed at.
        shared: whether all panels share one y axis.
    """
    looks, names = _looks(table), list(dict.fromkeys(table["panel"]))
    labels = y if isinstance(y, dict) else dict.fromkeys(names, y)
    dodge, told = 0 if table["low"].isna().all() else DODGE, Told()
    with style.applied():
        fig, panels = titled_panels(names, columns, 2.5 if columns > 1 else 3.4, sharey=shared)
        for number, (name, axes) in enumerate(panels.items()):
            inside = table[table["panel"] == name]
            ticks = sorted(inside["x"].dropna().unique())
            varied = list(dict.fromkeys(inside.dropna(subset="x")["system"]))
            scale = np.log if logarithmic else np.asarray
            width = float(scale(ticks[-1]) - scale(ticks[0])) or 1.0
            for system, own in inside.groupby("system", sort=False):
                look = looks[system]
                if own["x"].isna().all():
                    _level(axes, own.iloc[0], look)
                    continue
                aside = dodge * width * (varied.index(system) - (len(varied) - 1) / 2)
                if faint is not None:
                    single = faint[(faint["panel"] == name) & (faint["system"] == system)]
                    [dots] = axes.plot(_moved(single["x"], aside, logarithmic), single["value"], "o", zorder=1,
                                       color=look["color"], alpha=0.65, markersize=4.5, markeredgewidth=0)  # fmt: skip
                    texts = [f"{getattr(r, 'label', system)}, {x} {r.x:g}: {r.value:.1f}" for r in single.itertuples()]
                    told.mark(dots, texts)
                drawn = axes.errorbar(_moved(own["x"], aside, logarithmic), own["value"], yerr=_spread(own),
                                      linewidth=1.5, elinewidth=1, capsize=2, label=system, **look)  # fmt: skip
                told.mark(drawn[0], [f"{system}, {x} {row.x:g}: {level(row)}" for row in own.itertuples()])
            if logarithmic:
                axes.set_xscale("log")
            short = [tick for tick in ticks if len(f"{tick:g}") <= LONG]  # values that a search came to are longer
            shown = _apart(short or ticks, CROWDED * width, scale)
            axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
            axes.minorticks_off()
            axes.set(xlabel=x, ylabel=labels[name] if not shared or number % columns == 0 else "")
        legend(fig, panels.values())
    numbers = table if faint is None else pd.concat([table.assign(of="all"), faint.assign(of="single")])
    return Figured(fig, caption, _told(table, x, labels), numbers, told)


def _apart(ticks: Sequence[float], least: float, scale: Callable) -> list[float]:
    """Return the ticks whose labels do not run into that of the last one before them."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or scale(tick) - scale(kept[-1]) >= least:
            kept.append(tick)
    return kept


def _moved(x: pd.Series, aside: float, logarithmic: bool) -> pd.Series:
    return x * np.exp(aside) if logarithmic else x + aside


def _level(axes: Axes, row: pd.Series, look: dict) -> None:
    """Draw a system that does not vary: a level line, and a band for its interval."""
    axes.axhline(row["value"], color=look["color"], linestyle=look["linestyle"], linewidth=1.3, label=row["system"])
    if pd.notna(row["low"]):
        axes.axhspan(row["low"], row["high"], color=look["color"], alpha=0.10, linewidth=0, zorder=0)


def _told(table: pd.DataFrame, x: str, labels: dict[str, str]) -> str:
    """Say every number of a line chart."""
    panels = []
    for (panel, system), own in table.groupby(["panel", "system"], sort=False):
        values = ", ".join(
            f"{row.value:.1f}" if pd.isna(row.x) else f"{row.value:.1f} at {row.x:g}" for row in own.itertuples()
        )
        panels.append(f"{panel}, {system}: {values}" if panel else f"{system}: {values}")
    kinds = "; ".join(dict.fromkeys(labels.values()))
    return f"Line chart of {kinds} against {x}. " + ". ".join(panels) + "."


def matrix(table: pd.DataFrame, *, down: str, across: str, unit: str, caption: str) -> Figured:
    """Draw changes as a heat map around zero, each with its interval; those whose interval leaves out zero are bold.

    Args:
        table: columns ``row, column, value, low, high``; language codes, in the order to be shown.
        down: what the rows are.
        across: what the columns are.
        unit: of the changes.
        caption: of the figure.
    """
    order = [list(dict.fromkeys(table[name])) for name in ("row", "column")]
    drawn = table.assign(top=table["value"].map(signed), clear=(table["low"] > 0) | (table["high"] < 0))
    narrow = len(order[1]) > MOST_WIDE  # the bounds of an interval stand below each other
    share, size, gap, turned = (1.0, 6.5, " to\n", 45) if narrow else (0.85, 7, " to ", 0)
    drawn["below"] = [interval(cell, gap) for cell in table.itertuples()]
    named = {"index": style.language_name, "columns": style.language_name}
    grid, top, below, clear = (
        drawn.pivot(index="row", columns="column", values=values).loc[*order].rename(**named)
        for values in ("value", "top", "below", "clear")
    )
    strongest = float(np.abs(grid.to_numpy()).max()) or 1.0
    with style.applied():
        fig = Figure(figsize=(share * style.WIDTH, 0.9 + 0.62 * len(grid)), layout="constrained")
        axes = fig.subplots()
        look = {"cmap": "PuOr_r", "vmin": -strongest, "vmax": strongest, "fmt": "", "ax": axes}
        sns.heatmap(grid, annot=top, annot_kws={"va": "bottom", "size": 9.5}, cbar_kws={"label": unit}, **look)
        for text, bold in zip(axes.texts, clear.to_numpy().flat, strict=True):
            text.set_fontweight("bold" if bold else "normal")
        sns.heatmap(grid, annot=below, annot_kws={"va": "top", "size": size}, cbar=False, **look)
        for text, value in zip(axes.texts, 2 * list(grid.to_numpy().flat), strict=True):
            text.set_color("white" if abs(value) > 0.55 * strongest else "black")
        axes.set(xlabel=across, ylabel=down)
        axes.tick_params("x", rotation=turned)
        axes.tick_params("y", rotation=0)
    name = style.language_name
    told = [f"{name(c.row)} on {name(c.column)} {change(c)}" for c in table.itertuples()]
    return Figured(fig, caption, f"Heat map of the {unit}, one line for each {down}: " + "; ".join(told) + ".", table)


def changes(table: pd.DataFrame, *, unit: str, caption: str, columns: int = 3) -> Figured:
    """Draw changes with their intervals beside a line at zero, one panel a ``panel``.

    Args:
        table: columns ``panel, system, method, value, low, high``, in the order to be shown.
        unit: of the changes.
        caption: of the figure.
        columns: most panels side by side.
    """
    looks, names, order = _looks(table), list(dict.fromkeys(table["panel"])), list(dict.fromkeys(table["system"]))
    said = Told()
    with style.applied():
        fig, panels = titled_panels(names, columns, 0.6 + 0.22 * len(order), sharex=True)
        for number, (name, axes) in enumerate(panels.items()):
            for row in table[table["panel"] == name].itertuples():
                spread = [[row.value - row.low], [row.high - row.value]]
                dot = axes.errorbar(row.value, order.index(row.system), xerr=spread, capsize=2.5, **looks[row.system])
                said.mark(dot[0], [f"{row.system}: {change(row)}"])
            axes.axvline(0, color="#555555", linewidth=1)
            axes.tick_params(labelbottom=True)  # of panels above others too
            down(axes, order, number % columns == 0)
        fig.supxlabel(unit, fontsize=9.5)
    told = [f"{row.panel}, {row.system} {change(row)}" for row in table.itertuples()]
    return Figured(fig, caption, f"Dot charts, {unit}: " + "; ".join(told) + ".", table, said)


def forest(table: pd.DataFrame, *, unit: str, caption: str) -> Figured:
    """Draw changes of several systems on each line of a panel, with their intervals, beside a line at zero.

    Colours tell the systems apart; two panels stand side by side.

    Args:
        table: columns ``panel, label, system, value, low, high``, in the order to be shown; a label is a line.
        unit: of the changes.
        caption: of the figure.
    """
    looks, order, said = _looks(table), list(dict.fromkeys(table["label"])), Told()
    with style.applied():
        fig, panels = titled_panels(list(dict.fromkeys(table["panel"])), 2, 0.6 + 0.34 * len(order), sharex=True)
        for number, (name, axes) in enumerate(panels.items()):
            for system, own in table[table["panel"] == name].groupby("system", sort=False):
                aside = 0.7 * ((list(looks).index(system) + 0.5) / len(looks) - 0.5)
                lines = [order.index(label) + aside for label in own["label"]]
                dots = axes.errorbar(own["value"], lines, xerr=_spread(own), capsize=2, elinewidth=1.1,
                                     label=system, **looks[system] | {"linestyle": "none"})  # fmt: skip
                said.mark(dots[0], [f"{row.label}, {system}: {change(row)}" for row in own.itertuples()])
            axes.axvline(0, color="#555555", linewidth=1)
            axes.set(ylim=(len(order) - 0.5, -0.5))
            axes.tick_params(labelbottom=True)
            axes.set_yticks(range(len(order)), order if number % 2 == 0 else [])
            axes.grid(axis="y", visible=False)
            axes.set_xlabel(unit if number >= len(panels) - 2 else "")
        legend(fig, panels.values())
    told = [f"{row.panel}, {row.label}, {row.system} {change(row)}" for row in table.itertuples()]
    return Figured(fig, caption, f"Dot charts, {unit}: " + "; ".join(told) + ".", table, said)


def relation(table: pd.DataFrame, *, x: str, y: str, caption: str) -> Figured:
    """Draw one labelled point a line of a table, with its interval: does ``y`` go with ``x``?

    Args:
        table: columns ``label, x, value, low, high``.
        x: what the first number is.
        y: what the second number is.
        caption: of the figure.
    """
    said = Told()
    with style.applied():
        fig = Figure(figsize=(0.8 * style.WIDTH, 3.4), layout="constrained")
        axes = fig.subplots()
        dots = axes.errorbar(table["x"], table["value"], yerr=_spread(table), fmt="o", color=style.LINES[0],
                             elinewidth=0.9, ecolor="#7a72b0", capsize=0)  # fmt: skip
        said.mark(dots[0], [f"{row.label}: {x} {row.x:.2f}, {y} {change(row)}" for row in table.itertuples()])
        axes.axhline(0, color="#555555", linewidth=1)
        axes.margins(x=0.12)
        axes.set(xlabel=x, ylabel=y)
        fig.draw_without_rendering()  # now the points have their places
        _name(axes, table)
    told = [f"{row.label} {row.x:.2f} and {signed(row.value)}" for row in table.itertuples()]
    return Figured(fig, caption, f"Scatter of {y} against {x}: " + "; ".join(told) + ".", table, said)


def _name(axes: Axes, points: pd.DataFrame) -> None:
    """Write each point's label beside it, on the side where it covers fewest points and labels, inside if it can be."""
    places = axes.transData.transform(points[["x", "value"]].to_numpy(float))
    taken = [Bbox.from_bounds(left - 5, low - 5, 10, 10) for left, low in places]
    for row in points.itertuples():
        text = axes.annotate(row.label, (row.x, row.value), (0, 0), textcoords="offset points", fontsize=8)

        def boxed(side: tuple[float, float, str], text: Annotation = text) -> Bbox:
            text.set(position=side[:2], horizontalalignment=side[2])
            return text.get_window_extent()

        def covered(box: Bbox) -> int:
            return box.count_overlaps(taken) + (box.x1 > axes.bbox.x1) + (box.x0 < axes.bbox.x0)

        taken.append(boxed(min(SIDES, key=lambda side: covered(boxed(side)))))
