"""A plan: steps of work, each with a content key, and the systems of a result table that they serve.

A step's key is the hash of its specification and of the keys it needs, so every choice made on dev data on the way
(learning rate, λ, density, rank) is itself a step, and finished work is never redone.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmerge import corpora
from speechmerge.errors import StudyError, nearest
from speechmerge.evaluation import decoding_settings
from speechmerge.files import digest
from speechmerge.finetuning import training_recipe
from speechmerge.packages import artefact

if TYPE_CHECKING:
    from .experiment import Experiment, Profile

TOLD = ("choose", "rate", "tune", "describe", "alike")  # kinds of steps whose results are committed besides the rows


@dataclass(frozen=True)
class Cell:
    """What a model is trained or tested on: speech of one language (or domain) for one task.

    Attributes:
        name: of the language or domain in the experiment.
        language: Whisper's code.
        task: ``"asr"`` or ``"st"``.
        corpora: names of the corpora it is drawn from.
        kept_apart: which sentences stand in one split only (:func:`speechmerge.corpora.load`).
    """

    name: str
    language: str
    task: str
    corpora: tuple[str, ...]
    kept_apart: str = "equal"

    def __str__(self) -> str:
        return f"{self.name} {self.task}"


@dataclass(frozen=True)
class Step:
    """One piece of work whose result is a folder named by its key.

    Attributes:
        name: for people, unique in a plan: ``train es asr 1e-05 seed 0``.
        kind: ``train``, ``choose``, ``rate``, ``decode``, ``tune``, ``match`` or ``describe`` (see
            :mod:`speechbook.study.steps`).
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


def result(folder: Path) -> dict:
    """Return what a finished step wrote.

    Raises:
        StudyError: it is missing or damaged.
    """
    try:
        return json.loads((folder / "result.json").read_text())
    except (OSError, ValueError) as error:
        raise StudyError(f"the finished step in {folder} is damaged ({error}); delete it and run again.") from error


@dataclass(frozen=True)
class System:
    """A row block of a result table: which decode step tells about which cell.

    Attributes:
        system: name in the table.
        seed: of the trainings.
        method: what made its models: a merge method, ``none``, ``fine-tuning``, ``joint training`` …
        decodes: decode steps by the cell they decode, the table's own cells first.
        experts: what was merged or trained on.
        variant: what sets this block apart from the experiment's others (a subset of languages, minutes of speech).
    """

    system: str
    seed: int
    method: str
    decodes: dict[Cell, str]
    experts: tuple[str, ...] = ()
    variant: str = ""


@dataclass
class Plan:
    """All steps of one experiment on one profile, in an order that respects ``needs``, and how they become rows."""

    experiment: "Experiment"
    profile: str
    settings: "Profile"
    cells: tuple[Cell, ...] = ()  # what the table is about
    also: tuple[Cell, ...] = ()  # what a system's only model is tested on besides
    groups: dict[str, tuple[Cell, ...]] = field(default_factory=dict)  # whose averages are told apart
    steps: dict[str, Step] = field(default_factory=dict)
    systems: list[System] = field(default_factory=list)
    whole: "Plan | None" = None  # what this plan is a part of

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.experiment.experiment

    def values(self, field: str, name: str) -> tuple[Any, ...]:
        """Return a list of values that the profile has in one of its fields ``grids`` and ``vary``.

        Raises:
            StudyError: it has none of that name; the nearest is given.
        """
        known = getattr(self.settings, field)
        if name not in known:
            raise StudyError(f"profile {self.profile!r} has no {name!r} among its {field}.{nearest(name, known)}")
        return known[name]

    def pending(self) -> list[Step]:
        """Steps whose result is not there and is needed: for a row, for what the tables tell, or for another such step.

        A model that was trained and deleted since, or never came along when the results of steps were copied from
        another machine, is trained again only if something is still to be made of it.
        """
        told = [name for name, step in self.steps.items() if step.kind in TOLD]
        todo = told + [name for system in self.systems for name in system.decodes.values()]
        needed, models = set[str](), chosen(self.steps)
        while todo:
            step = self.steps[name := todo.pop()]
            if not step.done and name not in needed:
                needed.add(name)
                todo += reads(step, models)
        return [step for name, step in self.steps.items() if name in needed]

    def add(self, name: str, kind: str, spec: dict, needs: tuple[str, ...] = (), seconds: float = 0.0) -> str:
        """Add a step unless it is there, and return its name.

        Raises:
            StudyError: another step has this name.
        """
        code = {"train": training_recipe.VERSION, "decode": decoding_settings.VERSION}.get(kind, 1)
        keys = [self.steps[need].key for need in needs]
        read = [*spec.get("cells", []), *(cell for own in spec.get("model", {}).get("speech", []) for cell in own)]
        data = [corpora.find(source).version for cell in read for source in cell["corpora"]]
        key = digest({"kind": kind, "version": [code, *data], "spec": spec, "needs": keys})
        if self.steps.setdefault(name, Step(name, kind, spec, needs, key, seconds)).key != key:
            raise StudyError(
                f"two different steps are called {name!r}; the names of an experiment's systems must differ."
            )
        return name


def chosen(known: dict[str, Step]) -> dict[str, str]:
    """Return, for each finished choice among a plan's steps, the name of the training that it chose."""
    trainings = {step.key: name for name, step in known.items() if step.kind == "train"}
    choices = {name: step for name, step in known.items() if step.kind == "choose" and step.done}
    return {name: trainings[result(step.folder)["expert"]] for name, step in choices.items()}


def reads(step: Step, models: dict[str, str]) -> list[str]:
    """Return the names of the steps whose results a step reads: its needs, and the trainings that these chose.

    Args:
        step: one of a plan.
        models: what :func:`chosen` returns for the plan.
    """
    return [*step.needs, *(models[need] for need in step.needs if need in models)]


def described(cells: tuple[Cell, ...], **heard: int | None) -> list[dict]:
    """Return cells as a step's specification holds them; what has its default is left out.

    ``heard`` may be ``cap``, how many clips of each the step hears at most.
    """
    found = ({k: v for k, v in asdict(cell).items() if v != "equal"} for cell in cells)
    return [own | {"corpora": list(own["corpora"])} | heard for own in found]


def narrowed(made: Plan, systems: Collection[str] = (), seeds: Collection[int] = ()) -> Plan:
    """Keep only some systems, by name, seed of their trainings or both, and the steps they need.

    What is told of an experiment's experts is kept too, if these systems need all of them.

    Raises:
        StudyError: a name that is not in the experiment.
    """
    if not systems and not seeds:
        return made
    known = {s.system for s in made.systems}
    for name in systems:
        if name not in known:
            raise StudyError(f"experiment {made.name!r} has no system {name!r}.{nearest(name, known)}")
    kept = [s for s in made.systems if s.system in (systems or known) and s.seed in (seeds or (s.seed,))]
    wanted = set(ancestors(made, {step for s in kept for step in s.decodes.values()}))
    wanted |= {name for name, step in made.steps.items() if step.kind == "describe" and wanted.issuperset(step.needs)}
    return replace(made, steps={n: s for n, s in made.steps.items() if n in wanted}, systems=kept, whole=made)


def ancestors(made: Plan, names: set[str]) -> Iterator[str]:
    """Yield names of steps and of those they need; what a choice that is there was made from is not needed."""
    for name in names:
        yield name
        step = made.steps[name]
        if not (step.kind in ("rate", "tune") and step.done):
            yield from ancestors(made, set(step.needs))
