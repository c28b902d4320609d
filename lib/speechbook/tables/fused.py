"""Frozen models that were fused, as pages and claims read them: errors in per cent, differences in points.

A frame of :func:`read` has a line for each system: a set of upstreams and an interface on a task, of one training seed.

- ``task, panel``: the task, and its title.
- ``set, models, size``: letters of the set, names of its upstreams, and how many they are.
- ``interface, system``: its name, and its title.
- ``variant``: what differs from the profile, such as ``window=clip``; empty for nothing.
- ``value, low, high``: error rate, equal error rate or character error rate on test clips, with its 95 % interval.
- ``dev, rate, parameters, seconds``: error on dev, the learning rate chosen there, numbers of the interface, training.
"""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from speechmerge.errors import StudyError
from speechmerge.fusion import interfaces, tasks
from speechmerge.fusion.upstreams import MADE_OF, described

from ..study import fusion_planning, store
from ..study.fusion_experiment import LATE
from ..study.fusion_planning import beside
from .results import ordered

SAME = ["task", "set", "interface", "variant", "seed"]  # what tells the lines of a frame apart
LAYER = "layer:"  # begins the interfaces that take one layer
ALONE, TOGETHER = "hconv", "chconv"  # the same interface of one upstream, which sets are held against, and of several
RATES = {
    "same": "one rate for both, points", "own": "each its own rate, points", "first": "HConv's rate",
    "second": "the weighted sum's",
}  # fmt: skip
ERRORS = {"error": "clips wrong, %", "eer": "equal error rate, %", "cer": "characters wrong, %"}


def read(profile: str, *experiments: str, seed: int | None = None) -> pd.DataFrame:
    """Return the frame of some experiments; a system that several of them have stands there once.

    Args:
        profile: of fusion, or one beside which there is one (:func:`speechbook.study.fusion_planning.beside`).
        experiments: those without rows are left out.
        seed: of the trainings; None for all.

    Raises:
        StudyError: none of them has rows.
    """
    found = _placed(_lines(profile, "fused", experiments), beside(profile))
    found = found.assign(parameters=found["interface_parameters"], unit=found["metric"].map(ERRORS))
    return _in_points(found, {"value": "error", "low": "ci_low", "high": "ci_high", "dev": "dev"}, SAME, seed)


def differences(profile: str, *experiments: str, seed: int | None = None) -> pd.DataFrame:
    """Return the paired differences of systems, first minus second, in points of error.

    Columns as of :func:`read`, with ``against`` (an interface) and ``beside`` (the letters of its set).

    Raises:
        StudyError: none of the experiments has any.
    """
    found = _lines(profile, "paired", experiments)
    rival = found["against"].str.split(" ", n=2)
    found = _placed(found.assign(against=rival.str[0], beside=rival.str[1]), beside(profile))
    points = {"value": "difference", "low": "ci_low", "high": "ci_high"}
    return _in_points(found, points, [*SAME, "against", "beside"], seed)


def _lines(profile: str, kind: str, experiments: Sequence[str]) -> pd.DataFrame:
    """Return a table of several experiments, those that have it."""
    name = beside(profile)
    lines = [line for one in experiments for line in store.lines(name, f"{one}.{kind}")]
    return pd.DataFrame(lines) if lines else store.statistics(name, f"{experiments[0]}.{kind}")  # says what to do


def _in_points(found: pd.DataFrame, points: dict[str, str], same: list[str], seed: int | None) -> pd.DataFrame:
    """Add shares as points, and keep one line of each identity, of one seed or all."""
    found = found.assign(**{new: 100 * found[old].astype(float) for new, old in points.items()})
    found = found if seed is None else found[found["seed"] == seed]
    return found.drop_duplicates(same, ignore_index=True)


def _placed(found: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Say what task, set and interface a line is about, in the order of the profile."""
    settings = fusion_planning.profiles()[profile]
    sets = list(dict.fromkeys(letters for some in settings.sets.values() for letters in some))
    placed = found.assign(
        set=found["upstreams"],
        panel=found["task"].map(lambda name: tasks.find(name).title),
        models=found["upstreams"].map(lambda letters: named(profile, letters)),
        size=found["upstreams"].map(lambda letters: len(set(letters))),
        system=found["interface"].map(title),
        variant=found["variant"].str.partition(" ")[2],
    )
    return ordered(placed, task=dict.fromkeys([*settings.tasks, *tasks.TASKS]), set=sorted(sets, key=len))


def named(profile: str, letters: str) -> str:
    """Return the names of the upstreams of a set: ``Whisper-tiny + Moonshine``, ``Whisper-tiny twice``."""
    upstreams, counted = fusion_planning.profiles()[beside(profile)].upstreams, Counter(letters)
    times = {1: "", 2: " twice"}
    return " + ".join(_name(upstreams[x]) + times.get(n, f" {n} times") for x, n in counted.items())


def _name(upstream: str) -> str:
    """Return what an upstream is called: a model of the study by its system, any other by its title."""
    return upstream.partition(MADE_OF)[2] or described(upstream).title


def title(interface: str) -> str:
    """Return what an interface is called in tables."""
    if interface == LATE:
        return "Averaged answers"
    declared = interfaces.find(interface)
    return f"Layer {interface.removeprefix(LAYER)}" if interface.startswith(LAYER) else declared.title


def layers(found: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of single layers, with their number as ``x`` and the upstream as ``system``."""
    own = found[found["interface"].str.startswith(LAYER)]
    x = own["interface"].str.removeprefix(LAYER).astype(int)
    return own.assign(x=x, system=own["models"]).sort_values("x", kind="stable", ignore_index=True)


def lost(found: pd.DataFrame) -> pd.Series:
    """Return by how many points the layer that dev prefers is behind the best one on test, by task and upstream."""
    alone = layers(found)
    groups = alone.groupby(["panel", "models"], sort=False)
    return alone.loc[groups["dev"].idxmin()].set_index(["panel", "models"])["value"] - groups["value"].min()


def peaks(found: pd.DataFrame) -> pd.DataFrame:
    """Return, for each task and upstream, the layer that dev prefers beside the last, and the weights of the sum.

    Errors are those on test; the column of weights names the layer that a weighted sum gives most.
    """
    alone, lines = layers(found), []
    for (panel, models), own in alone.groupby(["panel", "models"], sort=False):
        best, last = own.loc[own["dev"].idxmin()], own.loc[own["x"].idxmax()]
        line = {"task": panel, "upstream": models, "layer by dev": f"{best.x} of 0 to {last.x}"}
        line |= {"its error": f"{best.value:.1f}", "the last layer's": f"{last.value:.1f}"}
        sums = found[(found["panel"] == panel) & (found["models"] == models) & (found["interface"] == "ws")]
        for [weights] in sums["weights"]:
            most = max(range(len(weights)), key=weights.__getitem__)
            line["most weight"] = f"layer {most}: {weights[most]:.2f}"
        lines.append(line)
    return pd.DataFrame(lines).set_index(["task", "upstream"])


def rates(profile: str, experiment: str) -> pd.DataFrame:
    """Return the error on dev at every learning rate that was tried, for each task and interface.

    Returns:
        Columns ``task, panel, interface, system, x, value, chosen``; ``x`` is the rate.

    Raises:
        StudyError: the experiment has none.
    """
    name, lines = beside(profile), []
    for row in store.statistics(name, f"{experiment}.chosen").itertuples():
        _, task, interface, *varied = row.step.split(" ")  # joint rates, of several upstreams, are varied ones too
        for one in () if varied else row.tried:
            place = {"task": task, "panel": tasks.find(task).title, "interface": interface, "system": title(interface)}
            lines.append(place | {"x": one["rate"], "value": 100 * one["dev"], "chosen": one["rate"] == row.rate})
    return pd.DataFrame(lines)


def at_the_end(tried: pd.DataFrame) -> str:
    """Tell how many chosen rates are the lowest or the highest that was tried for their task and interface."""
    groups = tried.groupby(["task", "interface"])["x"]
    ends = (tried["x"] == groups.transform("min")) | (tried["x"] == groups.transform("max"))
    return f"{(ends & tried['chosen']).sum()} of {tried['chosen'].sum()}"


def at_one_rate(tried: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return two interfaces' errors on dev at the lowest rate that all tried and at the best of each, a line a task.

    Returns:
        Index ``panel``; ``same`` and ``own``: first minus second, in points; ``first`` and ``second``: their own rates.
    """
    shared = tried.groupby("x").size()
    rate = shared.index[shared == shared.max()].min()
    both = {name: tried[tried["interface"] == name].set_index("panel") for name in (first, second)}
    same = {name: table[table["x"] == rate]["value"] for name, table in both.items()}
    best = {name: table[table["chosen"]] for name, table in both.items()}
    found = {"same": same[first] - same[second], "own": best[first]["value"] - best[second]["value"]}
    return pd.DataFrame(found | {"first": best[first]["x"], "second": best[second]["x"]})


def reductions(found: pd.DataFrame, compared: pd.DataFrame, interface: str, against: str) -> pd.DataFrame:
    """Return by how many per cent of its error an interface lowers that of another on the same upstreams.

    Args:
        found: a frame of :func:`read`.
        compared: of :func:`differences`.
        interface: by its name.
        against: by its name.

    Returns:
        The lines of ``compared``, with ``value, low, high`` in per cent of the rival's error; above zero is better.
        Those with a rival that makes no errors are left out.
    """
    same = [name for name in SAME if name != "interface"]
    own = compared[(compared["interface"] == interface) & (compared["against"] == against)]
    own = own[own["beside"] == own["set"]]
    rival = found[(found["interface"] == against) & (found["value"] > 0)].set_index(same)["value"]
    own = own.join(rival.rename("rival"), on=same).dropna(subset="rival")
    share = -100 / own["rival"]
    return own.assign(value=own["value"] * share, low=own["high"] * share, high=own["low"] * share)


def best(found: pd.DataFrame, interface: str, size: int = 1) -> pd.DataFrame:
    """Return for each task the set of so many upstreams, with some interface, that dev prefers."""
    own = found[(found["size"] == size) & (found["interface"] == interface) & (found["set"].str.len() == size)]
    return own.loc[own.groupby("task", sort=False)["dev"].idxmin()].reset_index(drop=True)


def by_dev(found: pd.DataFrame) -> pd.DataFrame:
    """Return, for each task and number of upstreams, the set that dev takes, its error on test, and the lowest there.

    Args:
        found: a frame of one interface.
    """
    lines = []
    for (panel, size), own in found.groupby(["panel", "size"], sort=False):
        taken = own.loc[own["dev"].idxmin()]
        line = {"task": panel, "models": size, "sets": len(own), "set that dev takes": taken["models"]}
        lines.append(line | {"its error": f"{taken['value']:.1f}", "lowest on test": f"{own['value'].min():.1f}"})
    return pd.DataFrame(lines).set_index(["task", "models"])


def gains(profile: str, found: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Return what each pair gains on the one of its upstreams that dev prefers, with what is known of it before.

    Args:
        profile: whose comparisons are read.
        found: a frame of :func:`read` with single upstreams.
        experiment: that holds pairs against single upstreams.

    Returns:
        The lines of :func:`differences` in which the rival is the better upstream alone.

    Raises:
        StudyError: there is no such comparison.
    """
    compared = differences(profile, experiment)
    own = compared[(compared["interface"] == TOGETHER) & (compared["against"] == ALONE) & (compared["size"] > 1)]
    alone = found[(found["size"] == 1) & (found["interface"] == ALONE) & (found["set"].str.len() == 1)]
    dev = alone.set_index(["task", "set", "seed"])["dev"]
    better = [
        min(row.set, key=lambda letter, row=row: dev.get((row.task, letter, row.seed), float("inf")))
        for row in own.itertuples()
    ]
    kept = own[own["beside"] == pd.Series(better, own.index)]
    if kept.empty:
        raise StudyError(f"{experiment} holds no {TOGETHER} of a pair against {ALONE} of one upstream.")
    return kept.reset_index(drop=True)


def controls(compared: pd.DataFrame) -> pd.DataFrame:
    """Return what :func:`speechbook.figures.curves.forest` draws of the controls of pairs.

    One panel has averaged answers minus the fused pair, a colour a pair; one has a model twice minus the model once.
    """
    late = compared[(compared["interface"] == LATE) & (compared["against"] == TOGETHER)]
    twice = compared[(compared["interface"] == TOGETHER) & (compared["against"] == ALONE)]
    twice = twice[(twice["size"] == 1) & (twice["set"].str.len() == 2)]
    parts = {"Averaged answers − CHConv": late, "One model twice − once": twice}
    drawn = [own.assign(label=own["panel"], system=own["models"], panel=name) for name, own in parts.items()]
    return pd.concat(drawn, ignore_index=True)


def alike(profile: str, experiment: str) -> pd.DataFrame:
    """Return how alike the upstreams of pairs are: ``task, models, cka, kappa``.

    Raises:
        StudyError: the experiment has none.
    """
    name = beside(profile)
    found = store.statistics(name, f"{experiment}.alike")
    models = [" + ".join(described(one).title for one in pair.split(" + ")) for pair in found["pair"]]
    return found.assign(models=models)[["task", "models", "cka", "kappa"]]
