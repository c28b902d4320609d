"""What a training is made of: its recipe, the speech it reads, and the log it leaves."""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import corpora
from ..errors import TrainingError, nearest
from ..files import digest
from ..precisions import PRECISIONS
from ..whisper.prompts import TASK_NAMES

log = logging.getLogger(__name__)

FULL_SECONDS = 28.0  # speech in a window that is packed full; the rest stays silent
_BETWEEN = re.compile(r"(?<=:[a-z]{2}),\s*|(?<=:[a-z]{3}),\s*")  # a path may hold commas, a language or task does not
UNSEEN_ROWS = ("trained", "kept")
# Raise when a change alters trained weights, so that stored experts are not mistaken for new ones. Version 2 takes the
# same steps as version 1; its dev losses in bf16 are rounded otherwise, which may choose another epoch.
VERSION = 2


@dataclass(frozen=True)
class Source:
    """Speech for one task: a corpus of the registry, or a path or hub id of one's own, in one language."""

    corpus: str
    language: str
    task: str = "asr"

    def __post_init__(self) -> None:
        """Refuse a task that is not one."""
        if self.task not in TASK_NAMES:
            raise TrainingError(f"there is no task {self.task!r}.{nearest(self.task, TASK_NAMES)}")

    @property
    def domain(self) -> str:
        """The domain of a corpus that is named with one (``uqm/pkunk``), else nothing."""
        return self.corpus.partition("/")[2] if corpora.is_registered(self.corpus) else ""

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read ``WHERE:LANGUAGE[:TASK]`` from its end, for paths and hub ids may hold colons.

        ``asterisk:es``, ``uqm/pkunk:en:asr``, ``./clips_es:es``, ``hub:google/fleurs:es_419:es:asr``.
        """
        tasked = text.rpartition(":")[2] in TASK_NAMES
        where, *last = text.rsplit(":", 2 if tasked else 1)
        if len(last) != 1 + tasked or not re.fullmatch(r"[a-z]{2,3}", last[0]) or not _is_place(where):
            raise TrainingError(
                f"{text!r} is not corpus:language[:asr|st], for example asterisk:es:asr. Speech of your own is named "
                "by its path or hub id, as in ./clips:es or hub:OWNER/NAME:es."
            )
        return cls(where, *last)

    @classmethod
    def parse_all(cls, text: str) -> tuple["Source", ...]:
        """Read several sources, joined with commas."""
        return tuple(map(cls.parse, _BETWEEN.split(text.strip())))

    def __str__(self) -> str:
        return f"{self.corpus}:{self.language}:{self.task}"


def _is_place(where: str) -> bool:
    """Tell whether this can name speech: without a colon anything can, with one only what exists or the hub has."""
    if where.startswith(corpora.own.PREFIX):
        return re.fullmatch(r"[^:]*[^:/]/[^:/]+(:[^:]+)?", where.removeprefix(corpora.own.PREFIX)) is not None
    return where.strip() not in ("", corpora.own.PREFIX[:-1]) and (":" not in where or corpora.own.is_own(where))


@dataclass(frozen=True)
class Recipe:
    """Everything that decides which weights a training produces.

    Attributes:
        base: name or folder of the model to start from (an expert's folder makes the training sequential).
        sources: what to train on.
        minutes: cap on training speech per language (or domain) and task, drawn with ``seed``; None takes all there is.
        epochs: passes over the data, at most; the epoch with the lowest dev loss is kept.
        patience: training ends after so many epochs in a row without a lower dev loss; None goes through all epochs.
        learning_rate: AdamW's peak rate, reached after ``warmup`` of all steps, then decaying linearly to zero; with
            ``patience`` it is reached after the first epoch and stays.
        batch: windows in a step and process.
        clip_norm: largest gradient norm.
        seed: drives the draw of clips, the packing and the order.
        precision: ``"auto"`` (bf16 autocast where it pays), ``"bf16"`` or ``"fp32"``.
        kept_apart: which sentences stand in one split only (:func:`speechmerge.corpora.load`).
        unseen_rows: what becomes of rows of the token table that no training text uses: ``"trained"``, as by any
            optimiser whose loss runs over all tokens, or ``"kept"`` as the base has them.
    """

    base: str
    sources: tuple[Source, ...]
    minutes: float | None = None
    epochs: int = 5
    learning_rate: float = 1e-5
    batch: int = 8
    warmup: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0
    precision: str = "auto"
    patience: int | None = None
    kept_apart: str = "equal"
    unseen_rows: str = "trained"

    def __post_init__(self) -> None:
        """Refuse values no training can have, before any data are read."""
        if self.precision not in PRECISIONS:
            raise TrainingError(f"there is no precision {self.precision!r}.{nearest(self.precision, PRECISIONS)}")
        if self.unseen_rows not in UNSEEN_ROWS:
            raise TrainingError(f"unseen_rows is {self.unseen_rows!r}.{nearest(self.unseen_rows, UNSEEN_ROWS)}")
        if len(set(self.sources)) < len(self.sources) or not self.sources:
            raise TrainingError(f"sources are {', '.join(map(str, self.sources)) or 'none'}; give each of them once.")
        for name in ("epochs", "batch", "learning_rate", "clip_norm", "minutes", "patience"):
            value, whole = getattr(self, name), name in ("epochs", "batch", "patience")
            none = value is None and name in ("minutes", "patience")
            if not none and not (_number(value, whole) and 0 < value < math.inf):
                raise TrainingError(f"{name} is {value!r}; expected a {'whole ' if whole else ''}number above 0.")
        if not (_number(self.warmup) and 0 <= self.warmup <= 1):
            raise TrainingError(f"warmup is {self.warmup!r}; expected a share of all steps, 0 to 1.")
        if not (_number(self.seed, whole=True) and self.seed >= 0):
            raise TrainingError(f"seed is {self.seed!r}; expected a whole number from 0 up.")


def _number(value: object, whole: bool = False) -> bool:
    """Whether a value is a number, and not true or false."""
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


@dataclass
class TrainingLog:
    """What happened: dev loss per epoch (nats a token), the epoch kept, the cost, and how far the weights went.

    Attributes:
        steps, best_step, planned: of the optimiser: done, up to the epoch kept, and at most.
        update: ‖τ‖/‖θ0‖ over all tensors.
        in_table: share of ‖τ‖² that lies in the token table.
        in_unseen_rows: share of ‖τ‖² that lies in rows of the table that no training text uses.
    """

    dev_loss: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    best_epoch: int = 0
    windows: int = 0
    seconds: float = 0.0
    minutes_of_speech: float = 0.0
    data: str = ""
    steps: int = 0
    planned: int = 0
    best_step: int = 0
    update: float = 0.0
    in_table: float = 0.0
    in_unseen_rows: float = 0.0

    @property
    def windows_per_second(self) -> float:
        """Throughput of the training steps, reading and packing included, dev evaluations not."""
        return self.windows / self.seconds if self.seconds else 0.0


DataSets = list[tuple[list[corpora.Clip], str, str]]


def load(recipe: Recipe) -> tuple[DataSets, DataSets]:
    """Read the clips of every language (or domain) and task: train capped to ``recipe.minutes`` each, dev whole."""
    train_sets, dev_sets = [], []
    for language, task, domain in dict.fromkeys((s.language, s.task, s.domain) for s in recipe.sources):
        named = [s.corpus for s in recipe.sources if (s.language, s.task, s.domain) == (language, task, domain)]
        train, dev = (_clips(recipe, named, language, task, split) for split in ("train", "dev"))
        train = _held_out(train, dev) if len(named) > 1 else train
        if recipe.minutes is not None:
            train = draw_minutes(train, recipe.minutes, recipe.seed)
        train_sets.append((train, language, task))
        dev_sets.append((dev, language, task))
        corpora.check([*train, *dev])
    return train_sets, dev_sets


def _clips(recipe: Recipe, named: Sequence[str], language: str, task: str, split: str) -> list[corpora.Clip]:
    """Return the clips of a split of several sources; an id that stands in more than one gets its source's name."""
    found = corpora.together([(one, corpora.load(one, language, split, kept_apart=recipe.kept_apart)) for one in named])
    clips = [clip for clip in found if task == "asr" or clip.translation]
    if not clips:
        why = f"; none of its {len(found)} has a translation" if found else ""
        more = " or give more clips, for dev gets a part of the sentences" if split == "dev" else ""
        raise TrainingError(
            f"{'+'.join(named)} has no {split} clips for {language} {task}{why}; choose other sources{more}."
        )
    return clips


def _held_out(train: list[corpora.Clip], dev: Sequence[corpora.Clip]) -> list[corpora.Clip]:
    """Leave out of training the sentences by which another source's epochs are chosen, and say how many."""
    held = {corpora.transcript_key(clip.text) for clip in dev}
    kept = [clip for clip in train if corpora.transcript_key(clip.text) not in held]
    if len(kept) < len(train):
        log.info("%d train clips say a sentence that another source has in dev; left out", len(train) - len(kept))
    return kept


def draw_minutes(clips: Sequence[corpora.Clip], minutes: float, seed: int) -> list[corpora.Clip]:
    """Draw clips at random until ``minutes`` of speech are reached; nested: a larger cap keeps the smaller draw."""
    order = np.random.default_rng([seed, 0x5EED]).permutation(len(clips))
    total, drawn = 0.0, []
    for i in order:
        if total >= 60 * minutes:
            break
        drawn.append(clips[i])
        total += clips[i].seconds
    return drawn


def fingerprint(sets: DataSets) -> str:
    """Hash what a training reads: every clip of every language and task, in order."""
    return digest([[language, task, corpora.fingerprint(clips)] for clips, language, task in sets])
