"""Figures that answer a question in one look: verdicts as tiles, rivals of a leader, marks beside a reference.

They take finished tables; what is good or bad in them was decided elsewhere.
"""

import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from speechmerge.errors import BookError

from . import style
from .curves import down, legend, titled_panels
from .figured import Figured, Told
from .numbers import signed

TILE = 0.86  # of the room of a tile: its side
DARK = 1.6  # sum of red, green and blue below which a tile bears white letters
PLAIN = "#332288"  # a mark that belongs to no family of methods


def tiles(table: pd.DataFrame, *, looks: dict[str, tuple[str, str]], caption: str) -> Figured:
    """Draw one tile a case, a line a group, coloured by its outcome; a sign repeats the colour.

    Args:
        table: columns ``group, case, outcome``, in the order to be shown.
        looks: colour and sign of each outcome.
        caption: of the figure.

    Raises:
        BookError: there is no case.
    """
    if table.empty:
        raise BookError(f"the figure {caption!r} has no case; nothing was judged yet.")
    groups = {name: own for name, own in table.groupby("group", sort=False)}
    across = max(len(own) for own in groups.values())
    with style.applied():
        fig = Figure(figsize=(style.WIDTH, 0.75 + 0.62 * len(groups)), layout="constrained")
        axes = fig.subplots()
        for line, own in enumerate(groups.values()):
            for place, row in enumerate(own.itertuples()):
                colour, sign = looks[row.outcome]
                axes.add_patch(Rectangle((place, line), TILE, TILE, color=colour, label=row.outcome, linewidth=0))
                ink = "white" if sum(to_rgb(colour)) < DARK else "black"
                axes.text(place + TILE / 2, line + 0.28, sign, ha="center", va="center", color=ink, fontsize=10)
                axes.text(place + TILE / 2, line + 0.64, row.case, ha="center", va="center", color=ink, fontsize=7)
        axes.set(xlim=(0, across), ylim=(len(groups), -0.05), xticks=[])
        axes.set_yticks([line + TILE / 2 for line in range(len(groups))], list(groups))
        axes.tick_params("y", length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        legend(fig, [axes])
    kinds = table.groupby(["group", "outcome"], sort=False)["case"]
    told = [f"{group}, {outcome}: {', '.join(cases)}" for (group, outcome), cases in kinds]
    return Figured(fig, caption, f"Tiles, one a case, coloured by outcome. {'; '.join(told)}.", table)


def rivals(table: pd.DataFrame, *, unit: str, caption: str) -> Figured:
    """Draw how far every system is behind the best one, a panel a purpose and a line a family of methods.

    Args:
        table: columns ``panel, system, method, value, reach``: the distance from the best system of the panel, and how
            far that one's own interval reaches, which is drawn as a band.
        unit: of the distance.
        caption: of the figure.
    """
    families = [name for name in style.COLOURS if name in set(table["method"].map(style.family))]
    names, said = list(dict.fromkeys(table["panel"])), Told()
    with style.applied():
        fig, panels = titled_panels(names, 3, 0.9 + 0.24 * len(families))
        for number, (name, axes) in enumerate(panels.items()):
            own = table[table["panel"] == name]
            axes.axvspan(0, own["reach"].iloc[0], color="#bbbbbb", alpha=0.35, linewidth=0, zorder=0)
            for line, family in enumerate(families):
                kin = own[own["method"].map(style.family) == family]
                [dots] = axes.plot(kin["value"], [line] * len(kin), style.MARKERS[family], color=style.COLOURS[family],
                                   markersize=6, alpha=0.8, markeredgecolor="white", markeredgewidth=0.5)  # fmt: skip
                said.mark(dots, [f"{row.system}: {signed(row.value)}" for row in kin.itertuples()])
            best = own.loc[own["value"].idxmin(), "system"]
            axes.set(title=f"{name}\nbest: {best}", ylim=(len(families) - 0.4, -0.6))
            labels = [style.LABELS[family] for family in families]
            axes.set_yticks(range(len(families)), labels if number % 3 == 0 else [])
            axes.margins(x=0.08)
        fig.supxlabel(unit, fontsize=9.5)
    told = []
    for name in names:
        own = table[table["panel"] == name].sort_values("value")
        within = own[own["value"] <= own["reach"]]
        told.append(f"{name}: {own['system'].iloc[0]} leads, {len(within)} of {len(own)} lie within its interval")
    return Figured(fig, caption, f"Dot charts, {unit}, one line a kind of method. {'; '.join(told)}.", table, said)


def marks(
    table: pd.DataFrame, *, unit: str, caption: str, reference: float = 0.0, logarithmic: bool = False
) -> Figured:
    """Draw one mark for each line of a table with a stem from a reference, one panel a ``panel``.

    Args:
        table: columns ``panel, label, value``, and ``method`` where marks have a family's colour.
        unit: of the values.
        caption: of the figure.
        reference: where stems begin.
        logarithmic: whether the axis is.
    """
    order, names, said = list(dict.fromkeys(table["label"])), list(dict.fromkeys(table["panel"])), Told()
    with style.applied():
        fig, panels = titled_panels(names, 3, 0.6 + 0.24 * len(order), sharex=True)
        for number, (name, axes) in enumerate(panels.items()):
            for row in table[table["panel"] == name].itertuples():
                family = style.family(row.method) if "method" in table else ""
                colour = style.COLOURS.get(family, PLAIN)
                line = order.index(row.label)
                axes.hlines(line, reference, row.value, color=colour, linewidth=1.6, alpha=0.8)
                [dot] = axes.plot(row.value, line, style.MARKERS.get(family, "o"), color=colour, markersize=6.5)
                said.mark(dot, [f"{row.label}: {row.value:.3g}"])
            axes.axvline(reference, color="#555555", linewidth=1)
            if logarithmic:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
            down(axes, order, number == 0)
        fig.supxlabel(unit, fontsize=9.5)
    told = [f"{f'{row.panel}, ' * (len(names) > 1)}{row.label} {row.value:.3g}" for row in table.itertuples()]
    return Figured(fig, caption, f"Dot chart, {unit}: {'; '.join(told)}.", table, said)
