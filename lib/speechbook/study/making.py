"""The model that a step is about: the base, an expert, or a merge, made in memory and kept while it is asked for."""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from speechmerge.corpora import Clip
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.merging import engine, measuring
from speechmerge.packages import artefact
from speechmerge.whisper import models

from .kept import clips_of
from .plans import Step, result

if TYPE_CHECKING:
    from speechmerge.dynamic.choosing import Listening
    from speechmerge.dynamic.guiding import Guided

Inputs = list[tuple[Step, Path]]
ALL = 1_000_000  # windows: whatever there is


def expert(choice: Path) -> Path:
    """Return the folder of the model that a finished ``choose`` step chose."""
    return artefact("train", result(choice)["expert"])


def model(spec: dict, inputs: Inputs) -> tuple[Path, dict[str, Tensor] | None, dict[str, Any], float]:
    """Return the model that a step is about.

    Args:
        spec: of the step; its ``model`` is the base, an expert or a merge.
        inputs: what the step needs.

    Returns:
        A folder; the weights to be used in the place of its own, if the model is a merge; the merge's parameters; and
        the seconds that it took.
    """
    base, experts, params = materials(spec, inputs)
    if "method" in spec["model"]:
        state, seconds = merged(spec["model"]["method"], base, experts, json.dumps(params), told(spec))
        return base, state, params, seconds
    return experts[0] if "expert" in spec["model"] else base, None, params, 0.0


def materials(spec: dict, inputs: Inputs) -> tuple[Path, tuple[Path, ...], dict[str, Any]]:
    """Return the base, the experts and the parameters of a step's model."""
    experts = tuple(expert(path) for step, path in inputs if step.kind == "choose")
    params = _resolved(spec["model"]["params"], inputs) if "method" in spec["model"] else {}
    return models.base_model(spec["base"]), experts, params


def told(spec: dict) -> str:
    """Return as JSON what a merge that needs data is told: the speech, how to decode it, and which of it is heard."""
    model = spec["model"]
    return json.dumps(model.get("speech") and [model["speech"], spec["decoding"], model.get("hears", "dev")])


def listening(spec: dict, base: Path, experts: tuple[Path, ...], params: dict) -> "Listening | Guided":
    """Return what merges while it listens, or asks all experts."""
    from speechmerge.dynamic import choosing, systems

    model = spec["model"]
    speech = [[part(cell, model["hears"]) for cell in own] for own in model.get("speech", [])]
    models = choosing.Models(base, experts, model["method"], params, speech)
    return systems.build(models, model["dynamic"], Decoding(**spec["decoding"]))


@functools.lru_cache(maxsize=1)
def decoder(folder: Path, settings: Decoding, own: bool) -> Decoder:
    """Return a decoder, kept until another is wanted: one with its ``own`` weights, or one to be given others."""
    return Decoder(folder, settings)


@functools.lru_cache(maxsize=1)
def merged(
    method: str, base: Path, experts: tuple[Path, ...], params: str, speech: str
) -> tuple[dict[str, Tensor], float]:
    """Return a merged model, kept until the next one (it is decoded on one cell after another), and its seconds.

    ``params`` and ``speech`` are JSON; speech is what each expert was trained on, of dev, for methods that need data,
    and how to decode it.
    """
    options = json.loads(params)
    scaling = options.pop("scaling", 1.0)
    at, seconds = _line(method, base, experts, json.dumps(options), speech)
    started = time.perf_counter()
    return at(scaling), seconds + time.perf_counter() - started


@functools.lru_cache(maxsize=1)
def _line(
    method: str, base: Path, experts: tuple[Path, ...], params: str, speech: str
) -> tuple[Callable[[float], dict[str, Tensor]], float]:
    """Return the merged models of all λ, kept until another merge is wanted (λ is tuned), and the seconds it took."""
    started, options = time.perf_counter(), json.loads(params)
    extras = None
    if told := json.loads(speech):
        cells, decoding, hears = told
        heard = [[part(cell, hears) for cell in own] for own in cells]
        whole = {"windows": ALL} if hears == "train" else {}
        extras = measuring.extras(method, base, experts, heard, options, settings=Decoding(**decoding), **whole)
    at = engine.line(method, base, experts, extras=extras, **options)
    return at, time.perf_counter() - started


def part(cell: dict, split: str = "dev") -> tuple[list[Clip], str, str]:
    """Return the clips of a cell's split, its language and task."""
    return clips_of(cell, split, cell.get("cap")), cell["language"], cell["task"]


def _resolved(params: dict, inputs: Inputs) -> dict[str, Any]:
    """Add to ``params`` what was tuned on dev: one value per expert for pruned parameters, one for all others."""
    params = dict(params)
    for step, path in inputs:
        if step.kind in ("tune", "match"):
            [(name, value)] = result(path)["params"].items()
            if step.spec["per_expert"]:
                params.setdefault(name, []).append(value)
            else:
                params[name] = value
    return params
