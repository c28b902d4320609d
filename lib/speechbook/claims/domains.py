"""Tests that compare systems on groups of cells: domains in and out of domain, other English, trained languages."""

from collections.abc import Sequence

from .parts import Part
from .results import SIDES, NotRunError, Results, gain


def paired(
    results: Results, experiment: str, system: str, against: str, group: str, claimed: str = "better", least: float = 0
) -> list[Part]:
    """Difference of two systems' mean errors over a group, at ``least`` so many points if it is claimed to be better.

    Equal means within the margin of the second one's error.
    """
    difference = results.group_paired(experiment, group, system, against)
    scores = [results.group_average(experiment, group, name) for name in (system, against)]
    bound = results.margin("asr", scores[1]) if claimed == "equal" else -least
    told = f"; margin {bound:.1f}" if claimed == "equal" else f"; at least {least:g} claimed" if least else ""
    note = f"; {scores[0]:.1f} and {scores[1]:.1f}{told}"
    what = f"{system} − {against}, {group}"
    return [Part(what, *difference, "WER", SIDES[claimed]["asr"], bound, note)]


def relative(results: Results, experiment: str, system: str, against: str, group: str, least: float) -> list[Part]:
    """Relative gain over a group, in per cent of the other system's error, which is taken as exact."""
    difference = results.group_paired(experiment, group, system, against)
    found = gain(difference, results.group_average(experiment, group, against))
    return [Part(f"gain of {system} over {against}, {group}", *found, "%", "above", least)]


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
