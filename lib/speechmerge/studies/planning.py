"""From the systems of a table to steps: trainings, choices on dev, merges and decodings, for each variant and seed.

A partition of a table's cells (``cell``, ``language``, ``task``, ``all``) says which of them share a model: an expert
has one cell; multi-task training joins the tasks of a language, multilingual training the languages of a task. A merge
joins the models ``of`` a finer partition ``into`` those of a coarser one.
"""

from collections.abc import Iterator
from dataclasses import fields
from itertools import combinations
from typing import Any

from ..errors import StudyError, nearest
from ..evaluation.decoding import Decoding
from ..merging import methods
from .plans import Cell, Plan, System, described

Group = tuple[Cell, ...]
PARTS = {
    "cell": lambda cell: cell,
    "language": lambda cell: cell.name,
    "task": lambda cell: cell.task,
    "all": lambda cell: None,
}
TRAININGS = {"cell": "fine-tuning"}  # what a table calls the training of a part; others are joint training
ENTRY = (
    "system",
    "model",
    "train",
    "sequence",
    "method",
    "of",
    "into",
    "params",
    "tune",
    "prune",
    "sweep",
    "each",
    "decoding",
)
DECODING = tuple(field.name for field in fields(Decoding))
SECONDS_A_WINDOW = 17.0  # of speech in a training window, on average
TEST_CLIPS = 150  # of a cell, for estimates


def parts(group: Group, by: str) -> list[Group]:
    """Divide cells into those that share a model.

    Raises:
        StudyError: no such partition.
    """
    if by not in PARTS:
        raise StudyError(f"there is no partition {by!r}.{nearest(by, PARTS)}")
    found: dict[Any, list[Cell]] = {}
    for cell in group:
        found.setdefault(PARTS[by](cell), []).append(cell)
    return [tuple(part) for part in found.values()]


def label(group: Group) -> str:
    """Name a group of cells: ``es+it asr``."""
    names, tasks = (dict.fromkeys(values) for values in zip(*((c.name, c.task) for c in group), strict=True))
    return f"{'+'.join(names)} {'+'.join(tasks)}"


class Table:
    """The steps of a table for one variant of its settings; merges are tuned with the first seed only."""

    def __init__(self, plan: Plan, cells: Group, seeds: list[int], *, variant: str = "", **changes: Any) -> None:
        """Prepare; ``changes`` replace single settings of training, and mark the steps that depend on them."""
        self.plan, self.cells, self.seeds, self.variant = plan, cells, seeds, variant
        self.settings = plan.settings | {"training": plan.settings["training"] | changes}
        self.place = f" [{variant}]" if variant else ""  # in the names of steps; trainings are shared where they can
        self.mark = self.place if changes else ""
        self.tuned: dict[tuple[str, Group], tuple[str, ...]] = {}

    def rows(self) -> None:
        """Add the steps of all systems and seeds."""
        for seed in self.seeds:
            for entry in self._entries():
                for field in entry:
                    if field not in ENTRY:
                        raise StudyError(
                            f"{self.plan.name}: system {entry['system']!r} has a field {field!r}."
                            f"{nearest(field, ENTRY)}"
                        )
                self._system(entry, seed)

    def _entries(self) -> Iterator[dict]:
        """Yield the table's systems; one that sweeps a parameter is a system for each of its values."""
        for entry in self.plan.experiment["systems"]:
            if "sweep" not in entry:
                yield entry
                continue
            name = entry["sweep"]
            for value in self.settings["vary"][name]:
                params = {**entry.get("params", {}), name: value}
                yield entry | {"system": f"{entry['system']} {name}={value:g}", "params": params}

    def _system(self, entry: dict, seed: int) -> None:
        """Add the steps of one system, and the row block or blocks they become."""
        if entry.get("model") == "base":
            if seed == self.seeds[0]:
                self._block(entry, seed, "none", [(self.cells, {"base": True}, ())], ())
            return
        if "train" in entry or "sequence" in entry:
            by = entry.get("train") or entry["sequence"]
            train = self.trained if "train" in entry else self.sequenced
            models = [(part, {"expert": True}, (train(part, seed),)) for part in parts(self.cells, by)]
            named = TRAININGS.get(by, "joint training") if "train" in entry else "sequential training"
        else:
            methods.find(entry["method"])  # a misspelt name is an error of the plan, not of a run hours later
            models = [self.merged(entry, part, seed) for part in parts(self.cells, entry.get("into", "all"))]
            named = entry["method"]
        experts = tuple(f"{cell.name}:{cell.task}" for cell in self.cells)
        if entry.get("each"):
            for part, model, needs in models:
                one = entry | {"system": f"{entry['system']} {label(part)}"}
                own = tuple(f"{cell.name}:{cell.task}" for cell in part)
                self._block(one, seed, named, [(self.cells, model, needs)], own)
        else:
            self._block(entry, seed, named, models, experts)

    def _block(self, entry: dict, seed: int, method: str, models: list[tuple], experts: tuple[str, ...]) -> None:
        """Add the test decodings of a system's models: each its own cells, a single one also all others."""
        decodes = {}
        for group, model, needs in models:
            for cell in (*group, *(self.plan.also if len(models) == 1 else ())):
                title = f"{entry['system']} {cell} seed {seed}"
                decodes[cell] = self.decoded(title, cell, "test", model, needs, **entry.get("decoding", {}))
        self.plan.systems.append(System(entry["system"], seed, method, decodes, experts, self.variant))

    def trained(self, group: Group, seed: int) -> str:
        """Add the trainings of one model, one per learning rate, and the choice between them by dev loss.

        The rate is chosen with the first seed; other seeds train at the rate chosen there.
        """
        first, title = self.seeds[0], label(group) + self.mark
        spec = {"base": self.settings["base"], "cells": described(group), "seed": seed, **self.settings["training"]}
        if seed != first:
            name = self._train(f"train {title} seed {seed}", spec, group, (self.trained(group, first),))
            return self.plan.add(f"choose {title} seed {seed}", "choose", {}, (name,))
        names = [
            self._train(f"train {title} {rate:g} seed {seed}", spec | {"learning_rate": rate}, group)
            for rate in self.settings["learning_rates"]
        ]
        return self.plan.add(f"choose {title}", "choose", {}, tuple(names))

    def _train(self, name: str, spec: dict, group: Group, needs: tuple[str, ...] = ()) -> str:
        windows = spec["minutes"] * 60 / SECONDS_A_WINDOW * spec["epochs"] * len(group)
        return self.plan.add(name, "train", spec, needs, windows / self.settings["here"]["train_windows_per_second"])

    def sequenced(self, group: Group, seed: int) -> str:
        """Add trainings one after another over a group's cells, each from the last, at the rates of the experts."""
        last: tuple[str, ...] = ()
        for i, cell in enumerate(group):
            if not i:
                last = (self.trained((cell,), seed),)
                continue
            spec = {"cells": described((cell,)), "seed": seed, **self.settings["training"]}
            title = f"{label(group)} in sequence, {i + 1} of {len(group)},{self.mark} seed {seed}"
            name = self._train(f"train {title}", spec, (cell,), (*last, self.trained((cell,), self.seeds[0])))
            last = (self.plan.add(f"choose {title}", "choose", {}, (name,)),)
        return last[0]

    def merged(self, entry: dict, group: Group, seed: int) -> tuple[Group, dict, tuple[str, ...]]:
        """Add the experts of a merge and its tuning on dev; return what its decoding needs."""
        finer = parts(group, entry.get("of", "cell"))
        experts = tuple(self.trained(part, seed) for part in finer)
        model = {"method": entry["method"], "params": entry.get("params", {})}
        if methods.find(entry["method"]).data:
            model["speech"] = [described(part) for part in finer]  # of dev: statistics and measurements
        found = (entry["system"], group)
        if found not in self.tuned:
            prunes = tuple(
                self.pruned(pruner, parameter, part, expert)
                for parameter, pruner in entry.get("prune", {}).items()
                for part, expert in zip(finer, experts, strict=True)
            )
            tunes: tuple[str, ...] = ()
            if entry.get("tune"):
                [parameter] = entry["tune"]
                title = f"{entry['system']} {label(group)}"
                tunes = (self.tune(title, parameter, group, model, experts + prunes),)
            self.tuned[found] = prunes + tunes
        return group, model, experts + self.tuned[found]

    def pruned(self, method: str, parameter: str, group: Group, expert: str) -> str:
        """Choose one expert's density or rank ratio: prune it alone at λ = 1 and take the lowest dev error."""
        model = {"method": method, "params": {"scaling": 1.0}}
        return self.tune(f"{method} {label(group)}", parameter, group, model, (expert,), per_expert=True)

    def tune(
        self, title: str, parameter: str, group: Group, model: dict, needs: tuple[str, ...], *, per_expert: bool = False
    ) -> str:
        """Add the dev decodings of a grid and the choice of the point with the lowest error."""
        grid = [{parameter: value} for value in self.settings["grids"][parameter]]
        decodes = [
            self.decoded(
                f"{title} {parameter} {point[parameter]} {cell}", cell, "dev",
                model | {"params": model["params"] | point}, needs,
            )
            for point in grid
            for cell in group
        ]  # fmt: skip
        return self.plan.add(
            f"tune {title} {parameter}{self.place}", "tune", {"grid": grid, "per_expert": per_expert}, tuple(decodes)
        )

    def decoded(self, title: str, cell: Cell, split: str, model: dict, needs: tuple[str, ...], **decoding: Any) -> str:
        """Add a decoding of one cell's split, capped to the table's number of clips.

        ``decoding`` replaces single settings of the profile's decoding.
        """
        settings = self.settings
        cap = settings["dev_clips"] if split == "dev" else self.plan.test_clips
        spec = {"model": model, "base": settings["base"], "cells": described((cell,)), "split": split, "cap": cap}
        spec |= {"decoding": settings["decoding"] | decoding}
        for field in spec["decoding"]:
            if field not in DECODING:
                raise StudyError(f"{self.plan.name}: there is no decoding setting {field!r}.{nearest(field, DECODING)}")
        seconds = (cap or TEST_CLIPS) / settings["here"]["decode_clips_per_second"] * decoding.get("beams", 1)
        return self.plan.add(f"decode {title} {split}{self.place}", "decode", spec, needs, seconds)


def _systems(plan: Plan, seeds: list[int]) -> None:
    """Steps of a table that compares systems, once or for each of its variants."""
    vary = plan.experiment.get("vary")
    if vary is None:
        Table(plan, plan.cells, seeds).rows()
    elif vary == "subsets":
        names = dict.fromkeys(cell.name for cell in plan.cells)
        for subset in (subset for size in plan.settings["vary"][vary] for subset in combinations(names, size)):
            group = tuple(cell for cell in plan.cells if cell.name in subset)
            Table(plan, group, seeds, variant="+".join(subset)).rows()
    elif vary == "minutes":
        for value in plan.settings["vary"][vary]:
            Table(plan, plan.cells, seeds, variant=f"{value:g} min", minutes=value).rows()
    else:
        raise StudyError(f"{plan.name}: nothing varies with {vary!r}.{nearest(vary, ('subsets', 'minutes'))}")


def _task_vectors(plan: Plan, seeds: list[int]) -> None:
    """Steps that describe the experts' task vectors."""
    table = Table(plan, plan.cells, seeds)
    experts = tuple(table.trained((cell,), seeds[0]) for cell in plan.cells)
    names = [cell.name for cell in plan.cells]
    plan.add("describe task vectors", "describe", {"base": plan.settings["base"], "names": names}, experts, 20)


KINDS = {"systems": _systems, "task_vectors": _task_vectors}
