"""Models that are merged while they listen: whether a clip was heard by the right one."""

from collections.abc import Sequence

import pandas as pd

from ..figures.style import language_name
from ..study import store


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
