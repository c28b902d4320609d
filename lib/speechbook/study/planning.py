"""From the systems of a table to steps: trainings, choices on dev, merges and decodings, for each variant and seed.

A partition of a table's cells (``cell``, ``language``, ``task``, ``all``) says which of them share a model: an expert
has one cell; multi-task training joins the tasks of a language, multilingual training the languages of a task. A merge
joins the models ``of`` a finer partition ``into`` those of a coarser one.

What a merge's system may say: ``params``; ``tune``, the parameter to choose on dev, alone or with the name of the
profile's grid (``{scaling: unit}``), of which ``exhaustive`` decodes every value; ``tuned_as``, a system above whose
choice it takes over; ``match``, parameters of the merge whose length of update it is scaled to; ``prune``; ``sweep``,
a parameter that makes a system of each value.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from speechmerge.errors import MethodError, SpeechMergeError, StudyError, nearest
from speechmerge.merging import methods, options

from . import estimates, store
from .experiment import Described, Entry
from .partitions import Group, label, of_tasks, parts
from .plans import Cell, Plan, System, described

TRAININGS = {"cell": "fine-tuning"}  # what a table calls the training of a part; others are joint training


class Table:
    """The steps of a table for one variant of its settings; merges are tuned with the first seed only."""

    def __init__(
        self,
        plan: Plan,
        cells: Group,
        seeds: Sequence[int],
        *,
        variant: str = "",
        rate_of: Group = (),
        reset: bool = False,
        **changes: Any,
    ) -> None:
        """Prepare; ``changes`` replace single settings of training, and mark the steps that depend on them.

        Joint trainings take the learning rate of the one on ``rate_of``, if it is given, instead of choosing their own.
        With ``reset``, every trained model has the base's rows for tokens that its training texts do not use.
        """
        self.plan, self.cells, self.seeds, self.variant = plan, cells, seeds, variant
        training = plan.settings.training.model_copy(update=changes)
        self.settings = plan.settings.model_copy(update={"training": training})
        self.place = f" [{variant}]" if variant else ""  # in the names of steps; trainings are shared where they can
        self.mark = self.place if changes else ""
        self.tuned: dict[tuple[str, Group], tuple[str, ...]] = {}
        self.rate_of, self.reset = rate_of, reset
        self.known = store.choices(plan.profile, self.settings.rates_of) if self.settings.rates_of else {}
        self.last: tuple[dict, tuple[str, ...]] = ({}, ())  # model and needs decoded last: a merge is made only once

    def rows(self) -> None:
        """Add the steps of all systems and seeds."""
        for seed in self.seeds:
            for entry in self._entries():
                self._system(entry, seed)

    def _entries(self) -> Iterator[Entry]:
        """Yield the table's systems; one that sweeps a parameter is a system for each of its values."""
        for entry in self.plan.experiment.systems:
            if not entry.sweep:
                yield entry
            for name, values in entry.sweep.items():
                for value in self.plan.values("vary", values):
                    own = {"system": f"{entry.system} {name}={value:g}", "params": entry.params | {name: value}}
                    yield entry.model_copy(update=own)

    def _system(self, entry: Entry, seed: int) -> None:
        """Add the steps of one system, and the row block or blocks they become."""
        if entry.model == "base":
            if seed == self.seeds[0]:
                self._block(entry, seed, "none", [(self.cells, {"base": True}, ())], ())
            return
        if by := entry.train or entry.sequence:
            train = self.trained if entry.train else self.sequenced
            models = [(part, {"expert": True}, (train(part, seed),)) for part in parts(self.cells, by)]
            named = TRAININGS.get(by, "joint training") if entry.train else "sequential training"
        else:
            named = entry.dynamic.get("system") or entry.method
            models = [self.merged(entry, part, seed) for part in parts(self.cells, entry.into)]
            if "task" in methods.find(entry.method).parameters and not entry.dynamic:
                models = [one for model in models for one in of_tasks(*model)]
        experts = tuple(f"{cell.name}:{cell.task}" for cell in self.cells)
        if entry.each:
            for part, model, needs in models:
                one = entry.model_copy(update={"system": f"{entry.system} {label(part)}"})
                own = tuple(f"{cell.name}:{cell.task}" for cell in part)
                self._block(one, seed, named, [(self.cells, model, needs)], own)
        else:
            self._block(entry, seed, named, models, experts)

    def _block(self, entry: Entry, seed: int, method: str, models: list[tuple], experts: tuple[str, ...]) -> None:
        """Add the test decodings of a system's models: each its own cells, a single one also all others."""
        decodes = {}
        for group, model, needs in models:
            for cell in (*group, *(self.plan.also if len(models) == 1 else ())):
                title = f"{entry.system} {cell} seed {seed}"
                decodes[cell] = self.decoded(title, cell, "test", model, needs, **entry.decoding.given())
        self.plan.systems.append(System(entry.system, seed, method, decodes, experts, self.variant))

    def trained(self, group: Group, seed: int) -> str:
        """Add a model's training, and the setting back of rows that it never read where the table asks for it."""
        chosen = self.chosen(group, seed)
        if not self.reset:
            return chosen
        title = f"{label(group)}{self.place} seed {seed}"
        name = self.plan.add(f"reset {title}", "train", {"reset": True}, (chosen,), estimates.RESET)
        return self.plan.add(f"choose {title}", "choose", {}, (name,))

    def chosen(self, group: Group, seed: int) -> str:
        """Add the trainings of one model, one per learning rate, and the choice between them by dev loss.

        The rate is chosen with the first seed; other seeds train at the rate chosen there.
        """
        first, title = self.seeds[0], label(group) + self.mark
        if self.settings.rates_on:
            return self.shared(group, seed)
        spec = self._training(group, seed)
        if seed != first:
            name = self._train(f"train {title} seed {seed}", spec, group, (self.chosen(group, first),))
            return self.plan.add(f"choose {title} seed {seed}", "choose", {}, (name,))
        if self.rate_of and len(group) > 1 and group != self.rate_of:
            name = self._train(f"train {title} seed {seed}", spec, group, (self.chosen(self.rate_of, first),))
            return self.plan.add(f"choose {title}", "choose", {}, (name,))
        choice = f"choose {title}"
        names = [
            self._train(f"train {title} {rate:g} seed {seed}", spec | {"learning_rate": rate}, group)
            for rate in self._rates(choice)
        ]
        return self.plan.add(choice, "choose", {}, tuple(names))

    def shared(self, group: Group, seed: int) -> str:
        """Add the training of one model at the rate that all models like it share, which the first seed chose.

        What was trained to choose the rate is not trained again.
        """
        title, rates = f"{label(group)}{self.mark}", self._rates(self._rate_name(group))
        alike = self._alike(group) if len(rates) > 1 else []
        tries = {part: [self._try(part, rate) for rate in rates] for part in alike}
        needs = tuple(name for own in zip(*tries.values(), strict=True) for name in own)
        rate = self.plan.add(self._rate_name(group), "rate", {"rates": list(rates)}, needs)
        if seed == self.seeds[0] and group in tries:
            return self.plan.add(f"choose {title} seed {seed}", "choose", {}, (rate, *tries[group]))
        name = self._train(f"train {title} seed {seed}", self._training(group, seed), group, (rate,))
        return self.plan.add(f"choose {title} seed {seed}", "choose", {}, (name,))

    def _alike(self, group: Group) -> list[Group]:
        """Return the models a group's rate is chosen on: the first ``rates_on`` of one language, or the largest."""
        tasks = {cell.task for cell in group}
        own = tuple(cell for cell in self.plan.cells if cell.task in tasks)
        return [own] if _joint(group) else parts(own, "language")[: self.settings.rates_on]

    def _rate_name(self, group: Group) -> str:
        tasks = "+".join(dict.fromkeys(cell.task for cell in group))
        return f"rate {'joint' if _joint(group) else 'experts'} {tasks}{self.mark}"

    def _try(self, group: Group, rate: float) -> str:
        spec = self._training(group, self.seeds[0]) | {"learning_rate": rate}
        return self._train(f"try {label(group)}{self.mark} {rate:g} seed {self.seeds[0]}", spec, group)

    def _training(self, group: Group, seed: int) -> dict:
        return {"base": self.settings.base, "cells": described(group), "seed": seed, **self.settings.training.given()}

    def _rates(self, choice: str) -> Iterable[float]:
        """Return the learning rates to try: one, where the experiment ``rates_of`` has committed the choice."""
        if choice not in self.known:
            return self.settings.learning_rates
        return [min(self.known[choice], key=lambda tried: tried["dev_loss"])["learning_rate"]]

    def _train(self, name: str, spec: dict, group: Group, needs: tuple[str, ...] = ()) -> str:
        return self.plan.add(name, "train", spec, needs, estimates.training(self.settings, spec, len(group)))

    def sequenced(self, group: Group, seed: int) -> str:
        """Add trainings one after another over a group's cells, each from the last, at the rates of the experts."""
        last: tuple[str, ...] = ()
        for i, cell in enumerate(group):
            if not i:
                last = (self.trained((cell,), seed),)
                continue
            spec = {"cells": described((cell,)), "seed": seed, **self.settings.training.given()}
            title = f"{label(group)} in sequence, {i + 1} of {len(group)},{self.mark} seed {seed}"
            name = self._train(f"train {title}", spec, (cell,), (*last, self.trained((cell,), self.seeds[0])))
            last = (self.plan.add(f"choose {title}", "choose", {}, (name,)),)
        return last[0]

    def merged(self, entry: Entry, group: Group, seed: int) -> tuple[Group, dict, tuple[str, ...]]:
        """Add the experts of a merge and its tuning on dev; return what its decoding needs."""
        finer = parts(group, entry.of)
        self._check(entry, len(finer))
        experts = tuple(self.trained(part, seed) for part in finer)
        model = {"method": entry.method, "params": entry.params}
        method = methods.find(entry.method)
        if method.data:  # of dev: statistics, or measurements on the clips that λ is chosen with
            heard = {"cap": entry.clips or self.settings.dev_clips} if method.measure or entry.clips else {}
            model["speech"] = [described(part, **heard) for part in finer]
            model |= {"hears": entry.hears} if entry.hears != "dev" else {}
        if entry.dynamic:
            model |= self._listening(entry, finer)
        found = (entry.system, group)
        if found not in self.tuned:
            prunes = tuple(
                self.pruned(pruner, parameter, part, expert)
                for parameter, pruner in entry.prune.items()
                for part, expert in zip(finer, experts, strict=True)
            )
            tunes = self._tuning_of(entry.tuned_as, group) if entry.tuned_as else ()
            title = f"{entry.system} {label(group)}"
            for parameter, grid in entry.tune.items():
                needs = experts + prunes
                tunes = (self.tune(title, parameter, group, model, needs, grid=grid, exhaustive=entry.exhaustive),)
            if entry.match is not None:
                tunes = (self.matched(title, model, entry.match, experts + prunes + tunes),)
            self.tuned[found] = prunes + tunes
        return group, model, experts + self.tuned[found]

    def _listening(self, entry: Entry, finer: Sequence[Group]) -> dict:
        """Return what the specification of a model says that is merged while it listens."""
        from speechmerge.dynamic import systems  # which brings in what decodes

        try:
            _, options = systems.check(entry.dynamic)
        except SpeechMergeError as error:
            raise StudyError(f"{self.plan.name}: {entry.system!r} cannot listen: {error}") from error
        if options.get("signal") != "speech":
            return {"dynamic": entry.dynamic}
        heard = [described(part, cap=systems.CLIPS) for part in finer]
        return {"dynamic": entry.dynamic, "speech": heard, "hears": "train"}

    def _check(self, entry: Entry, experts: int) -> None:
        """Check that a system can be merged with its own parameters and all values that may be chosen for it."""
        tried = [{}, *({name: value} for name, grid in entry.tune.items() for value in self.plan.values("grids", grid))]
        pruned = [(name, value) for name in entry.prune for value in self.plan.values("grids", name)]
        tried += [{name: [value] * experts} for name, value in pruned]
        wanted = [(entry.method, entry.params | params, experts) for params in tried]
        wanted += [(entry.prune[name], {name: value}, 1) for name, value in pruned]
        for method, params, count in wanted:
            try:
                options.check_all(methods.find(method), params, experts=count)
            except MethodError as error:
                raise StudyError(f"{self.plan.name}: {entry.system!r} cannot be merged: {error}") from error

    def _tuning_of(self, system: str, group: Group) -> tuple[str, ...]:
        """Return the choices on dev that another system's merge of the same cells made."""
        known = [name for name, cells in self.tuned if cells == group]
        if system not in known:
            raise StudyError(f"{self.plan.name}: no system above is called {system!r}.{nearest(system, known)}")
        return self.tuned[system, group]

    def matched(self, title: str, model: dict, reference: dict, needs: tuple[str, ...]) -> str:
        """Add the search for the λ at which a merge's update is as long as that of the merge with other parameters."""
        spec = {"base": self.settings.base, "model": model, "reference": reference, "per_expert": False}
        return self.plan.add(f"match {title}{self.place}", "match", spec, needs)

    def pruned(self, method: str, parameter: str, group: Group, expert: str) -> str:
        """Choose one expert's density or rank ratio: prune it alone at λ = 1 and take the lowest dev error."""
        model = {"method": method, "params": {"scaling": 1.0}}
        return self.tune(f"{method} {label(group)}", parameter, group, model, (expert,), per_expert=True)

    def tune(
        self,
        title: str,
        parameter: str,
        group: Group,
        model: dict,
        needs: tuple[str, ...],
        *,
        per_expert: bool = False,
        grid: str = "",
        exhaustive: bool = False,
    ) -> str:
        """Add the dev decodings of a grid and the choice of the point with the lowest error."""
        values = self.plan.values("grids", grid or parameter)
        if self.settings.select == "loss":
            continuous = parameter == "scaling" and not exhaustive
            search = {"parameter": parameter, "values": None if continuous else values}
            search |= {"decoded": "all"} if exhaustive else {}
            return self.searched(title, search, group, model, needs, per_expert=per_expert)
        points = [{parameter: value} for value in values]
        decodes = [
            self.decoded(
                f"{title} {parameter} {point[parameter]} {cell}", cell, "dev",
                model | {"params": model["params"] | point}, needs,
            )
            for point in points
            for cell in group
        ]  # fmt: skip
        return self.plan.add(
            f"tune {title} {parameter}{self.place}", "tune", {"grid": points, "per_expert": per_expert}, tuple(decodes)
        )

    def searched(
        self, title: str, search: dict, group: Group, model: dict, needs: tuple[str, ...], *, per_expert: bool
    ) -> str:
        """Add the search of a parameter by teacher-forced dev loss, which decodes the best few values, or all.

        ``search`` has the ``parameter``; its ``values``, None for a continuous one; and ``decoded: all``.
        """
        settings = self.settings
        cells = described(group, **{"cap": settings.dev_clips} if settings.dev_clips else {})
        spec = {"base": settings.base, "model": model, "cells": cells, "decoding": settings.decoding.given()}
        spec |= {"search": search, "per_expert": per_expert}
        title = f"tune {title} {search['parameter']}{self.place}"
        return self.plan.add(title, "tune", spec, needs, estimates.search(settings, search, len(group)))

    def described(self, merges: Iterable[Described]) -> None:
        """Add the step that describes the task vectors of the first seed's experts, and of merges of them."""
        experts = tuple(self.trained((cell,), self.seeds[0]) for cell in self.cells)
        spec: dict = {"base": self.settings.base, "names": [cell.name for cell in self.cells]}
        told = [merge.given() for merge in merges]
        spec |= {"merges": told} if told else {}
        self.plan.add("describe task vectors", "describe", spec, experts, estimates.DESCRIBED * (1 + len(told)))

    def decoded(self, title: str, cell: Cell, split: str, model: dict, needs: tuple[str, ...], **decoding: Any) -> str:
        """Add a decoding of one cell's split, capped to the table's number of clips.

        ``decoding`` replaces single settings of the profile's decoding.
        """
        settings = self.settings
        cap = settings.dev_clips if split == "dev" else settings.test_clips
        spec = {"model": model, "base": settings.base, "cells": described((cell,)), "split": split, "cap": cap}
        spec |= {"decoding": settings.decoding.given() | decoding}
        merges = "method" in model and (model, needs) != self.last
        seconds = estimates.decoding(settings, spec, needs, merges=merges)
        self.last = (model, needs)
        return self.plan.add(f"decode {title} {split}{self.place}", "decode", spec, needs, seconds)


def _joint(group: Group) -> bool:
    """Tell whether a model is trained on several languages or domains."""
    return len({cell.name for cell in group}) > 1
