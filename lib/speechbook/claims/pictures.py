"""The verdicts on claims as pictures: one tile a claim, before and after where they were measured again."""

import pandas as pd

from ..figures import overviews
from ..figures.figured import Figured
from ..tables import evidence
from . import OLDER, measured, verdicts
from .parts import LOOKS

AGED = "*"  # behind a claim that was not measured again
PAPERS = {"L": "LoRS-Merging", "B": "many domains", "G": "a blog post", "F": "fusing"}  # of claims, by the letter


def picture(found: pd.DataFrame) -> Figured:
    """Return the verdicts on all claims in one figure, a line a paper and a tile a claim.

    Args:
        found: what :func:`speechbook.claims.verdicts` returns.
    """
    cases = found["id"] + found["older"].map({True: AGED, False: ""})
    told = f" {AGED}: an {OLDER}." if found["older"].any() else ""
    shown = found.assign(id=cases, group=found["id"].str[0].map(PAPERS))
    return _tiles(shown, f"The verdict on every claim, a tile each, a line a paper.{told}")


def changed(before: str, after: str) -> Figured:
    """Return the verdicts on the claims that were measured again, as they were and as they are.

    Args:
        before: profile of the rows there were.
        after: profile that the protocol governs.

    Raises:
        BookError: no claim was measured again.
    """
    novel = verdicts(after, clips=evidence.NOVEL)
    frames = {"before": verdicts(before), "all clips": verdicts(after), "novel clips": novel}
    again = measured(frames["all clips"])
    found = pd.concat([frame[again].assign(group=name) for name, frame in frames.items()], ignore_index=True)
    return _tiles(found, "The verdict on every claim that was measured again: before, and now on all and novel clips.")


def _tiles(found: pd.DataFrame, caption: str) -> Figured:
    table = found.rename(columns={"id": "case", "verdict": "outcome"})[["group", "case", "outcome"]]
    return overviews.tiles(table, looks=LOOKS, caption=caption)
