"""Running a plan: every step once, resumable, here or on a Ray cluster; then rows with intervals."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from . import checkpoints, corpora, engine, models, provenance, scoring, store, task_vectors, training
from .decoding import Decoder, Decoding, read_predictions, write_predictions
from .devices import release_memory
from .errors import StudyError
from .experiments import Plan, Step, System
from .files import atomic_folder

log = logging.getLogger(__name__)

Inputs = list[tuple[Step, Path]]


def run(plan: Plan, *, executor: str = "local") -> int:
    """Do what is not done yet and write the experiment's rows; return how many steps were run.

    Args:
        plan: see :func:`speechmerge.experiments.plan`.
        executor: ``"local"`` (one step after another) or ``"ray"`` (a running Ray cluster with a shared cache folder).

    Raises:
        StudyError: an unknown executor. Errors of a step pass through; finished steps are kept.
    """
    pending = plan.pending()
    if executor == "local":
        total = sum(step.seconds for step in pending)
        with tqdm(total=round(total), unit="s", desc=plan.experiment["experiment"], disable=not pending) as bar:
            for step in pending:
                bar.set_postfix_str(step.name)
                execute(step, plan.steps)
                bar.update(round(step.seconds))
    elif executor == "ray":
        _run_on_ray(plan)
    else:
        raise StudyError(f"there is no executor {executor!r}; use 'local' or 'ray'.")
    collect(plan)
    return len(pending)


def _run_on_ray(plan: Plan) -> None:
    """Submit every step to Ray, which starts each when those it needs are done."""
    try:
        import ray
    except ImportError:
        raise StudyError("the 'ray' executor needs Ray; install it with `pip install speechmerge[cluster]`.") from None
    ray.init(address="auto")
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_gpus=gpus)(lambda step, steps, *_needed: execute(step, steps))
    refs: dict[str, object] = {}
    for step in plan.steps.values():
        refs[step.name] = task.remote(step, plan.steps, *(refs[need] for need in step.needs))
    ray.get(list(refs.values()))


def execute(step: Step, steps: dict[str, Step]) -> None:
    """Run one step unless its result is there; the result appears whole or not at all."""
    if step.done:
        return
    started = time.perf_counter()
    inputs = [(steps[need], steps[need].folder) for need in step.needs]
    if step.kind == "train":
        _train(step, inputs)
    else:
        with atomic_folder(step.folder) as folder:
            ACTIONS[step.kind](step.spec, inputs, folder)
    release_memory()
    log.info("%s: %.0f s", step.name, time.perf_counter() - started)


def _result(folder: Path) -> dict:
    try:
        return json.loads((folder / "result.json").read_text())
    except (OSError, ValueError) as error:
        raise StudyError(f"the finished step in {folder} is damaged ({error}); delete it and run again.") from error


def _write(folder: Path, result: dict) -> None:
    (folder / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False))


def _train(step: Step, inputs: Inputs) -> None:
    """Fine-tune; the learning rate is the step's own or the one chosen by the step it needs."""
    spec = dict(step.spec)
    sources = tuple(training.Source(*source) for source in spec.pop("sources"))
    spec.setdefault("learning_rate", _result(inputs[0][1])["learning_rate"] if inputs else None)
    training.train(training.Recipe(sources=sources, **spec), step.folder)


def _choose(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Pick the training with the lowest dev loss."""
    records = [json.loads((path / "training.json").read_text()) for _, path in inputs]
    losses = [min(record["log"]["dev_loss"]) for record in records]
    best = losses.index(min(losses))
    rates = [record["recipe"]["learning_rate"] for record in records]
    tried = [{"learning_rate": rate, "dev_loss": loss} for rate, loss in zip(rates, losses, strict=True)]
    _write(folder, {"expert": inputs[best][0].key, "learning_rate": rates[best], "tried": tried, **records[best]})


def _expert(choice: Path) -> Path:
    return store.artefact("train", _result(choice)["expert"])


def _decode(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Build the model in memory, decode every language, keep hypotheses and error counts."""
    base = models.base_model(spec["base"])
    experts = [_expert(path) for step, path in inputs if step.kind == "choose"]
    started = time.perf_counter()
    state, params = None, {}
    if "method" in spec["model"]:
        params = _resolved(spec["model"]["params"], inputs)
        state = engine.merged(spec["model"]["method"], base, experts, **params)
    merge_seconds = time.perf_counter() - started
    settings = Decoding(**spec["decoding"])
    decoder = Decoder(experts[0] if "expert" in spec["model"] else base, settings, state=state)
    counted = {}
    for language, names in spec["sets"].items():
        clips = evaluation_clips(names, language, spec["split"], spec["cap"])
        started = time.perf_counter()
        predictions = decoder.decode(clips, language, spec["task"])
        seconds = time.perf_counter() - started
        write_predictions(predictions, folder / f"{language}.jsonl.gz")
        counts = scoring.count(predictions, clips, language)
        counted[language] = {
            "errors": int(counts.errors.sum()),
            "words": int(counts.words.sum()),
            "seconds": round(seconds, 2),
        }
    _write(folder, {"params": params, "merge_seconds": round(merge_seconds, 2), "languages": counted})


def _resolved(params: dict, inputs: Inputs) -> dict:
    """Add to ``params`` what was tuned on dev: one value per expert for pruned parameters, one for all others."""
    params = dict(params)
    for step, path in inputs:
        if step.kind == "tune":
            [(name, value)] = _result(path)["params"].items()
            if step.spec["per_expert"]:
                params.setdefault(name, []).append(value)
            else:
                params[name] = value
    return params


def evaluation_clips(names: list[str], language: str, split: str, cap: int | None = None) -> list[corpora.Clip]:
    """Return the clips of a language over its corpora; a cap takes every n-th, so that all corpora stay represented."""
    clips = [clip for name in names for clip in corpora.load(name, language, split)]
    if cap is None or len(clips) <= cap:
        return clips
    return [clips[i * len(clips) // cap] for i in range(cap)]


def _tune(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Pick the grid point with the lowest pooled dev word error rate; the first of equals."""
    rates = []
    for _, path in inputs:
        languages = _result(path)["languages"].values()
        rates.append(sum(x["errors"] for x in languages) / max(1, sum(x["words"] for x in languages)))
    best = rates.index(min(rates))
    tried = [{**point, "wer": rate} for point, rate in zip(spec["grid"], rates, strict=True)]
    _write(folder, {"params": spec["grid"][best], "wer": rates[best], "tried": tried})


def _describe(spec: dict, inputs: Inputs, folder: Path) -> None:
    """Norms, cosines, spectra and energy of the experts' task vectors."""
    experts = [_expert(path) for _, path in inputs]
    rows = task_vectors.describe(models.base_model(spec["base"]), dict(zip(spec["names"], experts, strict=True)))
    _write(folder, {"rows": rows})


ACTIONS: dict[str, Callable[[dict, Inputs, Path], None]] = {
    "choose": _choose,
    "decode": _decode,
    "tune": _tune,
    "describe": _describe,
}


def collect(plan: Plan) -> None:
    """Turn finished steps into the committed rows, predictions, comparisons and tuning records of the experiment."""
    name = plan.experiment["experiment"]
    stamp = _stamp()
    for step in (step for step in plan.steps.values() if step.kind == "describe"):
        store.write_statistics(plan.profile, name, [row | stamp for row in _result(step.folder)["rows"]])
    if not plan.systems:
        return
    counts = {(s.system, s.seed): _counts(plan, s) for s in tqdm(plan.systems, desc="score", leave=False)}
    store.append_rows(plan.profile, [row for s in plan.systems for row in _rows(plan, s, counts[s.system, s.seed])])
    paired = [row | stamp for row in _paired(plan, counts)]
    store.write_statistics(plan.profile, f"{name}.paired", paired, identity=("system", "against", "seed"))
    tuned = [step for step in plan.steps.values() if step.kind in ("tune", "choose")]
    chosen = [{"step": s.name, "kind": s.kind, "tried": _result(s.folder)["tried"]} | stamp for s in tuned]
    store.write_statistics(plan.profile, f"{name}.chosen", chosen, identity=("step",))


def _stamp() -> dict:
    """Fields that say where and when numbers were made."""
    date = datetime.now(UTC).date().isoformat()
    return {"library": provenance.library(), "hardware": provenance.hardware(), "date": date}


def _counts(plan: Plan, system: System) -> dict[str, scoring.Counts]:
    """Keep the system's hypotheses beside the rows and count their errors, by language."""
    counted = {}
    for language in system.decodes:
        step = plan.steps[system.decodes[language]]
        predictions = read_predictions(step.folder / f"{language}.jsonl.gz")
        where = (plan.experiment["experiment"], system.system, plan.experiment["task"], language, system.seed)
        write_predictions(predictions, store.predictions_path(plan.profile, *where))
        counted[language] = scoring.count(
            predictions, evaluation_clips(step.spec["sets"][language], language, "test"), language
        )
    return counted


def _paired(plan: Plan, counts: dict[tuple[str, int], dict[str, scoring.Counts]]) -> list[dict]:
    """Compare every system with those the experiment names, utterance by utterance, pooled over languages."""
    rows = []
    for against in plan.experiment.get("against", []):
        for (system, seed), own in counts.items():
            if system != against and (against, seed) in counts:
                compared = scoring.compare(list(own.values()), list(counts[against, seed].values()))
                rows.append({"system": system, "against": against, "seed": seed, **asdict(compared)})
    return rows


def _rows(plan: Plan, system: System, counts: dict[str, scoring.Counts]) -> list[dict]:
    """One row a language, and one each for the pooled and the macro average."""
    rows, shared = [], _shared(plan, system)
    for language, counted in counts.items():
        step = plan.steps[system.decodes[language]]
        result = _result(step.folder)
        own = {"language": language, "seconds": result["languages"][language]["seconds"], "params": result["params"]}
        own["corpus_fingerprint"] = corpora.fingerprint(evaluation_clips(step.spec["sets"][language], language, "test"))
        own["domain"] = "+".join(step.spec["sets"][language])
        rows.append(shared | own | _scores([counted]))
    whole = {"seconds": round(sum(row["seconds"] for row in rows), 2), "params": rows[-1]["params"], "domain": "all"}
    whole["corpus_fingerprint"] = None
    rows.append(shared | whole | {"language": "pooled"} | _scores(list(counts.values())))
    rows.append(shared | whole | {"language": "macro"} | _scores(list(counts.values()), macro=True))
    return rows


def _shared(plan: Plan, system: System) -> dict:
    """Fields that all rows of a system have in common."""
    base = models.base_model(plan.settings["base"])
    trainings = {}
    steps = [plan.steps[name] for name in dict.fromkeys(system.decodes.values())]
    for step in steps:
        for need in step.needs:
            if plan.steps[need].kind == "choose":
                record = _result(plan.steps[need].folder)
                trainings[need] = {
                    "learning_rate": record["learning_rate"],
                    "minutes": record["log"]["minutes_of_speech"],
                    "best_epoch": record["log"]["best_epoch"] + 1,
                    "epochs": record["recipe"]["epochs"],
                    "windows": record["log"]["windows"],
                    "seconds": round(record["log"]["seconds"], 1),
                }
    return {
        "experiment": plan.experiment["experiment"], "profile": plan.profile, "system": system.system,
        "method": system.method, "experts": list(system.experts), "base": plan.settings["base"],
        "base_fingerprint": checkpoints.fingerprint(base), "task": plan.experiment["task"], "split": "test",
        "bleu": None, "chrf": None, "normaliser": scoring.NORMALISER, "signature": None,
        "decoding": step.spec["decoding"], "training": trainings, "seed": system.seed,
        **_stamp(),
    }  # fmt: skip


def _scores(counts: list[scoring.Counts], *, macro: bool = False) -> dict:
    """Error rates as fractions with a 95 % bootstrap interval of the WER."""
    low, high = scoring.interval(scoring.resampled_rates(counts, macro=macro))
    mean = len(counts) if macro else 1
    return {
        "n_utterances": sum(len(c.errors) for c in counts),
        "n_reference_words": int(sum(c.words.sum() for c in counts)),
        "wer": sum(c.wer for c in counts) / mean if macro else scoring.pooled_wer(counts),
        "cer": (
            sum(c.cer for c in counts) / mean
            if macro
            else sum(c.character_errors for c in counts) / max(1, sum(c.characters for c in counts))
        ),
        "ci_low": low,
        "ci_high": high,
        "substitutions": sum(c.substitutions for c in counts),
        "deletions": sum(c.deletions for c in counts),
        "insertions": sum(c.insertions for c in counts),
        "runaway": sum(c.runaway for c in counts),
    }


def forget(plan: Plan) -> None:
    """Delete the finished and interrupted steps of a plan, so that a run does everything again."""
    for step in plan.steps.values():
        for folder in (step.folder, training.state_folder(step.folder)):
            shutil.rmtree(folder, ignore_errors=True)
