"""What the steps of a fusion experiment do: an upstream hears, dev chooses a rate, systems are trained and tested."""

import contextlib
import fcntl
import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from speechmerge.errors import StudyError
from speechmerge.fusion import answering, encoders, features, likeness, scoring, tasks, training, upstreams
from speechmerge.fusion.examples import Fold
from speechmerge.fusion.hearing import Hearing
from speechmerge.packages import artefact

from . import making
from .making import Inputs
from .plans import Step, result
from .steps import write
from .store import slug

ANSWERS, LOG_PROBABILITIES = "answers.json", "log_probabilities.npz"


@functools.lru_cache(maxsize=8)
def folds_of(task: str, sizes: tuple[int, ...]) -> list[Fold]:
    """Return the folds of a task, which many steps share."""
    return tasks.find(task).folds(sizes)


@functools.lru_cache(maxsize=1)
def _upstream(name: str, window: str) -> upstreams.Upstream:
    return upstreams.load(name, window)


@contextlib.contextmanager
def _in_turn(name: str) -> Iterator[None]:
    """Wait until no other step lets this upstream hear, for several may run at once."""
    place = artefact("features", f"{slug(name)}.lock")
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fills(step: Step) -> str | None:
    """Return the upstream to whose store a step adds, which one step at a time may do."""
    return step.spec["upstream"] if step.kind == "hear" else None


def _hear(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Add the clips of a task to an upstream's store; note what a training needs to open it."""
    clips = [one.clip for fold in folds_of(spec["task"], tuple(spec["sizes"])) for one in fold]
    whole = tasks.find(spec["task"]).whole
    name, window = spec["upstream"], spec["window"]
    if "model" in spec:
        folder_of, weights, *_ = making.model(spec, inputs)
        upstream = encoders.whisper(folder_of, window, weights)
    else:
        upstream = _upstream(name, window)
    with _in_turn(name):
        found = features.extract(name, upstream, clips, whole=whole, window=window)
    told = {"store": str(found.folder.name), "fingerprint": found.fingerprint, "clips": len(found.entries)}
    write(folder, told | {"layers": upstream.layers, "width": upstream.width, "rate": upstream.rate})


def _hearing(spec: dict, inputs: Inputs) -> Hearing:
    """Open the stores of a set; a model that is used twice is opened once."""
    known = {
        step.spec["upstream"]: features.opened(result(path)["store"]) for step, path in inputs if step.kind == "hear"
    }
    whole = tasks.find(spec["task"]).whole
    return Hearing([known[upstreams.plain(name)] for name in spec["upstreams"]], whole=whole)


def _fuse_rate(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Train at each rate on the first fold and pick the one with the lowest error on dev.

    Raises:
        StudyError: nothing was learnt at any rate.
    """
    task, hearing = tasks.find(spec["task"]), _hearing(spec, inputs)
    fold = folds_of(spec["task"], tuple(spec["sizes"]))[0]
    grid = spec["rates"], spec["beyond"]
    system, tried = training.tuned(task, fold, hearing, spec["interface"], _options(spec), *grid)
    if not np.isfinite(system.dev):
        raise StudyError(f"{spec['task']} {spec['interface']}: no rate of {spec['rates']} gave an error on dev.")
    write(folder, {"rate": system.rate, "tried": tried})


def _options(spec: dict, **more: object) -> training.Options:
    return replace(training.Options(**spec["training"]), seed=spec.get("seed", 0), **more)


def _fuse(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Train a system on each fold at the chosen rate, and keep its answers to dev and test."""
    task, hearing = tasks.find(spec["task"]), _hearing(spec, inputs)
    chosen = next(result(path)["rate"] for step, path in inputs if step.kind == "fuse_rate")
    kept: dict[str, list] = {"dev": [], "test": []}
    arrays, devs, seconds, sizes, weights = {}, [], 0.0, {}, None
    for number, fold in enumerate(folds_of(spec["task"], tuple(spec["sizes"]))):
        system = training.train(task, fold, hearing, spec["interface"], _options(spec, rate=chosen))
        for split, answers in kept.items():
            own = [one for one in fold if one.split == split]
            raw = system.answers(own)
            if task.kind == "classes":
                arrays[f"{split}{number}"] = np.asarray(raw, np.float32)
                arrays[f"classes{number}"] = np.array(system.classes)
            said = answering.said(system, raw)
            answers.append(np.round(said, 4).tolist() if isinstance(said, np.ndarray) else said)
        devs.append(system.dev)
        seconds, sizes, weights = seconds + system.seconds, system.sizes(), weights or system.weights()
    np.savez_compressed(folder / LOG_PROBABILITIES, **arrays)
    (folder / ANSWERS).write_text(json.dumps(kept, ensure_ascii=False))
    prints = [one.fingerprint for one in hearing.features]
    found = {"rate": chosen, "dev": float(np.mean(devs)), "seconds": round(seconds, 2), "fingerprints": prints}
    write(folder, found | {"parameters": sizes, "weights": weights})


def _late(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Average the log-probabilities of singly trained systems; nothing is trained."""
    loaded = [np.load(path / LOG_PROBABILITIES) for _, path in inputs]
    kept: dict[str, list] = {"dev": [], "test": []}
    folds, errors = folds_of(spec["task"], tuple(spec["sizes"])), []
    for number, fold in enumerate(folds):
        classes = loaded[0][f"classes{number}"]
        for split, answers in kept.items():
            mean = scoring.late([one[f"{split}{number}"] for one in loaded])
            answers.append([str(classes[place]) for place in mean.argmax(1)])
        dev = [one for one in fold if one.split == "dev"]
        errors.append(scoring.measured(tasks.find(spec["task"]), dev, kept["dev"][-1]).rate)
    (folder / ANSWERS).write_text(json.dumps(kept, ensure_ascii=False))
    parts = [result(path) for _, path in inputs]
    sizes = {name: sum(one["parameters"][name] for one in parts) for name in ("interface", "head")}
    prints = [own for one in parts for own in one["fingerprints"]]
    found = {"rate": None, "dev": float(np.mean(errors)), "seconds": 0.0, "fingerprints": prints}
    write(folder, found | {"parameters": sizes, "weights": None})


def _alike(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Compare two upstreams on dev: their weighted sums, and which clips systems on each alone get wrong."""
    alone = [path for step, path in inputs if step.kind == "fuse"]
    task, fold = tasks.find(spec["task"]), folds_of(spec["task"], tuple(spec["sizes"]))[0]
    train, dev = ([one for one in fold if one.split == split] for split in ("train", "dev"))
    hearing = _hearing(spec, inputs).normalised(spec["training"]["normalise"], [one.clip for one in train])
    weights = [result(path)["weights"][0] for path in alone]
    found = {"cka": likeness.linear_cka(*likeness.summed(hearing, weights, dev))}
    if task.kind == "classes":
        said = [json.loads((path / ANSWERS).read_text())["dev"][0] for path in alone]
        wrong = [[one.label != answer for one, answer in zip(dev, own, strict=True)] for own in said]
        found["kappa"] = likeness.kappa(*wrong)
    write(folder, found)


ACTIONS = {"hear": _hear, "fuse_rate": _fuse_rate, "fuse": _fuse, "late": _late, "alike": _alike}
