"""A figure of merges so small that every entry shows: what the experts say, and what each version makes of it."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import style
from .figured import Figured


def entries(rows: pd.DataFrame, experts: int) -> Figured:
    """Draw entries as cells with their numbers: the experts' above, what was made of them below.

    Args:
        rows: one line an expert or a merge, the experts first; columns ``(tensor, number of the entry)``.
        experts: how many lines are experts.
    """
    above, below = rows.iloc[:experts], rows.iloc[experts:]
    strongest = above.abs().max().max()
    with style.applied():
        fig = Figure(figsize=(style.WIDTH, 0.6 + 0.34 * len(rows)), layout="constrained")
        panels = fig.subplots(2, 1, height_ratios=[len(above), len(below)])
        _cells(panels[0], above, strongest)
        _cells(panels[1], below, strongest)
        tensors = list(rows.columns.get_level_values(0))
        starts = {tensor: tensors.index(tensor) for tensor in dict.fromkeys(tensors)}
        panels[0].set_xticks([start + 0.1 for start in starts.values()], list(starts), ha="left", fontweight="bold")
        panels[0].xaxis.tick_top()
        panels[1].set_xticks(
            [place + 0.5 for place in range(len(tensors))], rows.columns.get_level_values(1), rotation=0
        )
        for axes in panels:
            axes.tick_params(length=0)
            for start in list(starts.values())[1:]:
                axes.axvline(start, color="white", linewidth=6)
    told = []
    for name, line in below.iterrows():
        kept = line[line != 0]
        told.append(
            f"{name}: " + ", ".join(f"{tensor} {number} {value:+.2f}" for (tensor, number), value in kept.items())
        )
    alt = (
        f"Cells of {rows.shape[1]} entries for {experts} experts and {len(below)} merges. Not zero are, in "
        + "; ".join(told)
        + "."
    )
    caption = "Every entry of the experts' task vectors (above) and of what each version makes of them (below)."
    return Figured(fig, caption, alt, rows.T.reset_index(names=["tensor", "entry"]))


def _cells(axes: Axes, rows: pd.DataFrame, strongest: float) -> None:
    """Draw one block of cells; the colour stops at twice the strongest entry of an expert."""
    told = rows.map(lambda value: f"{value:g}".replace("-", "−") if value else "")
    look = {"cmap": "PuOr_r", "vmin": -2 * strongest, "vmax": 2 * strongest, "cbar": False}
    sns.heatmap(rows, annot=told, annot_kws={"size": 8.5, "color": "black"}, fmt="", ax=axes, **look)
    axes.set(xlabel="", ylabel="", xticks=())
    axes.tick_params("y", rotation=0)
