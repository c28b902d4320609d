"""Finished steps become the committed record: rows with intervals, predictions, paired comparisons, choices on dev."""

from collections.abc import Iterator

from speechmerge import machine
from speechmerge.evaluation.predictions import read_predictions
from speechmerge.evaluation.scoring import Scores
from speechmerge.evaluation.summaries import averages, summary
from speechmerge.whisper import checkpoints, models

from . import comparisons, kept, measures, protocol, store, verdicts
from .kept import Kept
from .plans import Cell, Plan, System, result
from .steps import HYPOTHESES

FACTS = ("steps", "best_step", "update", "in_table", "in_unseen_rows")  # of a training's log


def collect(plan: Plan) -> list[dict]:
    """Write the experiment's rows, predictions, comparisons and tuning records, and return the rows.

    Systems that are not among the plan's are compared with these by their committed predictions, so that an experiment
    can be measured a few systems at a time.

    Raises:
        ScoringError: committed predictions of such a system are missing, damaged, or not of the plan's test clips.
    """
    stamp = machine.stamp()
    for step in (step for step in plan.steps.values() if step.kind == "describe"):
        store.write_statistics(plan.profile, plan.name, [row | stamp for row in result(step.folder)["rows"]])
    if not plan.systems:
        return []
    said = {
        kept.spoken(system, cell): read_predictions(plan.steps[step].folder / HYPOTHESES)
        for system in plan.systems
        for cell, step in system.decodes.items()
    }
    store.keep_predictions(plan.profile, plan.name, said)
    found = kept.read(plan.whole or plan, plan.systems)
    there, scores = found.plan, found.scores()
    base = plan.settings.base
    common = {"base": base, "base_fingerprint": checkpoints.fingerprint(models.base_model(base)), **stamp}
    made = [
        row | common
        for system, own in zip(there.systems, scores, strict=True)
        if system in plan.systems
        for row in _rows(plan, system, own, found.fingerprints)
    ]
    store.append_rows(plan.profile, made)
    told = {
        "paired": (comparisons.paired, comparisons.PAIRED),
        "by_language": (comparisons.by_language, comparisons.BY_LANGUAGE),
        "groups": (comparisons.grouped, comparisons.GROUPED),
    }
    for kind, (compare, identity) in told.items():
        lines = [row | stamp for row in compare(there, scores)]
        if lines or kind == "paired":
            store.write_statistics(plan.profile, f"{plan.name}.{kind}", lines, identity=identity)
    if protocol.governs(plan.settings):
        for name, (lines, identity) in _judged(found).items():
            store.write_statistics(plan.profile, name, [row | stamp for row in lines], identity=identity)
    tuned = [
        step
        for step in plan.steps.values()
        if step.kind in ("tune", "choose", "rate") and "tried" in result(step.folder)
    ]
    chosen = [{"step": s.name, "kind": s.kind, "key": s.key, "tried": result(s.folder)["tried"]} | stamp for s in tuned]
    store.write_statistics(plan.profile, f"{plan.name}.chosen", chosen, identity=("step",))
    return made


def rescored(plan: Plan) -> list[dict]:
    """Score the committed predictions of an experiment again, and return its committed rows with what that gives.

    Systems without committed rows are left out.

    Raises:
        ScoringError: predictions of a row are missing, damaged, or not of the references there are now.
    """
    old = {store.identity(row): row for row in store.measured(plan.profile, plan.name)}
    there, found = kept.read(plan), []
    for system, scores in zip(there.plan.systems, there.scores(), strict=True):
        for _, line in _lines(plan, scores):
            found.append(old[store.identity(kept.place(plan, system) | line)] | line)
    return found


def judged(plan: Plan) -> dict[str, list[dict]]:
    """Measure and compare by the protocol, from the committed predictions; return the rows of each table by its name.

    Raises:
        ScoringError: as :func:`rescored`.
    """
    if not protocol.governs(plan.settings):
        return {}
    return {name: found for name, (found, _) in _judged(kept.read(plan)).items()}


def _judged(there: Kept) -> dict[str, tuple[list[dict], tuple[str, ...]]]:
    """Return measures and comparisons by the protocol, each with the fields that tell their rows apart."""
    measured, compared = verdicts.rows(measures.Table(there, protocol.read()))
    tables = {"measures": (measured, measures.IDENTITY), "comparisons": (compared, verdicts.IDENTITY)}
    return {f"{there.plan.name}.{name}": table for name, table in tables.items()}


def _lines(plan: Plan, found: dict[Cell, Scores]) -> Iterator[tuple[list[Cell], dict]]:
    """Yield what scoring says of a system: one line a cell, and for each task the averages over the table's own."""
    for cell, scores in found.items():
        yield [cell], kept.where(cell) | summary(scores)
    for task in dict.fromkeys(cell.task for cell in found if cell in plan.cells):
        cells = [cell for cell in found if cell.task == task and cell in plan.cells]
        for name, fields in averages([found[cell] for cell in cells]).items():
            yield cells, {"task": task, "language": name, "domain": "all"} | fields


def _rows(plan: Plan, system: System, found: dict[Cell, Scores], data: dict[Cell, str]) -> Iterator[dict]:
    """Complete the lines of a system with how its models were made."""
    shared = _shared(plan, system)
    outcomes = {cell: result(plan.steps[step].folder) for cell, step in system.decodes.items()}
    for cells, line in _lines(plan, found):
        params = [outcomes[cell]["params"] for cell in cells]
        made = {"params": params[0] if all(p == params[0] for p in params) else {}}
        made["seconds"] = round(sum(outcomes[cell]["seconds"] for cell in cells), 2)
        merges = {plan.steps[system.decodes[cell]].needs: outcomes[cell]["merge_seconds"] for cell in cells}
        made["merge_seconds"] = round(sum(merges.values()), 2)  # of each of its models once
        yield shared | line | made | {"corpus_fingerprint": None if line["domain"] == "all" else data[cells[0]]}


def _shared(plan: Plan, system: System) -> dict:
    """Fields that all rows of a system have in common, and empty ones for what only some tasks have."""
    trainings = {}
    steps = [plan.steps[name] for name in dict.fromkeys(system.decodes.values())]
    for need in dict.fromkeys(need for step in steps for need in step.needs):
        if plan.steps[need].kind == "choose":
            record = result(plan.steps[need].folder)
            log, recipe = record["log"], record["recipe"]
            trainings[need] = {
                "learning_rate": record["learning_rate"],
                "minutes": log["minutes_of_speech"],
                "best_epoch": log["best_epoch"] + 1,
                "epochs": recipe["epochs"],
                "windows": log["windows"],
                "seconds": round(log["seconds"], 1),
            }
            trainings[need] |= {fact: log[fact] for fact in FACTS if fact in log}  # older logs have none
            if recipe.get("patience"):
                trainings[need]["patience"] = recipe["patience"]
    return dict.fromkeys(store.ROW_FIELDS) | {
        "experiment": plan.name, "profile": plan.profile, "system": system.system, "variant": system.variant,
        "method": system.method, "experts": list(system.experts), "split": "test",
        "decoding": steps[0].spec["decoding"], "training": trainings, "seed": system.seed,
    }  # fmt: skip
