"""Finished steps become the committed record: rows with intervals, predictions, paired comparisons, choices on dev."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from tqdm import tqdm

from .. import corpora, machine
from ..corpora import Clip
from ..evaluation.decoding import read_predictions, write_predictions
from ..evaluation.resampling import compare, interval, pooled, resampled_rates
from ..evaluation.scoring import METRICS, Matches, Scores, score
from ..whisper import checkpoints, models
from . import store
from .plans import Cell, Plan, System
from .steps import HYPOTHESES, evaluation_clips, result

SUMS = ("n_utterances", "n_reference_words", "runaway", "substitutions", "deletions", "insertions")
MEANS = ("wer", "cer", "bleu", "chrf")


def collect(plan: Plan) -> list[dict]:
    """Write the experiment's rows, predictions, comparisons and tuning records, and return the rows."""
    stamp = machine.stamp()
    for step in (step for step in plan.steps.values() if step.kind == "describe"):
        store.write_statistics(plan.profile, plan.name, [row | stamp for row in result(step.folder)["rows"]])
    if not plan.systems:
        return []
    cells = dict.fromkeys(cell for system in plan.systems for cell in system.decodes)
    heard = {cell: evaluation_clips(cell.corpora, cell.language, cell.task, cap=plan.test_clips) for cell in cells}
    scores = [_scores(plan, system, heard) for system in tqdm(plan.systems, desc="score", leave=False)]
    base = plan.settings["base"]
    common = {"base": base, "base_fingerprint": checkpoints.fingerprint(models.base_model(base)), **stamp}
    data = {cell: corpora.fingerprint(clips) for cell, clips in heard.items()}
    made = [
        row | common
        for system, found in zip(plan.systems, scores, strict=True)
        for row in _rows(plan, system, found, data)
    ]
    store.append_rows(plan.profile, made)
    paired = [row | stamp for row in _paired(plan, scores)]
    identity = ("system", "against", "task", "variant", "seed")
    store.write_statistics(plan.profile, f"{plan.name}.paired", paired, identity=identity)
    tuned = [step for step in plan.steps.values() if step.kind in ("tune", "choose")]
    chosen = [{"step": s.name, "kind": s.kind, "tried": result(s.folder)["tried"]} | stamp for s in tuned]
    store.write_statistics(plan.profile, f"{plan.name}.chosen", chosen, identity=("step",))
    return made


def _scores(plan: Plan, system: System, heard: dict[Cell, list[Clip]]) -> dict[Cell, Scores]:
    """Keep a system's hypotheses beside the rows and score them, cell by cell."""
    found = {}
    for cell, step in system.decodes.items():
        predictions = read_predictions(plan.steps[step].folder / HYPOTHESES)
        where = (plan.name, system.system, cell.task, cell.name, system.seed, system.variant)
        write_predictions(predictions, store.predictions_path(plan.profile, *where))
        found[cell] = score(predictions, heard[cell], cell.language, cell.task)
    return found


def _own(plan: Plan, found: dict[Cell, Scores], task: str) -> list[Scores]:
    """Return the scores of a task on the table's own cells: those that averages and comparisons are about."""
    return [scores for cell, scores in found.items() if cell.task == task and cell in plan.cells]


def _paired(plan: Plan, scores: list[dict[Cell, Scores]]) -> list[dict]:
    """Compare every system with those the experiment names, utterance by utterance, task by task."""
    rows = []
    by_name = {(s.system, s.variant, s.seed): found for s, found in zip(plan.systems, scores, strict=True)}
    for against in plan.experiment.get("against", []):
        for (system, variant, seed), found in by_name.items():
            other = by_name.get((against, variant, seed), {})
            for task in dict.fromkeys(cell.task for cell in found):
                own, others = _own(plan, found, task), _own(plan, other, task)
                if system != against and own and len(own) == len(others):
                    row = {"system": system, "against": against, "task": task, "variant": variant, "seed": seed}
                    rows.append(row | asdict(compare(own, others)))
    return rows


def _rows(plan: Plan, system: System, found: dict[Cell, Scores], data: dict[Cell, str]) -> list[dict]:
    """One row a cell, and for each task the averages over the table's own cells."""
    rows, shared, seconds = [], _shared(plan, system), {}
    for cell, scores in found.items():
        outcome = result(plan.steps[system.decodes[cell]].folder)
        seconds[cell] = outcome["seconds"]
        place = {"task": cell.task, "language": cell.language, "domain": "+".join(cell.corpora)}
        rows.append(
            shared | place | summary(scores)
            | {"params": outcome["params"], "seconds": outcome["seconds"], "corpus_fingerprint": data[cell]}
        )  # fmt: skip
    for task in dict.fromkeys(cell.task for cell in found if cell in plan.cells):
        cells = [cell for cell in found if cell.task == task and cell in plan.cells]
        params = [row["params"] for row in rows[: len(found)] if row["task"] == task]
        whole = {"task": task, "domain": "all", "corpus_fingerprint": None}
        whole |= {"params": params[0] if all(p == params[0] for p in params) else {}}
        whole |= {"seconds": round(sum(seconds[cell] for cell in cells), 2)}
        for name, fields in averages([found[cell] for cell in cells]).items():
            rows.append(shared | whole | {"language": name} | fields)
    return rows


def _shared(plan: Plan, system: System) -> dict:
    """Fields that all rows of a system have in common, and empty ones for what only some tasks have."""
    trainings = {}
    steps = [plan.steps[name] for name in dict.fromkeys(system.decodes.values())]
    for need in dict.fromkeys(need for step in steps for need in step.needs):
        if plan.steps[need].kind == "choose":
            record = result(plan.steps[need].folder)
            trainings[need] = {
                "learning_rate": record["learning_rate"],
                "minutes": record["log"]["minutes_of_speech"],
                "best_epoch": record["log"]["best_epoch"] + 1,
                "epochs": record["recipe"]["epochs"],
                "windows": record["log"]["windows"],
                "seconds": round(record["log"]["seconds"], 1),
            }
    return dict.fromkeys(store.ROW_FIELDS) | {
        "experiment": plan.name, "profile": plan.profile, "system": system.system, "variant": system.variant,
        "method": system.method, "experts": list(system.experts), "split": "test",
        "decoding": steps[0].spec["decoding"], "training": trainings, "seed": system.seed,
    }  # fmt: skip


def summary(scores: Scores) -> dict[str, object]:
    """Return the fields of a row that one language's scores fill: error rates as fractions, BLEU and chrF 0 to 100."""
    low, high = interval(resampled_rates([scores]))
    shared = {"n_utterances": len(scores.ids), "runaway": scores.runaway}
    if isinstance(scores, Matches):
        own = {"n_reference_words": scores.words, "bleu": scores.bleu, "chrf": scores.chrf}
        return shared | own | {"ci_low": 100 * low, "ci_high": 100 * high, "signature": scores.signature}
    edits = {"substitutions": scores.substitutions, "deletions": scores.deletions, "insertions": scores.insertions}
    own = {"n_reference_words": scores.weight, "wer": scores.wer, "cer": scores.cer, "normaliser": scores.normaliser}
    return shared | own | edits | {"ci_low": low, "ci_high": high}


def averages(scores: Sequence[Scores]) -> dict[str, dict[str, object]]:
    """Return the same fields for the averages over languages: ``pooled`` and ``macro`` WER, ``macro`` BLEU."""
    fields = [summary(one) for one in scores]
    whole = {name: sum(row[name] for row in fields) for name in SUMS if name in fields[0]}
    whole |= {name: fields[0][name] for name in ("signature", "normaliser") if name in fields[0]}
    mean = {name: float(np.mean([row[name] for row in fields])) for name in MEANS if name in fields[0]}
    unit = 100 if "bleu" in mean else 1
    low, high = interval(resampled_rates(scores, macro=True))
    found = {"macro": whole | mean | {"ci_low": unit * low, "ci_high": unit * high}}
    if unit == 1:
        low, high = interval(resampled_rates(scores))
        letters = sum(one.character_errors for one in scores) / max(1, sum(one.characters for one in scores))
        found["pooled"] = whole | {"wer": pooled(scores), "cer": letters, "ci_low": low, "ci_high": high}
    return found


def changes(before: Sequence[dict], after: Sequence[dict]) -> list[tuple[dict, dict]]:
    """Return the pairs of rows, committed and new, whose score differs; rows without a counterpart are left out."""
    old = {store.identity(row): row for row in before}
    pairs = [(old[store.identity(row)], row) for row in after if store.identity(row) in old]
    return [(a, b) for a, b in pairs if a[METRICS[a["task"]]] != b[METRICS[b["task"]]]]
