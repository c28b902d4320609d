"""What was decided before the measuring: metrics, margins, seeds, thresholds (``experiments/protocol.yaml``)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pydantic
import yaml
from pydantic import Field

from ..errors import StudyError, nearest
from ..finetuning.training_recipe import UNSEEN_ROWS
from .store import project_root

METRICS = {  # what a task may be judged by, and whether more of it is better
    "asr": {"capped_wer": False, "wer": False, "macro_wer": False, "spelled_wer": False},
    "st": {"chrf": True, "bleu": True},
}


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Splits(_Part):
    """Which sentences stand in one split only, and below what similarity to training texts a clip is novel."""

    kept_apart: Literal["equal", "near"]
    novel: float = Field(gt=0, le=1)


class Training(_Part):
    """The one rule of training: patience in epochs, most epochs, rows of unused tokens, rates to choose from."""

    patience: int = Field(ge=1)
    epochs: int = Field(ge=2)
    unseen_rows: Literal[UNSEEN_ROWS]
    rates: tuple[float, ...] = Field(min_length=4)


class Selection(_Part):
    """How λ and other parameters are chosen on dev, and how many values are decoded in the end."""

    by: Literal["loss"]
    finalists: int = Field(ge=1)


class Metric(_Part):
    """What a task is judged by, and what is shown beside it."""

    primary: str
    secondary: tuple[str, ...] = ()


class Inference(_Part):
    """Confidence of all intervals, and how often the bootstrap redraws."""

    confidence: float = Field(gt=0.5, lt=1)
    resamples: int = Field(ge=1000)


class Protocol(_Part):
    """The whole of it; ``seeds`` has an entry ``every`` for the experiments that it does not name."""

    splits: Splits
    training: Training
    selection: Selection
    decoding: dict[str, bool | int | str]
    metrics: dict[Literal["asr", "st"], Metric]
    margins: dict[str, float]
    inference: Inference
    seeds: dict[str, tuple[int, ...]]
    fewest_seeds: dict[str, int]
    below_the_floor: dict[str, tuple[Literal["asr", "st"], ...]] = {}

    def seeds_of(self, experiment: str) -> tuple[int, ...]:
        """Return the training seeds of an experiment."""
        return self.seeds.get(experiment, self.seeds["every"])

    def margin(self, metric: str) -> float:
        """Return the difference in a metric below which two systems count as equal."""
        return self.margins[metric]


def governs(settings: Mapping[str, object]) -> bool:
    """Tell whether a profile is measured by the protocol: one whose splits keep near sentences apart."""
    return settings.get("kept_apart") == "near"


def read(path: Path | None = None) -> Protocol:
    """Read a protocol; the project's own if no path is given.

    Raises:
        StudyError: it is not YAML, has an unknown field, metric or value, a margin that is not above 0, or fewer seeds
            than it asks for.
    """
    path = path or project_root() / "experiments" / "protocol.yaml"
    try:
        found = Protocol.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path} is not readable as a protocol ({' '.join(str(error).split())}).") from error
    except pydantic.ValidationError as error:
        raise StudyError(f"{path}: {_sentence(error)}") from error
    _check(path, found)
    return found


def _sentence(error: pydantic.ValidationError) -> str:
    """Say the first thing that is wrong with a field."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the file"
    if first["type"] == "extra_forbidden":
        *outer, name = first["loc"]
        model = Protocol
        for part in outer:
            model = model.model_fields[part].annotation
        return f"there is no field {place}.{nearest(str(name), model.model_fields)}"
    return f"{place} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}."


def _check(path: Path, found: Protocol) -> None:
    """Check what fields say of each other.

    Raises:
        StudyError: as :func:`read`.
    """
    for task, metric in found.metrics.items():
        for name in (metric.primary, *metric.secondary):
            if name not in METRICS[task]:
                raise StudyError(f"{path}: there is no metric {name!r} for {task}.{nearest(name, METRICS[task])}")
            if name not in found.margins:
                raise StudyError(
                    f"{path}: margins lacks {name}, a metric of {task}; say how large a difference counts."
                )
    for name, margin in found.margins.items():
        if name not in METRICS["asr"] | METRICS["st"]:
            raise StudyError(f"{path}: margins has no metric {name!r}.{nearest(name, METRICS['asr'] | METRICS['st'])}")
        if not margin > 0:
            raise StudyError(f"{path}: the margin of {name} is {margin:g}; expected a size, above 0.")
    if not found.seeds.get("every"):
        raise StudyError(f"{path}: seeds lacks 'every', the seeds of the experiments it does not name.")
    for experiment, count in found.fewest_seeds.items():
        seeds = found.seeds_of(experiment)
        if len(set(seeds)) < count:
            raise StudyError(f"{path}: {experiment} has the seeds {list(seeds)}; {count} different ones are asked for.")
