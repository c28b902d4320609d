"""A figure of merges so small that every entry shows: what the experts say, and what each version makes of it."""

import pandas as pd
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
        panels[0].set_xticks([start - 0.4 for start in starts.values()], list(starts), ha="left", fontweight="bold")
        panels[0].xaxis.tick_top()
        panels[1].set_xticks(range(len(tensors)), rows.columns.get_level_values(1))
        for axes in panels:
            axes.tick_params(length=0)
            for start in list(starts.values())[1:]:
                axes.axvline(start - 0.5, color="white", linewidth=6)
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
    axes.imshow(rows, cmap="PuOr_r", vmin=-2 * strongest, vmax=2 * strongest, aspect="auto")
    for i, line in enumerate(rows.to_numpy()):
        for j, value in enumerate(line):
            if value:
                shade = "white" if abs(value) > 1.2 * strongest else "black"
                axes.text(j, i, f"{value:g}".replace("-", "−"), ha="center", va="center", color=shade, fontsize=8.5)
    axes.set_yticks(range(len(rows)), rows.index)
    axes.set_xticks(())
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
