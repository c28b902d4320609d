"""Tests that compare systems on groups of domains: in domain, out of domain, other English, other languages."""

from collections.abc import Sequence

from .measures import MARGIN
from .parts import Part
from .results import NotRunError, Results

SIDES = {"better": "below", "worse": "above", "equal": "within"}  # of zero, for errors


def paired(
    results: Results, experiment: str, system: str, against: str, group: str, claimed: str = "better"
) -> list[Part]:
    """Difference of two systems' mean errors over a group; equal means within the margin of the second one's error."""
    difference = results.group_paired(experiment, group, system, against)
    scores = [results.group_average(experiment, group, name) for name in (system, against)]
    bound = MARGIN * scores[1] if claimed == "equal" else 0.0
    note = f"; {scores[0]:.1f} and {scores[1]:.1f}" + (f"; margin {bound:.1f}" if bound else "")
    what = f"{system} − {against}, {group}"
    return [Part(what, *difference, "WER", SIDES[claimed], bound, note)]


def best(results: Results, experiment: str, systems: Sequence[str], others: Sequence[str], group: str) -> list[Part]:
    """Tests that the best of some systems beats all merges named ``others``; the best is chosen on the same clips."""
    winner = min(systems, key=lambda name: results.group_average(experiment, group, name))
    return [part for other in others for part in paired(results, experiment, winner, other, group)]


def swept(
    results: Results, experiment: str, prefix: str, against: str, group: str, claimed: str, last: bool = False
) -> list[Part]:
    """The same for the first (or last) value of a sweep, whose systems are called ``PREFIX NAME=VALUE``."""
    names = {
        name: float(name.rpartition("=")[2])
        for name in results.groups(experiment)["system"].unique()
        if name.startswith(f"{prefix} ") and "=" in name and name.rpartition(" ")[0] == prefix
    }
    if not names:
        raise NotRunError(f"{experiment} has no rows of {prefix}")
    chosen = (max if last else min)(names, key=names.get)
    return paired(results, experiment, chosen, against, group, claimed)
