"""The experiment table: YAML files in ``experiments/`` become steps of work, each with a content key.

A profile says on what to run (base model, corpora, budgets, grids); an experiment says what to compare. Together they
give a static graph of steps. A step's key is the hash of its specification and of the keys it needs, so every choice
made on dev data on the way (learning rate, λ, density, rank) is itself a step and finished work is never redone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from . import decoding, methods, training
from .errors import StudyError, nearest
from .files import digest
from .store import artefact, project_root


@dataclass(frozen=True)
class Step:
    """One piece of work whose result is a folder named by its key.

    Attributes:
        name: for people, unique in a plan: ``train es asr 1e-05 seed 0``.
        kind: ``train``, ``choose``, ``decode``, ``tune`` or ``describe`` (see :mod:`speechmerge.study`).
        spec: everything that decides the result besides the results it needs.
        needs: names of the steps whose results it reads, in order.
        key: content key.
        seconds: rough cost on the machine the profile describes.
    """

    name: str
    kind: str
    spec: dict
    needs: tuple[str, ...] = ()
    key: str = ""
    seconds: float = 0.0

    @property
    def folder(self) -> Path:
        """Where the result is, or will be."""
        return artefact(self.kind, self.key)

    @property
    def done(self) -> bool:
        """Whether the result is there."""
        return self.folder.is_dir()


@dataclass(frozen=True)
class System:
    """A row block of a result table: which decode step tells about which language."""

    system: str
    seed: int
    method: str
    decodes: dict[str, str]
    experts: tuple[str, ...] = ()


@dataclass
class Plan:
    """All steps of one experiment on one profile, in an order that respects ``needs``, and how they become rows."""

    experiment: dict
    profile: str
    settings: dict
    steps: dict[str, Step] = field(default_factory=dict)
    systems: list[System] = field(default_factory=list)

    @property
    def languages(self) -> list[str]:
        """Whisper codes, in the order of the table."""
        return self.settings["sets"][self.experiment["languages"]]

    def pending(self) -> list[Step]:
        """Steps whose result is not there yet."""
        return [step for step in self.steps.values() if not step.done]

    def add(self, name: str, kind: str, spec: dict, needs: tuple[str, ...] = (), seconds: float = 0.0) -> str:
        """Add a step unless it is there, and return its name."""
        version = {"train": training.VERSION, "decode": decoding.VERSION}.get(kind, 1)
        keys = [self.steps[need].key for need in needs]
        key = digest({"kind": kind, "version": version, "spec": spec, "needs": keys})
        if self.steps.setdefault(name, Step(name, kind, spec, needs, key, seconds)).key != key:
            raise StudyError(
                f"two different steps are called {name!r}; the names of an experiment's systems must differ."
            )
        return name


def _yaml(path: Path) -> dict:
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML ({error}).") from error


def profiles() -> dict[str, dict]:
    """Return the settings of every profile by name."""
    return _yaml(project_root() / "experiments" / "profiles.yaml")


def experiments() -> dict[str, dict]:
    """Return every experiment by name."""
    files = sorted((project_root() / "experiments").glob("*.yaml"))
    return {found["experiment"]: found for file in files if "experiment" in (found := _yaml(file))}


def plan(experiment: str, profile: str, seeds: list[int] | None = None) -> Plan:
    """Expand an experiment on a profile into its steps.

    Args:
        experiment: name in ``experiments/``.
        profile: name in ``experiments/profiles.yaml``.
        seeds: training seeds; None takes the profile's.

    Raises:
        StudyError: unknown experiment, profile, languages or kind; the nearest name is given.
        MethodError: a system's method is unknown.
    """
    known, settings = experiments(), profiles()
    if experiment not in known:
        raise StudyError(f"there is no experiment {experiment!r}.{nearest(experiment, known)}")
    if profile not in settings:
        raise StudyError(f"there is no profile {profile!r}.{nearest(profile, settings)}")
    made = Plan(known[experiment], profile, settings[profile])
    chosen, sets = known[experiment]["languages"], settings[profile]["sets"]
    if chosen not in sets:
        raise StudyError(f"profile {profile!r} has no languages {chosen!r} for {experiment!r}.{nearest(chosen, sets)}")
    kind = known[experiment]["kind"]
    if kind not in KINDS:
        raise StudyError(f"experiment {experiment!r} has kind {kind!r}.{nearest(kind, KINDS)}")
    KINDS[kind](made, seeds or settings[profile]["seeds"])
    return made


def _trained(plan: Plan, languages: list[str], task: str, seed: int, tuning_seed: int) -> str:
    """Add the trainings of one model, one per learning rate, and the choice between them by dev loss.

    The rate is chosen with the first seed; other seeds train at the rate chosen there.
    """
    settings = plan.settings
    label = "+".join(languages) + f" {task}"
    sources = [[corpus, language, task] for language in languages for corpus in settings["corpora"][language]]
    base = {"base": settings["base"], "sources": sources, "seed": seed, **settings["training"]}
    windows = settings["training"]["minutes"] * 60 / 17 * settings["training"]["epochs"] * len(languages)
    seconds = windows / settings["here"]["train_windows_per_second"]
    if seed != tuning_seed:
        chosen = f"choose {label}"
        name = plan.add(f"train {label} seed {seed}", "train", base, (chosen,), seconds)
        return plan.add(f"choose {label} seed {seed}", "choose", {}, (name,))
    names = [
        plan.add(f"train {label} {rate:g} seed {seed}", "train", base | {"learning_rate": rate}, (), seconds)
        for rate in settings["learning_rates"]
    ]
    return plan.add(f"choose {label}", "choose", {}, tuple(names))


def _decode(
    plan: Plan, name: str, split: str, languages: list[str], model: dict, needs: tuple[str, ...] = (), **decoding: Any
) -> str:
    """Add a decoding of ``languages`` on a split; dev decodings are capped to the profile's number of clips.

    ``decoding`` replaces single settings of the profile's decoding.
    """
    settings = plan.settings
    cap = settings["dev_clips"] if split == "dev" else None
    sets = {language: settings["corpora"][language] for language in languages}
    spec = {"model": model, "base": settings["base"], "split": split, "sets": sets, "task": plan.experiment["task"]}
    spec |= {"cap": cap, "decoding": settings["decoding"] | decoding}
    seconds = (cap or 150) * len(languages) / settings["here"]["decode_clips_per_second"] * decoding.get("beams", 1)
    return plan.add(f"decode {name} {split}", "decode", spec, needs, seconds)


def _tune(plan: Plan, label: str, grid: list[dict], decodes: list[str], *, per_expert: bool = False) -> str:
    return plan.add(f"tune {label}", "tune", {"grid": grid, "per_expert": per_expert}, tuple(decodes))


def _pruned(plan: Plan, method: str, parameter: str, language: str, expert: str) -> str:
    """Choose one expert's density or rank ratio: prune it alone at λ = 1 and take the lowest dev error."""
    grid = [{parameter: value} for value in plan.settings["grids"][parameter]]
    decodes = [
        _decode(
            plan, f"{method} {language} {parameter} {point[parameter]}", "dev", [language],
            {"method": method, "params": {"scaling": 1.0, **point}}, (expert,),
        )
        for point in grid
    ]  # fmt: skip
    return _tune(plan, f"{method} {language} {parameter}", grid, decodes, per_expert=True)


def _merged(plan: Plan, entry: dict, experts: tuple[str, ...], seed: int, tuning: dict[str, tuple[str, ...]]) -> str:
    """Add a merge's tuning on dev (first seed only) and its decoding on test."""
    method, label = entry["method"], f"{entry['system']} seed {seed}"
    methods.find(method)  # a misspelt name is an error of the plan, not of a run hours later
    if entry["system"] not in tuning:
        prunes = tuple(
            _pruned(plan, pruner, parameter, language, expert)
            for parameter, pruner in entry.get("prune", {}).items()
            for language, expert in zip(plan.languages, experts, strict=True)
        )
        tunes = ()
        if entry.get("tune"):
            [parameter] = entry["tune"]
            grid = [{parameter: value} for value in plan.settings["grids"][parameter]]
            decodes = [
                _decode(
                    plan,
                    f"{label} {point}",
                    "dev",
                    plan.languages,
                    {"method": method, "params": point},
                    experts + prunes,
                )
                for point in grid
            ]
            tunes = (_tune(plan, f"{entry['system']} {parameter}", grid, decodes),)
        tuning[entry["system"]] = prunes + tunes
    return _decode(
        plan, label, "test", plan.languages, {"method": method, "params": {}}, experts + tuning[entry["system"]]
    )


def _systems(plan: Plan, seeds: list[int]) -> None:
    """Steps of a table that compares systems on the languages of a set."""
    task, languages = plan.experiment["task"], plan.languages
    tuning: dict[str, tuple[str, ...]] = {}
    for seed in seeds:
        needed = any(entry.get("model") != "base" for entry in plan.experiment["systems"])
        experts = tuple(_trained(plan, [x], task, seed, seeds[0]) for x in languages) if needed else ()
        named = tuple(f"{language}:{task}" for language in languages)
        for entry in plan.experiment["systems"]:
            model = entry.get("model")
            if model == "base":
                if seed == seeds[0]:
                    step = _decode(
                        plan, entry["system"], "test", languages, {"base": True}, **entry.get("decoding", {})
                    )
                    plan.systems.append(System(entry["system"], seed, "none", dict.fromkeys(languages, step)))
            elif model == "expert":
                steps = {
                    language: _decode(
                        plan, f"expert {language} seed {seed}", "test", [language], {"expert": True}, (e,)
                    )
                    for language, e in zip(languages, experts, strict=True)
                }
                plan.systems.append(System(entry["system"], seed, "fine-tuning", steps, named))
            elif model == "joint":
                joint = _trained(plan, languages, task, seed, seeds[0])
                step = _decode(plan, f"joint seed {seed}", "test", languages, {"expert": True}, (joint,))
                plan.systems.append(
                    System(entry["system"], seed, "joint training", dict.fromkeys(languages, step), named)
                )
            else:
                step = _merged(plan, entry, experts, seed, tuning)
                plan.systems.append(
                    System(entry["system"], seed, entry["method"], dict.fromkeys(languages, step), named)
                )


def _task_vectors(plan: Plan, seeds: list[int]) -> None:
    """Steps that describe the experts' task vectors."""
    task = plan.experiment["task"]
    experts = tuple(_trained(plan, [language], task, seeds[0], seeds[0]) for language in plan.languages)
    plan.add("describe task vectors", "describe", {"base": plan.settings["base"], "names": plan.languages}, experts, 20)


KINDS = {"systems": _systems, "task_vectors": _task_vectors}


def narrowed(made: Plan, systems: list[str] | None) -> Plan:
    """Keep only the named systems and the steps they need.

    Raises:
        StudyError: a name that is not in the experiment.
    """
    if not systems:
        return made
    known = {s.system for s in made.systems}
    for name in systems:
        if name not in known:
            raise StudyError(
                f"experiment {made.experiment['experiment']!r} has no system {name!r}.{nearest(name, known)}"
            )
    kept = [s for s in made.systems if s.system in systems]
    wanted = set(_ancestors(made, {step for s in kept for step in s.decodes.values()}))
    return replace(made, steps={n: s for n, s in made.steps.items() if n in wanted}, systems=kept)


def _ancestors(made: Plan, names: set[str]) -> Iterator[str]:
    for name in names:
        yield name
        yield from _ancestors(made, set(made.steps[name].needs))
