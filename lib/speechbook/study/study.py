"""Running a plan: every step once, resumable, one by one or several at once with Ray; then rows with intervals."""

import itertools
import logging
import os
import shutil
import time
from collections import ChainMap
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from speechmerge.devices import release_memory
from speechmerge.errors import StudyError
from speechmerge.files import atomic_folder
from speechmerge.finetuning import training

from . import fusion_rows, fusion_steps, steps, store
from .plans import Plan, Step, chosen, reads
from .rows import collect

log = logging.getLogger(__name__)

ACTIONS = ChainMap(steps.ACTIONS, fusion_steps.ACTIONS)
COLLECTED = {"fusion": fusion_rows.collect}  # by kind of experiment; all others become rows of a table of systems


def run(plan: Plan, *, executor: str = "local") -> list[dict]:
    """Do what is not done yet, write the experiment's rows and return them.

    Args:
        plan: see :func:`speechbook.study.experiments.plan`.
        executor: ``"local"`` (one step after another) or ``"ray"`` (several at once: on all cores of this machine, or
            on the Ray cluster it belongs to, with a shared cache folder).

    Raises:
        StudyError: an unknown executor. Errors of a step pass through; finished steps are kept.
    """
    if executor not in EXECUTORS:
        raise StudyError(f"there is no executor {executor!r}; use 'local' or 'ray'.")
    pending = plan.pending()
    with tqdm(total=round(sum(step.seconds for step in pending)), unit="s", desc=plan.name, disable=not pending) as bar:
        for step in EXECUTORS[executor](pending, plan.steps, bar):
            bar.update(round(step.seconds))
    return COLLECTED.get(plan.experiment.kind, collect)(plan)


def _one_by_one(pending: list[Step], known: dict[str, Step], bar: tqdm) -> Iterator[Step]:
    for batch in _batches(pending):
        bar.set_postfix_str(batch[0].name)
        execute(batch, known)
        yield from batch


def _on_ray(pending: list[Step], known: dict[str, Step], _: tqdm) -> Iterator[Step]:
    """Hand Ray as many steps as it has places for, of those whose needs are done, the longest chain of steps first."""
    try:
        import ray
    except ImportError:
        raise StudyError("the 'ray' executor needs Ray; install it with `pip install ray`.") from None
    told = {"ignore_reinit_error": True, "log_to_driver": False}
    try:
        ray.init(address="auto", **told)
    except ConnectionError:  # there is no cluster
        ray.init(**told)
    resources = ray.cluster_resources()
    gpus = 1 if resources.get("GPU") else 0
    places = int(resources["GPU" if gpus else "CPU"])
    own = {name: value for name, value in os.environ.items() if name.startswith("SPEECHMERGE_")}
    task = ray.remote(num_gpus=gpus)(_there)
    shared = ray.put(known)
    chains, missing = _chains(pending), {step.name for step in pending}
    models = chosen(known)
    read = {step.name: reads(step, models) for step in pending}
    waiting = sorted(_batches(pending), key=lambda batch: -max(chains[step.name] for step in batch))
    running = {}
    while waiting or running:
        ready = [batch for batch in waiting if missing.isdisjoint(name for step in batch for name in read[step.name])]
        for batch in _side_by_side(ready, running.values())[: places - len(running)]:
            waiting.remove(batch)
            running[task.remote(batch, shared, own)] = batch
        [done], _ = ray.wait(list(running))
        ray.get(done)
        missing.difference_update(step.name for step in running[done])
        yield from running.pop(done)


def _side_by_side(ready: list[list[Step]], running: Iterable[list[Step]]) -> list[list[Step]]:
    """Return the batches that can start now: no two, nor one that runs, fill the same store, or one would only wait."""
    filled = {store for batch in running if (store := fusion_steps.fills(batch[0]))}
    free = []
    for batch in ready:
        store = fusion_steps.fills(batch[0])
        if store not in filled:
            free.append(batch)
            filled.update({store} - {None})
    return free


def _there(batch: list[Step], known: dict[str, Step], environment: dict[str, str]) -> None:
    """Run steps in a worker of Ray, which may have been started by someone else and with another cache."""
    os.environ.update(environment)
    execute(batch, known)


def _chains(steps: list[Step]) -> dict[str, float]:
    """Return for each step the seconds of the longest chain of steps that it begins: the longest is done first."""
    chains, after = {}, dict.fromkeys((step.name for step in steps), 0.0)
    for step in reversed(steps):
        chains[step.name] = step.seconds + after[step.name]
        for need in step.needs:
            after[need] = max(after.get(need, 0.0), chains[step.name])
    return chains


def _batches(pending: list[Step]) -> Iterator[list[Step]]:
    """Yield steps one by one, and together those in a row that decode the same model."""
    for _, batch in itertools.groupby(pending, steps.alike):
        yield list(batch)


EXECUTORS = {"local": _one_by_one, "ray": _on_ray}


def execute(batch: list[Step], known: dict[str, Step]) -> None:
    """Do one step, or several that are alike, unless the results are there; each appears whole or not at all."""
    batch = list({step.key: step for step in batch if not step.done}.values())  # two names may stand for the same work
    if not batch:
        return
    started, first = time.perf_counter(), batch[0]
    inputs = [(known[need], known[need].folder) for need in first.needs]
    if first.kind == "train":
        steps.train(first, inputs)
        release_memory()
    elif first.kind == "decode":
        steps.decode(batch, inputs)
    else:
        with atomic_folder(first.folder) as folder:
            ACTIONS[first.kind](first.spec, inputs, folder)
    log.info("%s: %.0f s", ", ".join(step.name for step in batch), time.perf_counter() - started)


def take_choices(plan: Plan) -> int:
    """Take over committed choices on dev that the plan's own steps made elsewhere; return how many.

    So the trainings and decodings behind a choice need not be there, and other seeds go on where the first one was
    measured on another machine. A choice whose step would have another key today is made again.
    """
    known = {row["key"]: row["tried"] for row in store.lines(plan.profile, f"{plan.name}.chosen") if row.get("key")}
    wanted = [step for step in plan.steps.values() if step.kind in steps.CHOSEN and step.key in known and not step.done]
    for step in wanted:
        with atomic_folder(step.folder) as folder:
            steps.write(folder, steps.CHOSEN[step.kind](step.spec, known[step.key]))
    return len(wanted)


def forget(plan: Plan) -> None:
    """Delete the finished and interrupted steps of a plan, so that a run does everything again."""
    for step in plan.steps.values():
        for folder in (step.folder, training.state_folder(step.folder)):
            shutil.rmtree(folder, ignore_errors=True)
