"""What a file of ``experiments/fusion/`` may say: experiments that fuse frozen upstreams, and their profiles."""

from typing import Annotated

from pydantic import Field, model_validator

from speechmerge.checked import LIST, Checked, Count, Fault, Name, Positive, Rates, Seeds, Words, word
from speechmerge.corpora import SPLITS
from speechmerge.errors import SpeechMergeError, nearest
from speechmerge.fusion import interfaces, tasks
from speechmerge.fusion.alignment import NORMALISE
from speechmerge.fusion.heads import CTC_HEADS
from speechmerge.fusion.upstreams import MADE_OF, UPSTREAMS, WINDOWS, base_of

LATE = "late"  # the average of what singly trained systems answer
EVERY_LAYER = "layer:*"
VARIATIONS = {"window": WINDOWS, "normalise": NORMALISE}

Size = Annotated[int, Field(ge=1)]
Sizes = Annotated[tuple[Size, ...], Field(strict=False, min_length=len(SPLITS), max_length=len(SPLITS))]
Task = word(*tasks.TASKS)
Tasks = Annotated[tuple[Task, ...], *LIST]


class Training(Checked):
    """Settings of training (:class:`speechmerge.fusion.training.Options`)."""

    steps: Count = 300
    epochs: Count = 20
    batch: Count = 32
    frames: Count = 24
    evaluations: Count = 6
    width: Count | None = None
    normalise: word(*NORMALISE) = "frame"
    head: word(*CTC_HEADS) = "linear"


class Amount(Checked):
    """How much speech a task has, for estimates."""

    clips: Sizes  # of train, dev and test, in a fold
    seconds: Positive  # of a clip, on average
    folds: Count = 1
    classes: Count = 30  # or characters


class Pace(Checked):
    """How fast it goes on a machine."""

    machine: str = "a machine that the profile does not name"
    speed: Positive = 1.0  # against the processor on which costs were measured
    model_gb: float = 0.0  # on disk, of what is trained
    amounts: dict[str, Amount]


class Live(Checked):
    """What a page trains while it is made: a task, on few clips."""

    task: Task
    sizes: Sizes


class Models(Checked):
    """Where the models of the study are that are heard as upstreams: an experiment, on one of its profiles."""

    experiment: Name
    profile: str


class FusionProfile(Checked):
    """What experiments run on."""

    title: str | None = None
    upstreams: dict[str, str]  # by the letter that sets use; BASE@SYSTEM or BASE@SYSTEM, PLACE for a model of the study
    models: Models | None = None
    windows: dict[str, word(*WINDOWS)] = {}  # of upstreams that do not hear 30 s, by letter
    sets: dict[str, Words]  # of sets, by the names that experiments use; a set is letters, such as TM
    tasks: Tasks  # that the profile has speech for
    sizes: dict[str, Sizes] = {}  # clips of a class in train, dev and test, where not the task's own
    training: Training = Training()
    rates: Rates  # to choose from on dev
    rates_on: str  # letter of the upstream on which they are chosen for single ones
    joint_rates_on: str  # and the set on which they are chosen for several
    live: Live | None = None
    seeds: Seeds
    here: Pace

    @model_validator(mode="after")
    def _is_known(self) -> "FusionProfile":
        for letter, name in self.upstreams.items():
            if len(letter) != 1:
                raise Fault(f"calls an upstream {letter!r}; expected one letter.")
            if base_of(name) not in UPSTREAMS and "/" not in name:
                raise Fault(f"has an upstream {name!r}.{nearest(base_of(name), UPSTREAMS)}")
            if MADE_OF in name and self.models is None:
                raise Fault(f"has an upstream {name!r}, but no field models that says which experiment made it.")
        for letter in (
            *self.windows,
            self.rates_on,
            *self.joint_rates_on,
            *"".join(one for some in self.sets.values() for one in some),
        ):
            if letter not in self.upstreams:
                raise Fault(f"has no upstream {letter!r}.{nearest(letter, self.upstreams)}")
        for name in (*self.sizes, *self.tasks):
            if name not in self.here.amounts:
                raise Fault(f"has a task {name!r}, but no amount of speech for it among here.amounts.")
        return self


class FusionExperiment(Checked):
    """An experiment: which interfaces are compared, on which sets of upstreams and tasks."""

    experiment: Name
    kind: word("fusion")
    title: str | None = None
    question: str | None = None
    sets: Words  # names of the profile's lists of sets
    interfaces: Words  # names; layer:* stands for every layer, late for the average of singly trained systems
    tasks: Tasks
    vary: dict[str, Words] = {}  # window or normalisation: a variant for each value
    against: Words = ()  # interfaces that all others are compared with on the same set
    single: Words = ()  # interfaces of single upstreams that sets are compared with
    beside: Words = ()  # single upstreams besides those of a set with which it is compared so, by letter
    seeds: Seeds | None = None
    alike: bool = False  # whether it is told how alike the upstreams of each pair are, before they are fused

    @model_validator(mode="after")
    def _agrees(self) -> "FusionExperiment":
        for name in (*self.interfaces, *self.against, *self.single):
            if name not in (LATE, EVERY_LAYER):
                try:
                    interfaces.find(name)
                except SpeechMergeError as error:
                    raise Fault(f"names an interface that is not there: {error}") from None
        for name in self.against:
            if name not in self.interfaces:
                raise Fault(f"is compared with {name!r}, which is none of its interfaces.")
        for name, values in self.vary.items():
            if name not in VARIATIONS:
                raise Fault(f"varies {name!r}.{nearest(name, VARIATIONS)}")
            for value in values:
                if value not in VARIATIONS[name]:
                    raise Fault(f"varies {name} with {value!r}.{nearest(value, VARIATIONS[name])}")
        return self
