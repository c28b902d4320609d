"""What was decided before the measuring: metrics, margins, seeds, thresholds (``experiments/protocol.yaml``)."""

import functools
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from speechmerge import checked
from speechmerge.checked import Checked, Count, Fault, Positive, Rates, Seeds, word
from speechmerge.corpora import KEPT_APART
from speechmerge.errors import StudyError, nearest
from speechmerge.finetuning.training_recipe import UNSEEN_ROWS
from speechmerge.whisper.prompts import TASK_NAMES

from .experiment import Decode, Profile
from .store import project_root

OWN = "own cells"  # the group of all cells of a table
ALL, NOVEL = "all", "novel"  # which clips are judged
METRICS = {  # what a task may be judged by, and whether more of it is better
    "asr": {"capped_wer": False, "wer": False, "macro_wer": False, "spelled_wer": False},
    "st": {"chrf": True, "bleu": True},
}
EVERY = METRICS["asr"] | METRICS["st"]
Share = Annotated[Positive, Field(le=1)]


class Splits(Checked):
    """How clips are divided, and which of the held-out ones are novel."""

    kept_apart: word(*KEPT_APART)  # which sentences stand in one split only
    novel: Share  # similarity to the nearest training text below which a clip is novel


class Trained(Checked):
    """The one rule by which all models are trained."""

    patience: Count | None = None  # epochs without a lower dev loss, after which it ends
    epochs: Count  # at most; all of them without patience
    unseen_rows: word(*UNSEEN_ROWS)  # rows of the token table that no training text uses
    rates: Annotated[Rates, Field(min_length=4)]  # learning rates, of which one is chosen for all


class Selection(Checked):
    """How parameters of merges are chosen on dev."""

    by: word("loss")  # teacher-forced
    finalists: Count  # values that are decoded in the end


class Metric(Checked):
    """What a task is judged by, and what is shown beside it."""

    primary: str
    secondary: tuple[str, ...] = Field((), strict=False)


class Inference(Checked):
    """How intervals are made."""

    confidence: Share
    resamples: Count


class Protocol(Checked):
    """The whole of it; ``seeds`` has an entry ``every`` for the experiments that it does not name."""

    splits: Splits
    training: Trained
    selection: Selection
    decoding: Decode
    metrics: dict[word(*TASK_NAMES), Metric]
    margins: dict[str, Positive]  # differences below them are none
    inference: Inference
    seeds: dict[str, Seeds]
    fewest_seeds: dict[str, Count]
    below_the_floor: dict[str, Annotated[tuple[word(*TASK_NAMES), ...], Field(strict=False)]]

    @model_validator(mode="after")
    def _has_margins(self) -> "Protocol":
        for task, metric in self.metrics.items():
            for name in (metric.primary, *metric.secondary):
                if name not in METRICS[task]:
                    raise Fault(f"has no metric {name!r} for {task}.{nearest(name, METRICS[task])}")
                if name not in self.margins:
                    raise Fault(f"lacks {name} in margins, a metric of {task}; say how large a difference counts.")
        for name in self.margins:
            if name not in EVERY:
                raise Fault(f"has no metric {name!r}, named in margins.{nearest(name, EVERY)}")
        return self

    @model_validator(mode="after")
    def _has_seeds(self) -> "Protocol":
        if "every" not in self.seeds:
            raise Fault("lacks 'every' in seeds, those of the experiments it does not name.")
        for experiment, count in self.fewest_seeds.items():
            if len(seeds := self.seeds_of(experiment)) < count:
                raise Fault(f"has the seeds {list(seeds)} for {experiment}; {count} are asked for.")
        return self

    def seeds_of(self, experiment: str) -> tuple[int, ...]:
        """Return the training seeds of an experiment."""
        return self.seeds.get(experiment, self.seeds["every"])

    def margin(self, metric: str) -> float:
        """Return the difference in a metric below which two systems count as equal."""
        return self.margins[metric]


def governs(profile: Profile) -> bool:
    """Tell whether a profile is measured by the protocol: one whose splits keep near sentences apart."""
    return profile.kept_apart == "near"


def read(path: Path | None = None) -> Protocol:
    """Read a protocol, the project's own if no path is given; it is parsed again only when it says something else.

    Raises:
        StudyError: it is not YAML, has an unknown field, metric or value, a margin that is not above 0, or fewer seeds
            than it asks for.
    """
    path = path or project_root() / "experiments" / "protocol.yaml"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StudyError(f"{path} is not readable as a protocol ({error.strerror}).") from error
    return _read(path, text)


@functools.lru_cache(maxsize=2)
def _read(path: Path, text: bytes) -> Protocol:
    return checked.read(Protocol, checked.parse(path, text), path)
