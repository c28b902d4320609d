"""Finished steps of a fusion experiment become the committed record: rows with intervals, answers, comparisons."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np

from speechmerge import machine
from speechmerge.errors import StudyError
from speechmerge.fusion import scoring, tasks
from speechmerge.fusion.examples import Example, Fold

from . import store
from .fusion_planning import names_of
from .fusion_steps import ANSWERS, folds_of
from .plans import Cell, Plan, Step, System, result

IDENTITY = ("task", "upstreams", "interface", "variant", "seed")
PAIRED = (*IDENTITY, "against")
SPOKEN = (*IDENTITY, "fold", "clip")

Found = dict[tuple[str, str, str, int], list]  # what was measured, by task, interface, variant and seed


def collect(plan: Plan) -> list[dict]:
    """Write the rows, answers, comparisons and chosen rates of a plan whose steps are done, and return the rows."""
    rows, said, stamp, found = [], [], machine.stamp(), {}
    for system in plan.systems:
        for cell, name in system.decodes.items():
            step = plan.steps[name]
            folds = _tests(cell.name, step.spec["sizes"])
            answers = json.loads((step.folder / ANSWERS).read_text())["test"]
            if tasks.find(cell.name).kind == "verification":  # what is scored is what is kept
                answers = [[unpacked(packed(one)) for one in own] for own in answers]
            place = {"task": cell.name, "upstreams": "".join(system.experts), "interface": system.system}
            place |= {"variant": system.variant, "seed": system.seed}
            rows.append(
                place | _row(plan, system, cell, step, scoring.summary(tasks.find(cell.name), folds, answers)) | stamp
            )
            said += [place | line for line in _answers(folds, answers)]
            measured = [scoring.measured(tasks.find(cell.name), *pair) for pair in zip(folds, answers, strict=True)]
            found[cell.name, system.system, system.variant, system.seed] = measured
    store.write_statistics(plan.profile, f"{plan.name}.fused", rows, identity=IDENTITY)
    store.write_statistics(plan.profile, f"{plan.name}.answers", said, identity=SPOKEN)
    if paired := [row | stamp for row in _paired(plan, found)]:
        store.write_statistics(plan.profile, f"{plan.name}.paired", paired, identity=PAIRED)
    if alike := [_alike(step) | stamp for step in plan.steps.values() if step.kind == "alike"]:
        store.write_statistics(plan.profile, f"{plan.name}.alike", alike, identity=("task", "pair"))
    tuned = [step for step in plan.steps.values() if step.kind == "fuse_rate"]
    chosen = [{"step": step.name, "kind": step.kind} | result(step.folder) | stamp for step in tuned]
    store.write_statistics(plan.profile, f"{plan.name}.chosen", chosen, identity=("step",))
    return rows


def _alike(step: Step) -> dict:
    """Return how alike two upstreams are on a task; κ is of tasks with classes alone."""
    pair = " + ".join(step.spec["upstreams"])
    return {"task": step.spec["task"], "pair": pair, "kappa": None} | result(step.folder)


def _tests(task: str, sizes: Sequence[int]) -> list[Fold]:
    """Return the test examples of each fold of a task."""
    return [[one for one in fold if one.split == "test"] for fold in folds_of(task, tuple(sizes))]


def _row(plan: Plan, system: System, cell: Cell, step: Step, summary: dict) -> dict:
    """Return what is said of a system on a task."""
    told, spec = result(step.folder), step.spec
    letters = "".join(system.experts)
    about = {"experiment": plan.name, "profile": plan.profile, "names": names_of(plan.settings, letters)}
    about |= {"fingerprints": told["fingerprints"], "windows": spec.get("windows"), "training": spec.get("training")}
    sizes = {f"{part}_parameters": told["parameters"][part] for part in ("interface", "head")}
    made = {"rate": told["rate"], "dev": told["dev"], "seconds": told["seconds"], "weights": told["weights"]}
    return about | sizes | made | summary


def packed(embedding: Sequence[float]) -> str:
    """Return an embedding as a word: a byte a number, of which the largest fills it."""
    values = np.asarray(embedding, np.float64)
    scaled = 127 * values / max(np.abs(values).max(), np.finfo(np.float32).tiny)
    return base64.b64encode(np.round(scaled).astype(np.int8).tobytes()).decode()


def unpacked(word: str) -> np.ndarray:
    """Return the embedding of a word, of length 1."""
    values = np.frombuffer(base64.b64decode(word), np.int8).astype(np.float64)
    return values / max(np.linalg.norm(values), 1.0)


def _answers(folds: list[Fold], answers: list) -> Iterator[dict]:
    """Yield what was answered to each clip: its class, its text, or its embedding as a word."""
    for number, (fold, own) in enumerate(zip(folds, answers, strict=True)):
        for one, answer in zip(fold, own, strict=True):
            told = answer if isinstance(answer, str) else packed(answer)
            yield {"fold": number, "clip": _clip(one), "answer": told}


def _clip(one: Example) -> str:
    return f"{one.clip.source}:{one.clip.language}:{one.clip.id}"


def _paired(plan: Plan, found: Found) -> Iterator[dict]:
    """Compare systems with others on the same set, sets with their single upstreams, and all with ``beside``."""
    for (task, interface, variant, seed), own in found.items():
        letters, _, rest = variant.partition(" ")
        rivals = [(other, variant) for other in plan.experiment.against]
        single = (*(letters if len(letters) > 1 else ()), *plan.experiment.beside)
        alone = [" ".join(filter(None, (letter, rest))) for letter in dict.fromkeys(single)]
        rivals += [(other, where) for other in plan.experiment.single for where in alone]
        for other, where in dict.fromkeys(rivals):
            if (other, where) != (interface, variant) and (rival := found.get((task, other, where, seed))) is not None:
                place = {"task": task, "upstreams": letters, "interface": interface, "variant": variant, "seed": seed}
                yield place | {"against": f"{other} {where}"} | asdict(scoring.difference(own, rival))


def rescored(plan: Plan) -> dict[str, list[dict]]:
    """Score the committed answers of a plan's systems again; return rows and comparisons by the name of their table.

    Raises:
        StudyError: there are no committed answers of a committed row.
    """
    kept: dict[tuple, dict[tuple[int, str], str]] = {}
    for line in store.lines(plan.profile, f"{plan.name}.answers"):
        kept.setdefault(tuple(line[name] for name in IDENTITY), {})[line["fold"], line["clip"]] = line["answer"]
    rows, found = [], {}
    for row in store.lines(plan.profile, f"{plan.name}.fused"):
        place, task = tuple(row[name] for name in IDENTITY), tasks.find(row["task"])
        folds = _tests(row["task"], plan.settings.sizes.get(row["task"], task.sizes))
        if place not in kept:
            raise StudyError(f"{plan.name}: there are no answers of {' '.join(map(str, place))}; run it again.")
        read = unpacked if task.kind == "verification" else str
        answers = [[read(kept[place][number, _clip(one)]) for one in fold] for number, fold in enumerate(folds)]
        rows.append(row | scoring.summary(task, folds, answers))
        measured = [scoring.measured(task, *pair) for pair in zip(folds, answers, strict=True)]
        found[row["task"], row["interface"], row["variant"], row["seed"]] = measured
    return {f"{plan.name}.fused": rows, f"{plan.name}.paired": list(_paired(plan, found))}
