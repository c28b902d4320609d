"""Tables and figures of the chapters about domains: averages over groups of domains, and differences.

They read frames (:mod:`.results`), whose groups are those of :mod:`speechbook.study.comparisons`, and rows.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..figures import curves, style
from ..figures.figured import Figured
from ..study import experiments, store
from .outcomes import plan_of
from .series import single

PUBLISHED = {  # columns of the paper's table, and the groups they are about
    "in domain": "ep_in_domain_wer", "out of domain": "ep_ood_wer", "full average": "ep_full_avg_wer",
    "other English": "openasr_hf_wer", "other languages": "fleurs_avg_er",
}  # fmt: skip
NAMED = 6  # systems named in each panel: the first on the lower left border of the cloud
TOUCHING = 0.05  # of a panel's span: dots nearer than this share a label


def overview(means: pd.DataFrame, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one line a system and one column a group, ready to be read: per cent ± half of the 95 % interval.

    Args:
        means: what :func:`speechbook.tables.results.averages` returns.
        rows: of the experiment; with them the λ chosen on dev is shown, where there was one to choose, and the number
            of hypotheses that ran away into repetition, in everything that the system was tested on.
    """
    half = (means["high"] - means["low"]) / 2
    cells = means.assign(cell=means["value"].map("{:.1f}".format) + style.PLUS_MINUS + half.map("{:.1f}".format))
    table = cells.pivot(index="system", columns="place", values="cell").fillna("")
    order = list(dict.fromkeys(means["system"])), list(dict.fromkeys(means["place"]))
    table = table.loc[order]
    if rows is not None:
        own = single(rows)
        chosen = own.drop_duplicates("system").set_index("system")["params"].map(lambda found: found.get("scaling"))
        table["λ"] = chosen.reindex(table.index).map(lambda value: "" if pd.isna(value) else f"{value:.3g}")
        table["runaway"] = own.groupby("system")["runaway"].sum()
    return table.rename_axis(index=None, columns="WER, %")


def published() -> pd.DataFrame:
    """Return the paper's table with the same columns; values it is not known to have are empty."""
    source = experiments.experiments()["domains"].published.file
    table = pd.read_csv(store.project_root() / "experiments" / "published" / source).set_index("system")
    named = table.rename(columns={column: group for group, column in PUBLISHED.items()})[list(PUBLISHED)]
    shown = named.map(lambda value: "" if pd.isna(value) else f"{value:.2f}")
    return shown.rename_axis(index=None, columns="published, %")


def of_domains(found: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the error of every system in each single domain and language, per cent, ready to be read.

    Args:
        found: what :func:`speechbook.tables.evidence.frame` returns.
        rows: of the experiment, whose order the systems and places have.
    """
    own = found[found["against"].isna() & (found["of"] == "place")]
    table = own.assign(cell=own["value"].map("{:.0f}".format)).pivot(index="system", columns="place", values="cell")
    plan = plan_of(rows)
    systems = dict.fromkeys(system.system for system in plan.systems if system.system in table.index)
    columns = dict.fromkeys(cell.name for cell in (*plan.cells, *plan.also))
    return table.loc[list(systems), list(columns)].fillna("").rename_axis(index=None, columns="WER, %")


def plane(means: pd.DataFrame, *, x: str = "in domain") -> Figured:
    """Draw every system's error in domain against its error elsewhere, a panel each; the best corner is lower left.

    Args:
        means: what :func:`speechbook.tables.results.averages` returns.
        x: group on the horizontal axis; the other groups are panels, except averages that contain it.
    """
    wide = means.pivot(index=["system", "method"], columns="place", values="value").reset_index()
    groups = [g for g in dict.fromkeys(means["place"]) if g not in (x, "full average")]
    leading = {}
    with style.applied():
        fig = Figure(figsize=(style.WIDTH, 4.2), layout="constrained")
        panels = fig.subplots(1, len(groups), squeeze=False)[0]
        for axes, group in zip(panels, groups, strict=True):
            inside = wide.dropna(subset=[x, group])
            for family, own in inside.groupby(inside["method"].map(style.family), sort=False):
                axes.plot(own[x], own[group], style.MARKERS[family], color=style.COLOURS[family], markersize=5.5,
                          markeredgecolor="white", markeredgewidth=0.5, label=style.LABELS[family])  # fmt: skip
            leading[group] = border(inside, x, group)
            first = inside.set_index("system").loc[leading[group][:NAMED], [x, group]]
            for numbers, place in _numbered(first.to_numpy(), np.ptp(inside[[x, group]].to_numpy(), axis=0)):
                axes.annotate(numbers, place, (-5, -4), textcoords="offset points", fontsize=8, ha="right")
            axes.margins(0.1)
            key = "\n".join(f"{number} {system}" for number, system in enumerate(first.index, 1))
            axes.set(title=group, xlabel=f"WER {x}, %\n{key}", ylabel="WER, %" if axes is panels[0] else "")
        curves.legend(fig, panels)
    told = [f"{group}: " + ", ".join(systems) for group, systems in leading.items()]
    alt = f"Scatter of error {x} against error elsewhere, one dot a system. Not beaten on both, by panel. "
    caption = f"Word error: {x} (across) and elsewhere (up), one dot for each system. Lower "
    caption += "left is better: no other system has fewer errors on both axes than a numbered one."
    return Figured(fig, caption, alt + "; ".join(told) + ".", wide)


def _numbered(places: np.ndarray, spans: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the numbers of dots, ``[n, 2]``, and where they stand; those of dots that nearly touch stand together.

    They stand left of a dot: nothing lies lower left of the border.
    """
    apart = np.any(np.abs(np.diff(places, axis=0)) > TOUCHING * spans, axis=1)
    for together in np.split(np.arange(len(places)), np.flatnonzero(apart) + 1):
        yield ", ".join(str(number + 1) for number in together), places[together[0]]


def border(table: pd.DataFrame, x: str, y: str) -> list[str]:
    """Return the systems that no other beats on both of two groups, the lowest on the first group first."""
    kept, lowest = [], float("inf")
    for row in table.sort_values([x, y]).to_dict("records"):
        if row[y] < lowest:
            kept.append(row["system"])
            lowest = row[y]
    return kept
