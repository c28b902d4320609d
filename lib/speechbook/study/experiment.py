"""What a file of ``experiments/`` may say: the fields of an experiment and of a profile, their units and values."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from speechmerge import corpora
from speechmerge.checked import (
    LIST,
    Checked,
    Count,
    Fault,
    Name,
    NotNegative,
    Numbers,
    Positive,
    Rates,
    Seeds,
    Words,
    word,
)
from speechmerge.errors import SpeechMergeError, nearest
from speechmerge.evaluation.decoding_settings import STOPS
from speechmerge.finetuning.training_recipe import UNSEEN_ROWS
from speechmerge.merging import methods, options
from speechmerge.precisions import PRECISIONS
from speechmerge.whisper.prompts import TASK_NAMES

from .partitions import PARTS
from .store import slug

KINDS = ("systems", "task_vectors")
VARIATIONS = ("subsets", "counts", "minutes", "unseen_rows")
MAKERS = ("model", "train", "sequence", "method")
MERGES = (  # fields that only merges have
    *("of", "into", "params", "tune", "tuned_as", "match", "prune", "sweep"),
    *("dynamic", "hears", "clips", "exhaustive"),
)
TABLES = ("also", "groups", "vary", "against", "by_language", "systems")  # … that only comparisons of systems have

Partition = word(*PARTS)
Task = word(*TASK_NAMES)
Precision = word(*PRECISIONS)
Several = Annotated[Words, BeforeValidator(lambda found: (found,) if isinstance(found, str) else found)]


def _one(choice: Any) -> Any:
    """Return a parameter with the name of its list of values, which is its own where none is given."""
    several = [choice] if isinstance(choice, str) else choice
    if isinstance(several, list) and all(isinstance(name, str) for name in several):
        choice = {name: name for name in several}
    if isinstance(choice, dict) and len(choice) != 1:
        raise Fault(f"names {len(choice)} parameters; expected one.")
    return choice


One = Annotated[dict[str, str], BeforeValidator(_one)]


class Decode(Checked):
    """Settings of decoding (:class:`speechmerge.evaluation.decoding_settings.Decoding`)."""

    beams: Count = 1  # 1 is greedy
    stop: word(*STOPS) = "finished"  # when a beam search ends
    precision: Precision = "auto"
    tokens_per_second: Positive = 20.0  # of speech, at most
    guard: bool = False  # whether hypotheses that run away are sampled again


class Described(Checked):
    """A merge that is described: its name, its method and the method's parameters."""

    system: Name
    method: str
    params: dict[str, Any] = {}

    @model_validator(mode="after")
    def _can_be_made(self) -> "Described":
        check_merge(self.method, self.params)
        return self


class Entry(Checked):
    """A system of a table: a model, and how it is made (see :mod:`speechbook.study.planning`)."""

    system: Name  # its name in tables
    model: word("base") | None = None  # the pretrained model
    train: Partition | None = None  # which cells share a training
    sequence: Partition | None = None  # … or are trained on one after another
    method: str | None = None  # of a merge
    of: Partition = "cell"  # which cells share a model that is merged
    into: Partition = "all"  # which cells share a merged model
    params: dict[str, Any] = {}  # of the method
    tune: One = {}  # the parameter chosen on dev, with the name of its values among the profile's grids
    exhaustive: bool = False  # where choices are by dev loss: every value of the grid is decoded too, none in between
    tuned_as: str | None = None  # a system above, whose choice on dev is taken over
    match: dict[str, Any] | None = None  # parameters of the merge whose length of update it is scaled to
    prune: dict[str, str] = {}  # parameters chosen for each expert alone, with the method that prunes it
    sweep: One = {}  # the parameter that makes a system of each value, with their name in the profile's ``vary``
    dynamic: dict[str, Any] = {}  # how its models are merged while they listen (speechmerge.dynamic.systems)
    hears: word("dev", "train") = "dev"  # what statistics are collected on: windows of dev, or all speech of train
    clips: Count | None = None  # of a cell, that it hears of its experts' speech, at most
    each: bool = False  # whether each of its models is a system, tested on all cells
    decoding: Decode = Decode()  # settings in the place of the profile's

    @model_validator(mode="after")
    def _is_made_in_one_way(self) -> "Entry":
        made = [name for name in MAKERS if getattr(self, name) is not None]
        if len(made) != 1:
            raise Fault(f"has {' and '.join(made) or 'none'} of {', '.join(MAKERS)}; expected one of them.")
        if self.each and self.model:
            raise Fault("has 'each', but is one model.")
        if self.method is not None:
            self._can_be_merged()
        elif extra := [name for name in MERGES if name in self.model_fields_set]:
            raise Fault(f"has {extra[0]!r}, a field of merges; {made[0]!r} makes no merge.")
        return self

    def makes(self, name: str) -> bool:
        """Whether this is the name of its system, or of one of several, whose names begin with its own."""
        return name == self.system or (bool(self.sweep or self.each) and name.startswith(f"{self.system} "))

    def _can_be_merged(self) -> None:
        """Check method and parameters; values that the profile lists are checked with it."""
        if self.tune and self.tuned_as:
            raise Fault("has tune and tuned_as; expected one of them.")
        if self.exhaustive and not self.tune:
            raise Fault("has exhaustive, but no tune.")
        if self.dynamic and (extra := next(filter(self.__getattribute__, ("tune", "match", "prune", "sweep")), None)):
            raise Fault(f"has dynamic and {extra}; take over what another merge was tuned to with tuned_as.")
        check_merge(self.method, self.params | (self.match or {}))
        found = methods.find(self.method)
        if self.hears != "dev" and (found.measure or not found.data):
            raise Fault(f"hears {self.hears}, but {self.method} collects no statistics.")
        if self.clips and not found.data:
            raise Fault(f"has clips, but {self.method} hears no speech.")
        chosen = [*self.tune, *self.prune, *self.sweep]
        for name in chosen:
            check_parameter(self.method, name)
            if [*self.params, *chosen].count(name) > 1:
                raise Fault(f"gives {name!r} twice; expected it in one of params, tune, prune and sweep.")
        for name, method in self.prune.items():
            check_parameter(method, name)


def check_merge(method: str, params: dict[str, Any]) -> None:
    """Check parameters of a merge of any number of experts."""
    try:
        options.check_all(methods.find(method), params, experts=None)
    except SpeechMergeError as error:
        raise Fault(f"cannot be merged: {error}") from None


def check_parameter(method: str, name: str) -> None:
    """Check that a method has a parameter."""
    try:
        known = ("scaling", *methods.find(method).parameters)
    except SpeechMergeError as error:
        raise Fault(f"cannot be merged: {error}") from None
    if name not in known:
        raise Fault(f"cannot be merged: {method} has no parameter {name!r}.{nearest(name, known)}")


class Published(Checked):
    """Where the paper's values for an experiment are."""

    file: str  # in ``experiments/published/``
    table: str | None = None  # rows of the file, by its columns of these names
    language_set: str | None = None


class Experiment(Checked):
    """An experiment: which systems are compared, and on what."""

    experiment: Name  # its name
    kind: word(*KINDS)
    title: str | None = None
    question: str | None = None  # that it answers
    notebook: str | None = None  # that shows it
    published: Published | None = None
    languages: str  # the profile's set of languages or domains that it is about
    also: Several = ()  # sets that a system of one model is tested on besides
    groups: dict[str, Words] = {}  # sets whose averages are told apart
    tasks: Annotated[tuple[Task, ...], *LIST]
    vary: word(*VARIATIONS) | None = None  # what makes a variant of the table
    against: Words = ()  # systems that all others are compared with, utterance by utterance
    by_language: str | None = None  # the system that all others are compared with in each language
    describe: Annotated[tuple[Described, ...], Field(strict=False)] = ()  # merges whose use of directions is described
    systems: Annotated[tuple[Entry, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _agrees(self) -> "Experiment":
        given = [name for name in TABLES if name in self.model_fields_set]
        if self.kind == "task_vectors" and given:
            raise Fault(f"has {given[0]!r}, a field of experiments of kind 'systems'.")
        if self.kind == "systems" and not self.systems:
            raise Fault("has no systems; give at least one.")
        for entries in (self.systems, self.describe):
            known: dict[str, str] = {}
            for entry in entries:
                other = known.setdefault(slug(entry.system), entry.system)
                if other is not entry.system:
                    raise Fault(f"has systems {other!r} and {entry.system!r}; their letters or digits must differ.")
        for field, names in (("against", self.against), ("by_language", filter(None, [self.by_language]))):
            for name in names:
                if not any(entry.makes(name) for entry in self.systems):
                    known = [entry.system for entry in self.systems]
                    raise Fault(f"names {name!r} in {field}, which is no system of it.{nearest(name, known)}")
        return self


class Training(Checked):
    """Settings of fine-tuning (:class:`speechmerge.finetuning.training_recipe.Recipe`)."""

    minutes: Positive  # of speech, of each language or domain and task
    epochs: Count
    batch: Count = 8  # windows in a step
    warmup: Annotated[NotNegative, Field(le=1)] = 0.1  # share of all steps
    clip_norm: Positive = 1.0
    precision: Precision = "auto"
    patience: Count | None = None  # epochs without a lower dev loss, after which it ends; without it all are made
    unseen_rows: word(*UNSEEN_ROWS) = "trained"  # rows of the token table that no training text uses


class Pace(Checked):
    """How fast it goes on a machine: what times and disk are estimated with."""

    machine: str = "a machine that the profile does not name"
    train_windows_per_second: Positive
    decode_clips_per_second: Positive  # greedy
    merge_seconds: NotNegative = 0  # of one expert
    model_gb: NotNegative = 0  # on disk
    test_clips: Count = 150  # of a cell


class Profile(Checked):
    """What experiments run on: which model and speech, and with what budget."""

    title: str | None = None
    base: str  # name or folder of the pretrained model
    sets: dict[str, Words]  # of languages or domains, by the names that experiments use
    codes: dict[str, str] = {}  # Whisper's code of each domain; a language is its own
    corpora: dict[str, Words]  # which speech each language or domain is drawn from
    training: Training
    learning_rates: Rates  # to choose from by dev loss
    decoding: Decode
    kept_apart: word(*corpora.KEPT_APART) = "equal"  # which sentences stand in one split only
    rates_on: Count | None = None  # languages or domains on which one rate for all is chosen; without it each its own
    select: word("loss") | None = None  # parameters are chosen by dev loss, and the best few values by dev error
    dev_clips: Count | None = None  # of a cell, at most; all without it
    test_clips: Count | None = None  # of a cell, at most; all without it
    grids: dict[str, Numbers] = {}  # values to choose from by dev error
    vary: dict[str, Numbers] = {}  # values that make a system or a variant each
    seeds: Seeds  # of trainings
    here: Pace
    rates_of: str | None = None  # an experiment whose committed choices of learning rates are taken over
    of: dict[str, "Profile"] = {}  # the profile of single experiments: what differs, filled up with the rest

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, found: Any) -> Any:
        if not isinstance(found, dict) or not isinstance(found.get("of"), dict):
            return found
        rest = {name: value for name, value in found.items() if name != "of"}
        filled = {name: rest | own if isinstance(own, dict) else own for name, own in found["of"].items()}
        return found | {"of": filled}

    @model_validator(mode="after")
    def _varies(self) -> "Profile":
        for name, values in self.vary.items():
            whole = all(isinstance(value, int) and value > 0 for value in values)
            if name in ("subsets", "counts") and not (whole and list(values) == sorted(values)):
                raise Fault(f"has {list(values)} in vary, {name}; expected growing whole numbers above 0.")
            if name == "minutes" and min(values) <= 0:
                raise Fault(f"has {list(values)} in vary, {name}; expected numbers above 0.")
        return self

    @model_validator(mode="after")
    def _has_speech(self) -> "Profile":
        for name in self.codes:
            if name not in self.corpora:
                raise Fault(f"has a code for {name!r}, but no corpora.{nearest(name, self.corpora)}")
        for part, names in self.sets.items():
            for name in names:
                if name not in self.corpora:
                    raise Fault(f"has {name!r} in its set {part!r}, but no corpora.{nearest(name, self.corpora)}")
        for name, sources in self.corpora.items():
            for source in sources:
                check_source(source, self.codes.get(name, name))
        return self


def check_source(source: str, language: str) -> None:
    """Check that a corpus speaks a language, and has the domain that may follow its name."""
    try:
        known = corpora.find(source, language).domains
    except SpeechMergeError as error:
        raise Fault(f"draws speech from {source!r}: {error}") from None
    domain = source.partition("/")[2]
    if domain and known and domain not in known:
        raise Fault(f"draws speech from {source!r}, which has no domain {domain!r}.{nearest(domain, known)}")
