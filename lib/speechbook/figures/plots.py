"""The figures of the book: each takes finished numbers and returns a :class:`~speechbook.figures.figured.Figured`.

No metric is computed here; a figure only chooses where a number stands.
"""

from collections.abc import Iterable, Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from . import curves, style
from .figured import Figured, Told
from .numbers import level
from .style import AVERAGE, UNITS

SCORES = {"asr": "word error rate, %", "st": "BLEU"}
BETTER = {"asr": "less is better", "st": "more is better"}
BESIDE = {"textcoords": "offset points", "va": "center", "fontsize": 8.5}
DRAWN = ["system", "method", "task", "language", "value", "low", "high"]
MEANS = {"asr": "word error rate over all languages, words pooled", "st": "BLEU, mean of the languages"}


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _dots(
    axes: Axes, table: pd.DataFrame, order: Sequence[str], told: Told, *, size: float = 7, shown: bool = True
) -> None:
    """Draw one dot a system at its score, with its 95 % interval; the first of ``order`` is on top."""
    for row in table.itertuples():
        family = style.family(row.method)
        dot = axes.errorbar(
            row.value, order.index(row.system), xerr=[[row.value - row.low], [row.high - row.value]],
            fmt=style.MARKERS[family], color=style.COLOURS[family], markersize=size, markeredgecolor="white",
            markeredgewidth=0.6, elinewidth=1.6, capsize=2.5,
        )  # fmt: skip
        told.mark(dot[0], [f"{row.system}: {level(row)}"])
    curves.down(axes, order, shown)


def _lines(axes: Axes, table: pd.DataFrame, **how: object) -> None:
    """Draw a line an expert, colour and dashes its own."""
    named = table.assign(expert=table["expert"].map(style.language_name))
    colours = style.LINES[: named["expert"].nunique()]
    sns.lineplot(named, hue="expert", style="expert", palette=colours, errorbar=None, linewidth=1.4, ax=axes, **how)


def _named_below(fig: Figure, panels: Iterable[Axes]) -> None:
    """Put one legend below the figure in the place of those of its panels."""
    for axes in panels:
        legend = axes.get_legend()
        legend.remove()
    names = [text.get_text() for text in legend.texts]
    fig.legend(legend.legend_handles, names, loc="outside lower center", ncols=min(6, len(names)))


def systems(measured: pd.DataFrame, published: pd.DataFrame | None = None) -> Figured:
    """Draw the score of each system over all languages, beside the published values where there are any.

    Args:
        measured: columns ``system, method, task, language, value, low, high``, in the order to be shown; the average
            of each task is drawn, a line of panels a task.
        published: columns ``system, task, language, published``; in panels and axes of their own.
    """
    measured = measured[measured["language"] == measured["task"].map(AVERAGE)]
    order, tasks = list(dict.fromkeys(measured["system"])), list(dict.fromkeys(measured["task"]))
    both = published is not None
    joined = measured.merge(published, on=["system", "task", "language"], how="left") if both else measured
    said = Told()
    with style.applied():
        height = (0.9 if len(tasks) == 1 else 0.7) + (0.3 if len(tasks) == 1 else 0.24) * len(order)
        fig = Figure(figsize=(style.WIDTH, len(tasks) * height), layout="constrained")
        panels = fig.subplots(len(tasks), 1 + both, squeeze=False, width_ratios=[3, 2][: 1 + both])
        for task, line in zip(tasks, panels, strict=True):
            own = joined[joined["task"] == task]
            _dots(line[0], own, order, said)
            for row in own.itertuples():
                line[0].annotate(f"{row.value:.1f}", (row.high, order.index(row.system)), (5, 0), **BESIDE)
            line[0].set(title="measured here" if both else "", xlabel=f"{SCORES[task]}, {BETTER[task]}")
            for row in own.itertuples() if both else ():
                family = style.family(row.method)
                place = (row.published, order.index(row.system))
                line[1].plot(*place, style.MARKERS[family], color=style.COLOURS[family], markersize=6)
            if both:
                line[1].set(title="published", xlabel=SCORES[task])
                curves.down(line[1], order, shown=False)
    return Figured(fig, *_told(joined, tasks), joined[[*DRAWN, *["published"][: 1 * both]]], said)


def _told(joined: pd.DataFrame, tasks: Sequence[str]) -> tuple[str, str]:
    """Caption and description of the figure of systems."""
    alt, both = "Dot chart of systems over all languages with 95 % intervals, measured here.", "published" in joined
    for task in tasks:
        own = joined[joined["task"] == task]
        told = [f"{row.system} {level(row)}" for row in own.itertuples()]
        alt += f" {_upper(SCORES[task])}: {', '.join(told)}."
        if both:
            told = [f"{r.system} {r.published:.1f}" for r in own.dropna(subset="published").itertuples()]
            alt += f" Published: {', '.join(told)}."
    caption = "; ".join(MEANS[task] for task in tasks) + "; bars are 95 % bootstrap intervals."
    if both:
        caption += " Published values come from other models and other speech, hence their own axis."
    return _upper(caption), alt


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def languages(measured: pd.DataFrame) -> Figured:
    """Draw the score of each system in each language, one panel a language and task.

    Args:
        measured: columns ``system, method, task, language, value, low, high``, in the order to be shown; rows over all
            languages are left out.
    """
    measured = measured[~measured["language"].isin(AVERAGE.values())]
    order, codes = list(dict.fromkeys(measured["system"])), list(dict.fromkeys(measured["language"]))
    cells = list(measured[["task", "language"]].drop_duplicates().itertuples(index=False, name=None))
    columns = min(3, len(codes)) if len(cells) == len(codes) else len(codes)
    lines, said = -(-len(cells) // columns), Told()
    with style.applied():
        fig = Figure(figsize=(style.WIDTH, lines * (0.75 + 0.24 * len(order))), layout="constrained")
        panels = fig.subplots(lines, columns, squeeze=False)
        for axes in panels.flat[len(cells) :]:
            axes.set_axis_off()
        for number, (axes, (task, code)) in enumerate(zip(panels.flat, cells, strict=False)):
            own = measured[(measured["task"] == task) & (measured["language"] == code)]
            _dots(axes, own, order, said, size=5.5, shown=number % columns == 0)
            axes.set_title(style.language_name(code))
            axes.locator_params(axis="x", nbins=4)
            if len(cells) > len(codes):
                axes.set_xlabel(UNITS[task])
        if len(cells) == len(codes):
            fig.supxlabel(f"{SCORES[cells[0][0]]} (95 % interval)", fontsize=9.5)
    told = []
    for (task, code), own in measured.groupby(["task", "language"], sort=False):
        best = own.loc[own["value"].idxmin() if task == "asr" else own["value"].idxmax()]
        told.append(f"{style.language_name(code)}, {SCORES[task]}: {best['system']} {best['value']:.1f}")
    alt = f"Dot charts of {len(order)} systems, one panel a language and score. Best: {'; '.join(told)}."
    caption = "The same systems in each language. Every panel has its own axis; bars are 95 % bootstrap intervals."
    return Figured(fig, caption, alt, measured[DRAWN], said)


def cosines(table: pd.DataFrame) -> Figured:
    """Draw the cosines between task vectors as a heat map.

    Args:
        table: columns ``a, b, cosine``, every pair of experts once; order as it is to be shown.
    """
    named = table.assign(a=table["a"].map(style.language_name), b=table["b"].map(style.language_name))
    names = list(dict.fromkeys([*named["a"], *named["b"]]))
    both = pd.concat([named, named.rename(columns={"a": "b", "b": "a"})])
    grid = both.pivot(index="a", columns="b", values="cosine").loc[names, names]
    with style.applied():
        fig = Figure(figsize=(0.62 * style.WIDTH, 0.52 * style.WIDTH), layout="constrained")
        axes = fig.subplots()
        shades = sns.light_palette(style.LINES[0], as_cmap=True)  # more is farther from the ground, in the dark too
        sns.heatmap(
            grid, cmap=shades, vmin=min(0, table["cosine"].min()), square=True, annot=True, fmt=".2f",
            annot_kws={"size": 8.5}, cbar_kws={"label": "cosine", "shrink": 0.8}, ax=axes,
        )  # fmt: skip
        axes.set(xlabel="", ylabel="")
        axes.grid(visible=False)  # not where an expert meets itself
        axes.tick_params("x", rotation=35)
        axes.tick_params("y", rotation=0)
    extremes = table.loc[[table["cosine"].idxmax(), table["cosine"].idxmin()]]
    told = [f"{style.language_name(r.a)} and {style.language_name(r.b)} {r.cosine:.2f}" for r in extremes.itertuples()]
    alt = f"Heat map of the cosines between {len(names)} task vectors; highest: {told[0]}, lowest: {told[1]}."
    caption = "Cosine between the task vectors of every two experts, over all parameters."
    return Figured(fig, caption, alt, table)


def norms(table: pd.DataFrame) -> Figured:
    """Draw how far each part of the network moved, by layer, relative to the size of its weights.

    Args:
        table: columns ``expert, part, layer, relative_norm``; one panel a part, layers from the input up.
    """
    parts = list(dict.fromkeys(table["part"]))
    drawn = table.assign(update=100 * table["relative_norm"])
    with style.applied():
        fig, panels = curves.titled_panels(parts, 3, 2.1, sharey=True)
        for number, (part, axes) in enumerate(panels.items()):
            _lines(axes, drawn[drawn["part"] == part], x="layer", y="update", marker="o", markersize=4)
            axes.set(title=part.replace("mlp", "MLP"), ylabel="" if number % 3 else "relative update, %")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _named_below(fig, panels.values())
    top = table.loc[table["relative_norm"].idxmax()]
    alt = (
        f"Line charts of the relative size of the update by layer, one panel each for {', '.join(parts)}, one line an "
        f"expert. The largest is {100 * top['relative_norm']:.2f} %: {top['part']}, layer {top['layer']}, "
        f"{style.language_name(top['expert'])}."
    )
    caption = "Norm of the update divided by the norm of the weights it changes, by part of the network and layer."
    return Figured(fig, caption, alt, table)


def spectra(values: pd.DataFrame, energy: pd.DataFrame) -> Figured:
    """Draw how fast the singular values of the updates fall, and how much their first directions hold.

    Args:
        values: columns ``expert, share_of_rank, ratio``: singular value over the largest, averaged over matrices.
        energy: columns ``expert, share_of_rank, energy``: share of the squared norm in the leading directions.
    """
    asked = {
        "singular values": ("ratio", values, {"ylabel": "relative to the largest", "yscale": "log"}),
        "energy": ("energy", energy, {"ylabel": "share of squared norm", "ylim": (0, 1)}),
    }
    across = ("index, % of full rank", "directions kept, % of full rank")
    with style.applied():
        fig, panels = curves.titled_panels(list(asked), 2, 2.8)
        for axes, (y, table, told), x in zip(panels.values(), asked.values(), across, strict=True):
            _lines(axes, table.assign(share=100 * table["share_of_rank"]), x="share", y=y)
            axes.set(xlabel=x, **told)
        panels["singular values"].set_ylim(bottom=max(1e-4, values["ratio"].min() / 2))  # a merge's last may be nought
        _named_below(fig, panels.values())
    kept = energy["share_of_rank"].iloc[(energy["share_of_rank"] - 0.05).abs().argmin()]
    near = energy[energy["share_of_rank"] == kept]
    told = [f"{style.language_name(r.expert)} {_percent(r.energy)}" for r in near.itertuples()]
    alt = (
        "Two charts, one line an expert: falling singular values, and the rising share of squared norm in the leading "
    )
    alt += f"directions. The first {_percent(kept)} of the directions hold: {', '.join(told)}."
    caption = "Singular values of the updates and the energy they hold, averaged over the network's matrices."
    return Figured(fig, caption, alt, pd.concat([values, energy]))
