"""From experiments that fuse frozen upstreams to steps: what upstreams hear, rates chosen on dev, trainings.

An upstream hears a clip once, whatever tasks it belongs to. The learning rate is chosen on dev with the first seed, for
each task and family of interfaces, and apart for single upstreams and for sets of several: on one of each, then taken
for all. What suits one model ruins a set: a weighted sum of one has five numbers, of several a matrix besides. Sets of
one model twice are written ``TT``.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from speechmerge import corpora
from speechmerge.checked import parse, read
from speechmerge.errors import StudyError, nearest
from speechmerge.fusion import interfaces, planning, tasks, training
from speechmerge.fusion.convolution import FEWEST
from speechmerge.fusion.upstreams import MADE_OF, described

from . import experiments as experiments_of_the_study
from .fusion_experiment import EVERY_LAYER, LATE, FusionExperiment, FusionProfile
from .plans import Cell, Plan, Step, System, ancestors
from .store import project_root

FOLDER, PROFILES = "fusion", "profiles.yaml"
VERSION = 1  # raise when a change of code alters what a training gives
FAMILIES = {"layer": "last", "hconv_add": "hconv", "chconv": "hconv"}  # whose rate is taken, of one upstream
JOINT = {"chconv_wide": "chconv"}  # and of several
SINGLE = ("layer", "last", "hconv")  # interfaces of one upstream
ANY_DEPTH = ("layer", "last", "ws", "gumd", "concat")  # interfaces of upstreams with fewer than three layers too
SPEECH = ("uqm", "asterisk", "stamps", "fillets", "tones")  # that tasks draw from
MODEL = ("base", "model", "decoding")  # what the step of a model of the study says of it
PASSES = 3.0  # a training step costs as much as so many evaluations of a frame


def _files() -> dict[str, dict]:
    folder = project_root() / "experiments" / FOLDER
    return _read(tuple((path, path.read_bytes()) for path in sorted(folder.glob("*.yaml"))))


@functools.lru_cache(maxsize=2)
def _read(texts: tuple[tuple[Path, bytes], ...]) -> dict[str, dict]:
    found: dict[str, dict] = {"profiles": {}, "experiments": {}}
    for path, text in texts:
        table = parse(path, text)
        if path.name == PROFILES:
            found["profiles"] = {name: read(FusionProfile, own, path, name) for name, own in table.items()}
        else:
            made = read(FusionExperiment, table, path)
            found["experiments"][made.experiment] = made
    return found


def profiles() -> dict[str, FusionProfile]:
    """Return the profiles of fusion by name.

    Raises:
        StudyError: a profile has an unknown field or a value that it may not have.
    """
    return dict(_files()["profiles"])


def experiments() -> dict[str, FusionExperiment]:
    """Return the experiments of fusion by name.

    Raises:
        StudyError: a file has an unknown field or a value that it may not have.
    """
    return dict(_files()["experiments"])


def beside(profile: str) -> str:
    """Return the profile of fusion that goes with one of the study: ``fusion-NAME`` where there is one."""
    named = f"{FOLDER}-{profile}"
    return profile if profile in profiles() else named if named in profiles() else FOLDER


def runnable(profile: str) -> list[str]:
    """Return the names of the experiments for which a profile has all lists of sets and a task."""
    settings = profiles()[profile]
    return [
        name
        for name, table in experiments().items()
        if set(table.sets) <= set(settings.sets) and set(table.tasks) & set(settings.tasks)
    ]


def plan(experiment: str, profile: str, seeds: Sequence[int] | None = None) -> Plan:
    """Expand an experiment on a profile into its steps.

    Raises:
        StudyError: an unknown experiment, profile or list of sets; the nearest name is given.
    """
    for kind, name, known in (("experiment", experiment, experiments()), ("profile", profile, profiles())):
        if name not in known:
            raise StudyError(f"there is no {kind} {name!r} of fusion.{nearest(name, known)}")
    table, settings = experiments()[experiment], profiles()[profile]
    for name in table.sets:
        if name not in settings.sets:
            raise StudyError(f"profile {profile!r} has no sets {name!r}.{nearest(name, settings.sets)}")
    cells = tuple(Cell(name, "", "fusion", ()) for name in table.tasks if name in settings.tasks)
    made = Plan(table, profile, settings, cells)
    _Table(made, tuple(seeds or table.seeds or settings.seeds)).rows()
    return made


def names_of(settings: FusionProfile, letters: str) -> list[str]:
    """Return the upstreams of a set; a letter that stands twice is one model used twice."""
    return [
        settings.upstreams[letter] + (f"#{letters[:place].count(letter) + 1}" if letter in letters[:place] else "")
        for place, letter in enumerate(letters)
    ]


class _Table:
    """The steps of an experiment."""

    def __init__(self, made: Plan, seeds: tuple[int, ...]) -> None:
        self.plan, self.seeds = made, seeds
        self.settings: FusionProfile = made.settings
        self.experiment: FusionExperiment = made.experiment
        self.tasks = [cell.name for cell in made.cells]
        self.sets = list(dict.fromkeys(one for name in self.experiment.sets for one in self.settings.sets[name]))

    def rows(self) -> None:
        """Add the systems of all variants, seeds, sets and interfaces."""
        whole_first = sorted(self.tasks, key=lambda name: not tasks.TASKS[name].whole)  # they serve other tasks too
        for task in whole_first:
            for letter in dict.fromkeys("".join(self.sets)):
                self._hears(task, letter, {})
        for variant in self._variants():
            for seed in self.seeds:
                for letters in self.sets:
                    for interface in self._interfaces(letters):
                        self._row(letters, interface, seed, variant)
        for letters in self.sets if self.experiment.alike else ():
            if len(letters) == 2 and letters[0] != letters[1]:
                for task in self.tasks:
                    self._alike(task, letters)

    def _row(self, letters: str, interface: str, seed: int, variant: dict[str, str]) -> None:
        """Add a system: a set and an interface, on all tasks that it can do."""
        made = {cell: self._system(cell.name, letters, interface, seed, variant) for cell in self.plan.cells}
        decodes = {cell: step for cell, step in made.items() if step}
        told = " ".join([letters, *(f"{name}={value}" for name, value in variant.items())])
        if decodes:
            self.plan.systems.append(System(interface, seed, interface, decodes, tuple(letters), told))

    def _alike(self, task: str, letters: str) -> None:
        """Add the comparison of two upstreams by their weighted sums and by what these get wrong on dev."""
        spec = self._common(task, letters, "ws", {})
        needs = [self._hears(task, letter, {}) for letter in letters]
        needs += [self._fused(task, letter, "ws", self.seeds[0], {}) for letter in letters]
        self.plan.add(f"alike {task} {letters}", "alike", spec, tuple(needs), 5.0)

    def _variants(self) -> Iterator[dict[str, str]]:
        """Yield what differs from the profile: nothing, or one setting at a time."""
        if not self.experiment.vary:
            yield {}
        for name, values in self.experiment.vary.items():
            for value in values:
                yield {name: value}

    def _interfaces(self, letters: str) -> Iterator[str]:
        """Yield the interfaces that a set can have."""
        alone, fewest = len(letters) == 1, min(self._shape(letter)[0] for letter in letters)
        for name in dict.fromkeys([*self.experiment.interfaces, *self.experiment.single]):
            if name == EVERY_LAYER:
                yield from (f"layer:{place}" for place in range(fewest if alone else 0))
            elif alone:
                if name != LATE and (fewest >= FEWEST or name in ANY_DEPTH):
                    yield name
            elif name not in SINGLE and name in self.experiment.interfaces:
                yield name

    def _shape(self, letter: str) -> tuple[int, int]:
        declared = described(self.settings.upstreams[letter])
        return declared.layers, declared.width

    def _system(self, task: str, letters: str, interface: str, seed: int, variant: dict[str, str]) -> str | None:
        """Add the training of a system on a task, or the average of singly trained ones."""
        if interface != LATE:
            return self._fused(task, letters, interface, seed, variant)
        if tasks.TASKS[task].kind != "classes" or len(set(letters)) < len(letters):
            return None
        alone = [
            self._fused(task, letter, "hconv" if self._shape(letter)[0] > 2 else "ws", seed, variant)
            for letter in letters
        ]
        spec = {"task": task, "sizes": self._sizes(task), "version": VERSION}
        return self.plan.add(f"late {task} {letters} seed {seed}{_told(variant)}", "late", spec, tuple(alone), 1.0)

    def _sizes(self, task: str) -> list[int]:
        return list(self.settings.sizes.get(task, tasks.TASKS[task].sizes))

    def _hears(self, task: str, letter: str, variant: dict[str, str]) -> str:
        """Add what an upstream hears for a task; clips that its store holds are not heard again."""
        window = variant.get("window", self.settings.windows.get(letter, "full"))
        spec = {"upstream": self.settings.upstreams[letter], "window": window, "version": VERSION}
        spec |= {"task": task, "sizes": self._sizes(task)}
        spec |= {"speech": {name: corpora.find(name).version for name in SPEECH}}
        amount = self.settings.here.amounts[task]
        clips = [amount.seconds] * (amount.folds * sum(amount.clips))
        seconds = described(spec["upstream"]).cost(clips, window) / self.settings.here.speed
        needs: tuple[str, ...] = ()
        if MADE_OF in spec["upstream"]:
            made = self._of_the_study(spec["upstream"])
            spec, needs = spec | {name: made.spec[name] for name in MODEL if name in made.spec}, made.needs
        return self.plan.add(f"hear {spec['upstream']} {window} {task}", "hear", spec, needs, seconds)

    @functools.cached_property
    def _study(self) -> Plan:
        """The plan of the experiment of the study whose models are heard."""
        return experiments_of_the_study.plan(
            self.settings.models.experiment, self.settings.models.profile, self.seeds[:1]
        )

    def _of_the_study(self, upstream: str) -> Step:
        """Return the step that decodes a model of the study, and add the steps that it needs.

        Raises:
            StudyError: the experiment has no such system, or the system no such place.
        """
        where, made = self.settings.models, self._study
        system, _, place = upstream.partition(MADE_OF)[2].partition(", ")
        systems = {one.system: one for one in made.systems}
        if system not in systems:
            raise StudyError(f"{where.experiment} has no system {system!r}.{nearest(system, systems)}")
        places = {cell.language: name for cell, name in systems[system].decodes.items()}
        if place and place not in places:
            raise StudyError(f"{system} of {where.experiment} has no place {place!r}.{nearest(place, places)}")
        decoded = made.steps[places[place] if place else next(iter(places.values()))]
        wanted = set(ancestors(made, set(decoded.needs)))
        for name, step in made.steps.items():
            if name in wanted:
                self.plan.add(name, step.kind, step.spec, step.needs, step.seconds)
        return decoded

    def _common(self, task: str, letters: str, interface: str, variant: dict[str, str]) -> dict:
        """Return what a training's specification holds besides rate and seed."""
        windows = [variant.get("window", self.settings.windows.get(letter, "full")) for letter in letters]
        options = self.settings.training.model_dump() | {k: v for k, v in variant.items() if k == "normalise"}
        spec = {"task": task, "sizes": self._sizes(task), "upstreams": names_of(self.settings, letters)}
        return spec | {"windows": windows, "interface": interface, "training": options, "version": VERSION}

    def _fused(self, task: str, letters: str, interface: str, seed: int, variant: dict[str, str]) -> str:
        """Add the training of one system, at the rate of its family."""
        spec = self._common(task, letters, interface, variant) | {"seed": seed}
        needs = [self._hears(task, letter, variant) for letter in dict.fromkeys(letters)]
        needs.append(self._rate(task, interface, len(letters) > 1, variant))
        title = f"fuse {task} {letters} {interface} seed {seed}{_told(variant)}"
        return self.plan.add(title, "fuse", spec, tuple(needs), self._seconds(task, letters, interface))

    def _rate(self, task: str, interface: str, joint: bool, variant: dict[str, str]) -> str:
        """Add the choice of a family's rate on dev, for single upstreams or for several."""
        name = interfaces.find(interface).name
        family = (JOINT if joint else FAMILIES).get(name, name)
        letters = self.settings.joint_rates_on if joint else self.settings.rates_on
        spec = self._common(task, letters, family, variant)
        spec |= {"rates": list(self.settings.rates), "beyond": training.BEYOND}
        needs = tuple(self._hears(task, letter, variant) for letter in dict.fromkeys(letters))
        seconds = len(self.settings.rates) * self._seconds(task, letters, family)
        title = f"rate {task} {family}{' joint' if joint else ''}{_told(variant)}"
        return self.plan.add(title, "fuse_rate", spec, needs, seconds)

    def _seconds(self, task: str, letters: str, interface: str) -> float:
        """Return about how long a training takes."""
        amount, settings = self.settings.here.amounts[task], self.settings.training
        shapes = tuple(self._shape(letter) for letter in letters)
        parameters = _parameters(interface, shapes, settings.width)
        if tasks.TASKS[task].whole:
            learnt = settings.epochs * amount.clips[0] * amount.seconds * 50
            tested = (settings.evaluations * amount.clips[1] + amount.clips[2]) * amount.seconds * 50
        else:
            learnt = settings.steps * settings.batch * settings.frames
            tested = (settings.evaluations * amount.clips[1] + amount.clips[2]) * 64
        frames = amount.folds * (learnt + tested / PASSES)
        numbers = sum(layers * width for layers, width in shapes)
        return planning.training_seconds(numbers, parameters, round(frames)) / self.settings.here.speed


@functools.cache
def _parameters(interface: str, shapes: tuple[tuple[int, int], ...], width: int | None) -> int:
    """Count an interface's numbers without making any."""
    with torch.device("meta"):
        return interfaces.parameters(interfaces.build(interface, shapes, width))


def _told(variant: dict[str, str]) -> str:
    return f" [{' '.join(f'{name}={value}' for name, value in variant.items())}]" if variant else ""
