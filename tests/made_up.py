"""Results that only tests may show: rows, comparisons and task vectors of the right form, with made-up values."""

import itertools
from dataclasses import asdict
from functools import cache

import torch

from speechbook.study import experiments, kept, measures, protocol, store
from speechbook.study.plans import Cell, Plan, Step, System
from speechmerge import corpora
from speechmerge.corpora import Clip
from speechmerge.evaluation.inference import EQUIVALENT, FAILS, HOLDS, OPEN
from speechmerge.evaluation.predictions import Prediction
from speechmerge.merging import engine, overlaps, task_vectors

STAMP = {"library": "0.0.0", "hardware": "made up for tests", "date": "2001-01-01"}
LOG = {"learning_rate": 1e-5, "minutes": 2.5, "best_epoch": 2, "epochs": 3, "windows": 30, "seconds": 10.0}
LOG |= {"steps": 9, "best_step": 6, "update": 0.04, "in_table": 0.8, "in_unseen_rows": 0.7}


def made_up_rows(plan: Plan) -> list[dict]:
    """Rows of every system, cell and average of an experiment, with values that only tests may show."""
    numbers, rows = itertools.count(), []
    for system in plan.systems:
        shared = _shared(plan, system)
        for task in dict.fromkeys(cell.task for cell in system.decodes):
            cells = [cell for cell in system.decodes if cell.task == task]
            places = [(cell.language, "+".join(cell.corpora), _fingerprint(plan, cell)) for cell in cells]
            if set(cells) & set(plan.cells):
                places += [(name, "all", None) for name in ("pooled", "macro") if (task, name) != ("st", "pooled")]
            for language, domain, fingerprint in places:
                place = {"task": task, "language": language, "domain": domain, "corpus_fingerprint": fingerprint}
                rows.append(shared | place | _score(task, next(numbers) * 37 % 100))
    return rows


def _fingerprint(plan: Plan, cell: Cell) -> str | None:
    """The fingerprint of test clips that need no download."""
    return corpora.fingerprint(_clips(cell, plan.settings.test_clips)) if plan.profile == "smoke" else None


@cache
def _clips(cell: Cell, cap: int | None) -> list[Clip]:
    return kept.clips_of(asdict(cell), "test", cap)


def made_up_predictions(plan: Plan) -> dict[store.Spoken, list[Prediction]]:
    """Transcripts of the clips of a profile that needs no download: right, changed, cut and repeated in turn."""
    turn = itertools.cycle(("{0}", "{0} más", "otra {1}", "", "no " * 60))
    return {
        kept.spoken(system, cell): [
            Prediction(clip.id, next(turn).format(clip.text, clip.text.partition(" ")[2]))
            for clip in _clips(cell, plan.settings.test_clips)
        ]
        for system in plan.systems
        for cell in system.decodes
    }


def _score(task: str, number: int) -> dict:
    """Scores of a row: a word error rate as a fraction, or BLEU and chrF."""
    if task == "st":
        bleu = 20 + number / 10
        return {"bleu": bleu, "chrf": bleu + 20, "ci_low": bleu - 2, "ci_high": bleu + 3}
    wer = 0.3 + 0.002 * number
    edits = {"substitutions": 20, "deletions": 5, "insertions": number % 9}
    return {"wer": wer, "cer": wer / 2, "ci_low": wer - 0.02, "ci_high": wer + 0.03} | edits


def _shared(plan: Plan, system: System) -> dict:
    """Fields that all rows of a system have in common."""
    needs = {need for step in system.decodes.values() for need in plan.steps[step].needs}
    tuned = {name for need in needs if plan.steps[need].kind == "tune" for name in _points(plan.steps[need])[0]}
    return dict.fromkeys(store.ROW_FIELDS) | STAMP | {
        "experiment": plan.name, "profile": plan.profile, "system": system.system, "variant": system.variant,
        "method": system.method, "experts": list(system.experts), "base": plan.settings.base, "split": "test",
        "seed": system.seed, "params": dict.fromkeys(sorted(tuned), 0.2), "decoding": plan.settings.decoding.given(),
        "training": {need: LOG for need in sorted(needs) if plan.steps[need].kind == "choose"},
        "n_utterances": 20, "n_reference_words": 90, "runaway": 1, "seconds": 1.0, "merge_seconds": 0.5,
    }  # fmt: skip


def made_up_comparisons(plan: Plan) -> list[dict]:
    """Paired differences of every system from those the experiment names: one lower, one higher, the others unclear."""
    rows = []
    for against in plan.experiment.against:
        others = [(s, task) for s in plan.systems for task in dict.fromkeys(c.task for c in s.decodes)]
        for number, (system, task) in enumerate((s, t) for s, t in others if s.system != against):
            difference = (-0.03, 0.03, 0.001)[min(number, 2)]
            row = {"system": system.system, "against": against, "task": task, "variant": system.variant}
            row |= {"seed": system.seed, "difference": difference, "p_value": 0.0002 * (1 + number % 1000)}
            rows.append(row | {"ci_low": difference - 0.02, "ci_high": difference + 0.02} | STAMP)
    return rows


def made_up_changes(plan: Plan) -> list[dict]:
    """Paired differences of every system from one other, language by language: lower, higher and unclear in turn."""
    rows, turn = [], itertools.cycle((-0.05, 0.04, 0.001, -0.01))
    against = plan.experiment.by_language
    for system in (s for s in plan.systems if against and s.system != against):
        places = [(cell.task, cell.name) for cell in system.decodes] + [("asr", "pooled")]
        for task, language in places + [("asr", "others")] * bool(plan.also):
            row = {"system": system.system, "against": against, "task": task, "language": language, "p_value": 0.01}
            row |= {"variant": system.variant, "seed": system.seed, "difference": (difference := next(turn))}
            rows.append(row | {"ci_low": difference - 0.02, "ci_high": difference + 0.02} | STAMP)
    return rows


def made_up_choices(plan: Plan) -> list[dict]:
    """What was tried on dev for every choice of an experiment."""
    rows = []
    for step in (step for step in plan.steps.values() if step.kind in ("rate", "tune")):
        if step.kind == "rate":
            tried = [{"learning_rate": rate, "dev_loss": 1 + rate} for rate in step.spec["rates"]]
        else:
            told = {"loss_seconds": 1.0, "decode_seconds": 6.0} if "decoded" in step.spec.get("search", {}) else {}
            told |= {"wer": 0.3, "loss": 1.2}
            tried = [point | told | {"error": 0.3 + 0.01 * i} for i, point in enumerate(_points(step))]
        rows.append({"step": step.name, "kind": step.kind, "tried": tried} | STAMP)
    return rows


def _points(step: Step) -> list[dict]:
    """Values that a tuning step tries."""
    if search := step.spec.get("search"):
        return [{search["parameter"]: value} for value in search["values"] or (0.2, 0.3)]
    return step.spec["grid"]


def made_up_measures(plan: Plan) -> tuple[list[dict], list[dict]]:
    """Measures and comparisons by the protocol, on all and novel clips; verdicts of every kind in turn."""
    rules, measured, compared, seeds = protocol.read(), [], [], {"seeds": [0, 1, 2]}
    turn = itertools.cycle([(-0.05, HOLDS), (0.04, FAILS), (0.001, EQUIVALENT), (-0.01, OPEN)])
    methods = {(system.system, system.variant): system.method for system in plan.systems}
    single, against = plan.experiment.by_language, plan.experiment.against
    groups = [measures.OWN, *plan.groups, *[measures.OTHERS] * bool(single), *(cell.name for cell in plan.cells)]
    compared_with = dict.fromkeys(filter(None, (*against, single)))
    places = [
        (task, m)
        for task in plan.experiment.tasks
        for m in (rules.metrics[task].primary, *rules.metrics[task].secondary)
    ]
    for (task, metric), clips, group in itertools.product(places, (measures.ALL, measures.NOVEL), groups):
        place = {"task": task, "clips": clips, "metric": metric, "group": group} | STAMP
        for number, ((system, variant), method) in enumerate(methods.items()):
            rate = 0.3 + 0.002 * (number * 37 % 100)
            row = {"system": system, "variant": variant, "method": method, "value": rate, "runaway": 1, "n_cells": 1}
            row |= {"by_seed": [rate - 0.01, rate, rate + 0.01], "n_clips": 20, "n_words": 90} | seeds
            measured.append(place | row | _ends(rate))
            for other in (name for name in compared_with if name != system):
                difference, verdict = next(turn)
                row = {"system": system, "variant": variant, "against": other, "against_variant": variant}
                row |= {
                    "difference": difference,
                    "verdict": verdict,
                    "p_value": 0.01,
                    "margin": 0.01,
                    "seeds": [0, 1, 2],
                }
                compared.append(place | row | _ends(difference))
    return measured, compared


def _ends(value: float) -> dict:
    return {"ci_low": value - 0.02, "ci_high": value + 0.02, "wide_low": None, "wide_high": None}


def made_up_groups(plan: Plan) -> list[dict]:
    """Averages over an experiment's groups, and paired differences: lower, higher, unclear in turn; capped alike."""
    rows, rates, turn = [], itertools.count(), itertools.cycle((-0.03, 0.03, 0.001, -0.01))
    variants = list(dict.fromkeys(system.variant for system in plan.systems))
    for name, cells in plan.groups.items():
        for system in (s for s in plan.systems if set(cells) <= set(s.decodes)):
            place = {"system": system.system, "variant": system.variant, "seed": system.seed, "group": name} | STAMP
            place["cells"] = [f"{cell.name}:{cell.task}" for cell in cells]
            wer = 0.3 + 0.002 * (next(rates) * 37 % 100)
            score = {"method": system.method, "wer": wer, "ci_low": wer - 0.02, "ci_high": wer + 0.03}
            rows.append({"kind": "average", "against": None} | place | score)
            others = [("paired", a) for a in plan.experiment.against if a != system.system]
            if plan.experiment.vary == "counts":
                others += [("grown", fewer) for fewer in variants[: variants.index(system.variant)]]
            for kind, against in others:
                difference = next(turn)
                spread = {"ci_low": difference - 0.02, "ci_high": difference + 0.02, "p_value": 0.01}
                rows.append({"kind": kind, "against": against, "difference": difference} | place | spread)
    return rows + [row | {"kind": f"capped {row['kind']}"} for row in rows]


def made_up_directions(plan: Plan) -> list[dict]:
    """How merges of random updates use directions."""
    base, experts = _network([cell.name for cell in plan.cells])
    merged = {
        merge.system: engine.merge_state_dicts(merge.method, base, list(experts.values()), **merge.params)
        for merge in plan.experiment.describe
    }
    rows = [row for row in task_vectors.describe(base, experts | merged) if row["kind"] in ("spectrum", "total")]
    return rows + overlaps.describe(base, experts)


def made_up_task_vectors(profile: str) -> list[dict]:
    """Statistics of random updates of a network of Whisper's tensor names."""
    return task_vectors.describe(*_network(experiments.profiles()[profile].sets["set1"]))


def _network(names: list[str]) -> tuple[dict, dict]:
    """A random network of Whisper's tensor names, 32 wide, and random updates of it by name."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"model.decoder.embed_tokens.weight": (128, 32)}
    for stack, layer in itertools.product(("encoder", "decoder"), range(2)):
        place = f"model.{stack}.layers.{layer}"
        attention = ["self_attn", "encoder_attn"] if stack == "decoder" else ["self_attn"]
        shapes |= {f"{place}.{block}.{part}_proj.weight": (32, 32) for block in attention for part in "qkv"}
        shapes |= {f"{place}.fc1.weight": (64, 32), f"{place}.fc2.weight": (32, 64), f"{place}.fc1.bias": (64,)}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    experts = {
        label: {name: w + 1e-3 * torch.randn(w.shape, generator=generator) for name, w in base.items()}
        for label in names
    }
    return base, experts
