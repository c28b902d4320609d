"""What each kind of step does: train, choose a rate, decode, tune on dev, match lengths, describe task vectors."""

import collections
import functools
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from speechmerge.errors import StudyError
from speechmerge.evaluation import scoring
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.evaluation.predictions import write_predictions
from speechmerge.evaluation.resampling import dev_error, weighted
from speechmerge.files import atomic_folder
from speechmerge.finetuning import resetting, training
from speechmerge.merging import engine, measuring, overlaps, searching, task_vectors
from speechmerge.whisper import models

from . import making
from .kept import clips_of
from .making import Inputs
from .plans import Step, result

HYPOTHESES = "predictions.jsonl.gz"


def write(folder: Path, found: dict) -> None:
    """Write a step's result."""
    (folder / "result.json").write_text(json.dumps(found, indent=1, ensure_ascii=False))


def train(step: Step, inputs: Inputs) -> None:
    """Fine-tune; the learning rate is the step's own or the one chosen by the last step it needs.

    Without a base of its own, the training goes on from the model that the first step it needs chose. ``reset`` trains
    nothing: it sets rows of that model back that its training never read.
    """
    spec = dict(step.spec)
    if spec.get("reset"):
        resetting.reset(making.expert(inputs[0][1]), step.folder)
        return
    cells = spec.pop("cells")
    sources = tuple(
        training.Source(corpus, cell["language"], cell["task"]) for cell in cells for corpus in cell["corpora"]
    )
    spec["kept_apart"] = cells[0].get("kept_apart", "equal")
    if "learning_rate" not in spec:
        spec["learning_rate"] = result(inputs[-1][1])["learning_rate"]
    if "base" not in spec:
        spec["base"] = str(making.expert(inputs[0][1]))
    training.train(training.Recipe(sources=sources, **spec), step.folder)


def _choose(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Pick the training with the lowest dev loss, or the one at the rate that the first input chose."""
    if inputs[0][0].kind == "rate":
        rate = result(inputs[0][1])["learning_rate"]
        inputs = [one for one in inputs[1:] if one[0].spec["learning_rate"] == rate]
    records = [json.loads((path / "training.json").read_text()) for _, path in inputs]
    losses = [min(record["log"]["dev_loss"]) for record in records]
    best = losses.index(min(losses))
    rates = [record["recipe"]["learning_rate"] for record in records]
    tried = _tried(rates, losses)
    write(folder, {"expert": inputs[best][0].key, "learning_rate": rates[best], "tried": tried, **records[best]})


def _tried(rates: list[float], losses: list[float]) -> list[dict]:
    return [{"learning_rate": rate, "dev_loss": loss} for rate, loss in zip(rates, losses, strict=True)]


def _rate(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Pick the rate with the lowest dev loss over all models it was tried on, each counting alike.

    Raises:
        StudyError: it is the lowest or the highest that was tried, so that a better one may lie beyond.
    """
    rates, losses = spec["rates"], [0.0]
    if inputs:
        many = len(inputs) // len(rates)
        found = [min(json.loads((path / "training.json").read_text())["log"]["dev_loss"]) for _, path in inputs]
        losses = [sum(found[i : i + many]) / many for i in range(0, len(found), many)]
    best = losses.index(min(losses))
    if len(rates) > 2 and best in (0, len(rates) - 1):
        told = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in zip(rates, losses, strict=True))
        raise StudyError(f"the best learning rate stands at the end of those tried ({told}); add one beyond it.")
    write(folder, {"learning_rate": rates[best], **({"tried": _tried(rates, losses)} if inputs else {})})


def alike(step: Step) -> object:
    """Return what steps that are done together have in common: decoding the same model for the same task."""
    if step.kind != "decode":
        return step.name
    made = {name: value for name, value in step.spec.items() if name not in ("cells", "split", "cap")}
    return step.needs, made, {cell["task"] for cell in step.spec["cells"]}


def decode(batch: list[Step], inputs: Inputs) -> None:
    """Build one model in memory, decode the cells of all steps with it, keep hypotheses and scores of each.

    Args:
        batch: steps that are :func:`alike`.
        inputs: what they need.
    """
    spec = batch[0].spec
    if "dynamic" in spec["model"]:
        base, experts, params = making.materials(spec, inputs)
        merge_seconds, decoder = 0.0, making.listening(spec, base, experts, params)
    else:
        folder, state, params, merge_seconds = making.model(spec, inputs)
        decoder = making.decoder(folder, Decoding(**spec["decoding"]), state is None)
        if state is not None:
            decoder.use(state)
    found = {"params": params, "merge_seconds": round(merge_seconds, 2)}
    cells = [cell for step in batch for cell in step.spec["cells"]]
    clips = [clips_of(cell, step.spec["split"], step.spec["cap"]) for step, cell in zip(batch, cells, strict=True)]
    spoken = [cell["language"] for cell, own in zip(cells, clips, strict=True) for _ in own]
    started = time.perf_counter()
    heard = iter(decoder.decode([clip for own in clips for clip in own], spoken, cells[0]["task"]))
    seconds = (time.perf_counter() - started) / max(1, len(spoken))
    for step, cell, own in zip(batch, cells, clips, strict=True):
        predictions = list(itertools.islice(heard, len(own)))
        scored = scoring.score(predictions, own, cell["language"], cell["task"])
        with atomic_folder(step.folder) as folder:
            write_predictions(predictions, folder / HYPOTHESES)
            about = {"seconds": round(seconds * len(own), 2), "score": scored.rate, "weight": scored.weight}
            write(folder, found | about)


def _tune(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Pick a parameter's value on dev: by loss where the step says what to search, else the grid's lowest error."""
    if "search" in spec:
        write(folder, _searched(spec, inputs))
        return
    many = len(inputs) // len(spec["grid"])
    tried = []
    for i, point in enumerate(spec["grid"]):
        by_task: dict[str, list[dict]] = {}
        for step, path in inputs[i * many : (i + 1) * many]:
            by_task.setdefault(step.spec["cells"][0]["task"], []).append(result(path))
        rates = {
            task: weighted([x["score"] for x in found], [x["weight"] for x in found]) for task, found in by_task.items()
        }
        tried.append({**point, **{scoring.METRICS[task]: rate for task, rate in rates.items()}})
        tried[-1]["error"] = dev_error(rates)
    write(folder, _tuned_as(spec, tried))


def _searched(spec: dict, inputs: Inputs) -> dict:
    """Search one parameter of a merge by teacher-forced dev loss; decode the best few values and choose by error.

    λ is searched as a continuous number, any other parameter over the step's values. Where the step says that all
    values are decoded, the seconds that either measure of a value took are kept beside it.
    """
    base, experts, params = making.materials(spec, inputs)
    search, cells = spec["search"], spec["cells"]
    name, values, every = search["parameter"], search["values"], search.get("decoded") == "all"
    told, heard = making.told(spec), [making.part(cell) for cell in cells]
    listen, took = measuring.listener(base, heard), collections.defaultdict(dict)

    def state(value: float) -> dict[str, Tensor]:
        return making.merged(spec["model"]["method"], base, experts, json.dumps(params | {name: value}), told)[0]

    def timed(what: str, measure: Callable[[dict[str, Tensor]], Any], value: float) -> Any:
        merged, started = state(value), time.perf_counter()
        found = measure(merged)
        took[value][f"{what}_seconds"] = round(time.perf_counter() - started, 2)
        return found

    loss = functools.partial(timed, "loss", lambda merged: measuring.dev_loss(listen(merged)))
    tried = sorted(((v, loss(v)) for v in values), key=lambda pair: pair[1]) if values else searching.minimum(loss)
    if every or values:
        best = [value for value, _ in (tried if every else tried[: searching.FINALISTS])]
    else:
        best = searching.finalists(tried)
    decoder = making.decoder(base, Decoding(**spec["decoding"]), False)
    decode = functools.partial(timed, "decode", lambda merged: measuring.decoded_error(decoder, merged, heard))
    errors = {value: decode(value) for value in best}
    rows = [{name: v, "loss": found, **errors.get(v, {}), **(took[v] if every else {})} for v, found in tried]
    return _tuned_as(spec, rows)


def _tuned_as(spec: dict, tried: list[dict]) -> dict:
    """Return the result of a tuning that tried this: of the values that were decoded, the one with the lowest error."""
    names = [spec["search"]["parameter"]] if "search" in spec else list(spec["grid"][0])
    best = min((one for one in tried if one.get("error") is not None), key=lambda one: one["error"])
    return {"params": {name: best[name] for name in names}, "error": best["error"], "tried": tried}


def _rated_as(_: dict, tried: list[dict]) -> dict:
    """Return the result of a choice between learning rates that tried this."""
    best = min(tried, key=lambda one: one["dev_loss"])
    return {"learning_rate": best["learning_rate"], "tried": tried}


def _match(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Find the λ that makes the update of a merge as long as another's, whose parameters are ``reference``."""
    base, experts, params = making.materials(spec, inputs)
    lengths = [
        task_vectors.length(base, engine.merged(spec["model"]["method"], base, experts, **chosen))
        for chosen in (params | {"scaling": 1.0}, params | spec["reference"])
    ]
    if not lengths[0]:
        raise StudyError(f"{spec['model']['method']} with {params} changes nothing, so no λ makes its update longer.")
    write(folder, {"params": {"scaling": lengths[1] / lengths[0]}, "lengths": lengths})


def _describe(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Norms, cosines, spectra and energy of task vectors: of the experts, or how merges of them use directions."""
    base, experts = models.base_model(spec["base"]), [making.expert(path) for _, path in inputs]
    named = dict(zip(spec["names"], experts, strict=True))
    if "merges" in spec:
        merges = {m["system"]: engine.merged(m["method"], base, experts, **m.get("params", {})) for m in spec["merges"]}
        rows = [row for row in task_vectors.describe(base, named | merges) if row["kind"] in ("spectrum", "total")]
        rows += overlaps.describe(base, named)
    else:
        rows = task_vectors.describe(base, named)
    write(folder, {"rows": rows})


ACTIONS: dict[str, Callable[[dict, Inputs, Path], None]] = {
    "choose": _choose,
    "rate": _rate,
    "tune": _tune,
    "match": _match,
    "describe": _describe,
}
CHOSEN: dict[str, Callable[[dict, list[dict]], dict]] = {"rate": _rated_as, "tune": _tuned_as}  # results from a record
