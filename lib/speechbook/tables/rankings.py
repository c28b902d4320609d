"""How the loss on given transcripts ranks merges that were decoded too, and what either measure takes."""

import pandas as pd

from speechmerge.merging import searching

from ..study import experiments, store

PANELS = {"loss": "loss, nats a token", "error": "word errors, %"}  # what is drawn of each measure


def decoded(profile: str, experiment: str) -> pd.DataFrame:
    """Return one line a merge and λ of which both measures were taken on development speech, by rising λ.

    Args:
        profile: whose results.
        experiment: with systems that are ``exhaustive``.

    Returns:
        Columns ``system, method, scaling, loss`` (nats a token), ``error`` (word errors, a fraction), ``loss_seconds``
        and ``decode_seconds``.
    """
    chosen = store.choices(profile, experiment)
    entries = [entry for entry in experiments.experiments()[experiment].systems if entry.exhaustive]
    lines = [
        {"system": entry.system.partition(",")[0], "method": entry.method, **tried}
        for entry in entries
        for step, values in chosen.items()
        if step.startswith(f"tune {entry.system} ")
        for tried in sorted(values, key=lambda one: one["scaling"])
    ]
    return pd.DataFrame(lines)


def curves(found: pd.DataFrame) -> pd.DataFrame:
    """Return both measures of what :func:`decoded` returns, as :func:`speechbook.figures.curves.lines` draws them."""
    both = [
        found.assign(panel=panel, x=found["scaling"], value=found[measure] * (100 if measure == "error" else 1))
        for measure, panel in PANELS.items()
    ]
    return pd.concat(both, ignore_index=True).assign(low=float("nan"), high=float("nan"))


def agreement(found: pd.DataFrame) -> pd.DataFrame:
    """Return one line a method: how alike the two measures rank its merges, and what choosing by loss costs.

    Args:
        found: what :func:`decoded` returns.

    Returns:
        Columns: number of values; Spearman's rank correlation of loss and error; λ with the lowest loss and with the
        lowest error; word errors, in points, above the lowest, of the λ with the lowest loss and of the best of the
        few that are decoded after a search by loss.
    """
    lines = {}
    for system, own in found.groupby("system", sort=False):
        ranked, least = own.sort_values("loss"), own["error"].min()
        finalists = ranked["error"].head(searching.FINALISTS).min()
        lines[system] = {
            "values": len(own),
            "rank correlation": own["loss"].corr(own["error"], method="spearman"),
            "λ by loss": ranked["scaling"].iloc[0],
            "λ by errors": own.loc[own["error"].idxmin(), "scaling"],
            "lost by loss alone": 100 * (ranked["error"].iloc[0] - least),
            f"lost with {searching.FINALISTS} decoded": 100 * (finalists - least),
        }
    return pd.DataFrame.from_dict(lines, orient="index").round(2)
