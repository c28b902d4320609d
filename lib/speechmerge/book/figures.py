"""The figures of the book: each takes finished numbers and returns a :class:`~speechmerge.book.figured.Figured`.

No metric is computed here; a figure only chooses where a number stands. Rates are fractions in tables and per cent on
axes.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import style
from .figured import Figured


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _dots(axes: Axes, table: pd.DataFrame, order: Sequence[str], size: float = 7) -> None:
    """Draw one dot a system at its word error rate, with its 95 % interval; the first of ``order`` is on top."""
    for row in table.itertuples():
        family = style.family(row.method)
        spread = [[100 * (row.wer - row.ci_low)], [100 * (row.ci_high - row.wer)]]
        axes.errorbar(
            100 * row.wer, order.index(row.system), xerr=spread, fmt=style.MARKERS[family], color=style.COLOURS[family],
            markersize=size, markeredgecolor="white", markeredgewidth=0.6, elinewidth=1.6, capsize=2.5,
        )  # fmt: skip
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def _lines(count: int) -> list[dict]:
    """Colour, dashes and width of each of ``count`` lines."""
    pairs = zip(itertools.cycle(style.LINES), itertools.cycle(style.DASHES), strict=False)
    return [{"color": c, "linestyle": d, "linewidth": 1.4} for c, d in itertools.islice(pairs, count)]


def systems(measured: pd.DataFrame, published: pd.DataFrame | None = None) -> Figured:
    """Draw the error of each system over all languages, beside the published values where there are any.

    Args:
        measured: columns ``system, method, language, wer, ci_low, ci_high`` (fractions), in the order to be shown;
            the rows of language ``pooled`` are drawn.
        published: columns ``system, language, published`` (per cent); in a panel and axis of its own.
    """
    measured = measured[measured["language"] == "pooled"]
    order = list(measured["system"])
    joined = measured if published is None else measured.merge(published, on=["system", "language"], how="left")
    with style.applied():
        fig = Figure(figsize=(style.WIDTH, 0.9 + 0.3 * len(order)), layout="constrained")
        panels = fig.subplots(
            1, 1 if published is None else 2, squeeze=False, width_ratios=[1] if published is None else [3, 2]
        )[0]
        _dots(panels[0], measured, order)
        panels[0].set(title="measured here", xlabel="word error rate, % (95 % interval)")
        panels[0].set_yticks(range(len(order)), order)
        if published is not None:
            for row, (method, value) in enumerate(zip(joined["method"], joined["published"], strict=True)):
                family = style.family(method)
                panels[1].plot(value, row, style.MARKERS[family], color=style.COLOURS[family], markersize=6)
            panels[1].set(title="published", xlabel="word error rate, %", ylim=panels[0].get_ylim())
            panels[1].set_yticks(range(len(order)), [])
            panels[1].grid(axis="y", visible=False)
    told = [
        f"{r.system} {_percent(r.wer)} ({_percent(r.ci_low)} to {_percent(r.ci_high)})" for r in measured.itertuples()
    ]
    alt = (
        "Dot chart of word error rates over all languages with 95 % intervals, measured here: " + ", ".join(told) + "."
    )
    if published is not None:
        alt += " Published: " + ", ".join(f"{r.system} {r.published:.1f} %" for r in joined.itertuples()) + "."
    caption = "Word error rate over all languages, words pooled; bars are 95 % bootstrap intervals."
    caption += (
        " Published values come from other models and other speech, hence their own axis."
        if published is not None
        else ""
    )
    return Figured(fig, caption, alt, joined)


def languages(measured: pd.DataFrame) -> Figured:
    """Draw the error of each system in each language, one panel a language.

    Args:
        measured: columns ``system, method, language, wer, ci_low, ci_high`` (fractions), in the order to be shown;
            rows over all languages are left out.
    """
    measured = measured[~measured["language"].isin(("macro", "pooled"))]
    order, codes = list(dict.fromkeys(measured["system"])), list(dict.fromkeys(measured["language"]))
    columns = min(3, len(codes))
    lines = -(-len(codes) // columns)
    with style.applied():
        fig = Figure(figsize=(style.WIDTH, lines * (0.75 + 0.24 * len(order))), layout="constrained")
        panels = fig.subplots(lines, columns, squeeze=False)
        for number, axes in enumerate(panels.flat):
            if number >= len(codes):
                axes.set_axis_off()
                continue
            _dots(axes, measured[measured["language"] == codes[number]], order, size=5.5)
            axes.set_title(style.language_name(codes[number]))
            axes.set_yticks(range(len(order)), order if number % columns == 0 else [])
        fig.supxlabel("word error rate, % (95 % interval)", fontsize=9.5)
    best = measured.loc[measured.groupby("language", sort=False)["wer"].idxmin()]
    told = [f"{style.language_name(r.language)}: {r.system} {_percent(r.wer)}" for r in best.itertuples()]
    alt = (
        f"Dot charts of the word error rate of {len(order)} systems, one panel a language. Lowest: "
        + "; ".join(told)
        + "."
    )
    caption = "The same systems in each language. Every panel has its own axis; bars are 95 % bootstrap intervals."
    return Figured(fig, caption, alt, measured)


def cosines(table: pd.DataFrame) -> Figured:
    """Draw the cosines between task vectors as a heat map.

    Args:
        table: columns ``a, b, cosine``, every pair of experts once; order as it is to be shown.
    """
    names = list(dict.fromkeys([*table["a"], *table["b"]]))
    grid = np.full((len(names), len(names)), np.nan)
    for row in table.itertuples():
        i, j = names.index(row.a), names.index(row.b)
        grid[i, j] = grid[j, i] = row.cosine
    with style.applied():
        fig = Figure(figsize=(0.62 * style.WIDTH, 0.52 * style.WIDTH), layout="constrained")
        axes = fig.subplots()
        image = axes.imshow(grid, cmap="cividis", vmin=min(0, table["cosine"].min()))
        labels = [style.language_name(name) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=35, ha="right")
        axes.set_yticks(range(len(names)), labels)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        middle = np.mean(image.get_clim())
        for i, j in np.ndindex(grid.shape):
            value = grid[i, j]
            shade = "#777777" if i == j else ("white" if value < middle else "black")
            axes.text(j, i, "1" if i == j else f"{value:.2f}", ha="center", va="center", color=shade, fontsize=8.5)
        fig.colorbar(image, ax=axes, shrink=0.8, label="cosine")
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
    parts, names = list(dict.fromkeys(table["part"])), list(dict.fromkeys(table["expert"]))
    columns = min(3, len(parts))
    lines = -(-len(parts) // columns)
    with style.applied():
        fig = Figure(figsize=(style.WIDTH, 2.3 * lines), layout="constrained")
        panels = fig.subplots(lines, columns, squeeze=False, sharey=True)
        for axes, part in zip(panels.flat, parts, strict=False):
            for name, line in zip(names, _lines(len(names)), strict=True):
                own = table[(table["part"] == part) & (table["expert"] == name)]
                axes.plot(own["layer"], 100 * own["relative_norm"], marker=".", label=style.language_name(name), **line)
            axes.set(
                title=part.replace("mlp", "MLP"),
                xlabel="layer",
                xticks=sorted(table[table["part"] == part]["layer"].unique()),
            )
        for axes in panels.flat[len(parts) :]:
            axes.set_axis_off()
        for line in panels:
            line[0].set_ylabel("relative update, %")
        fig.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(names)))
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
    names = list(dict.fromkeys(values["expert"]))
    with style.applied():
        fig = Figure(figsize=(style.WIDTH, 2.9), layout="constrained")
        panels = fig.subplots(1, 2)
        for axes, table, column, marker in ((panels[0], values, "ratio", None), (panels[1], energy, "energy", ".")):
            for name, line in zip(names, _lines(len(names)), strict=True):
                own = table[table["expert"] == name]
                axes.plot(
                    100 * own["share_of_rank"], own[column], marker=marker, label=style.language_name(name), **line
                )
        panels[0].set(
            title="singular values", ylabel="relative to the largest", xlabel="index, % of full rank", yscale="log"
        )
        panels[1].set(
            title="energy", ylabel="share of squared norm", xlabel="directions kept, % of full rank", ylim=(0, 1)
        )
        panels[1].legend(loc="upper left" if energy["energy"].max() < 0.6 else "lower right")
    kept = energy["share_of_rank"].iloc[(energy["share_of_rank"] - 0.05).abs().argmin()]
    near = energy[energy["share_of_rank"] == kept]
    told = [f"{style.language_name(r.expert)} {_percent(r.energy)}" for r in near.itertuples()]
    alt = (
        "Two charts, one line an expert: falling singular values, and the rising share of squared norm in the leading "
    )
    alt += f"directions. The first {_percent(kept)} of the directions hold: {', '.join(told)}."
    caption = "Singular values of the experts' updates and the energy they hold, averaged over the network's matrices."
    return Figured(fig, caption, alt, pd.concat([values, energy]))
