"""Models that are merged while they listen: what a clip costs under each, and whether it was heard by the right one."""

from collections.abc import Sequence

import pandas as pd

from ..figures.style import language_name
from ..study import store


def costs(rows: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return the seconds that a test clip took with each system, in the order of the rows.

    Args:
        rows: of one experiment, as :func:`speechbook.study.store.rows` returns them.
        against: the system that is the unit.

    Returns:
        Columns ``system, seconds, times``: choosing, making models and decoding together, of one clip; and how many
        times as long as with ``against``.
    """
    own = rows[rows["domain"] != "all"].groupby("system", sort=False)[["seconds", "n_utterances"]].sum()
    seconds = own["seconds"] / own["n_utterances"]
    return pd.DataFrame({"seconds": seconds, "times": seconds / seconds[against]}).reset_index()


def alike(profile: str, experiment: str, systems: Sequence[str], other: str) -> pd.DataFrame:
    """Return how many clips of each language have the same transcript from two systems, in per cent.

    Args:
        profile: whose results.
        experiment: of one task and seed, with committed transcripts.
        systems: one column each.
        other: the system that they are held against.

    Returns:
        One line a language, one for all clips.

    Raises:
        StudyError: it has no transcripts.
    """
    found = store.statistics(profile, f"{experiment}.predictions")
    said = found.pivot(index=["cell", "id"], columns="system", values="text")
    same = said[list(systems)].eq(said[other], axis=0)
    shares = same.groupby("cell").mean().rename(index=language_name)
    shares.loc["all clips"] = same.mean()
    return (100 * shares).round(1).rename_axis(index=None, columns=None)
