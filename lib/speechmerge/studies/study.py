"""Running a plan: every step once, resumable, here or on a Ray cluster; then rows with intervals."""

import logging
import shutil
import time

from tqdm import tqdm

from ..devices import release_memory
from ..errors import StudyError
from ..files import atomic_folder
from ..finetuning import training
from . import steps
from .plans import Plan, Step
from .rows import collect

log = logging.getLogger(__name__)


def run(plan: Plan, *, executor: str = "local") -> list[dict]:
    """Do what is not done yet, write the experiment's rows and return them.

    Args:
        plan: see :func:`speechmerge.studies.experiments.plan`.
        executor: ``"local"`` (one step after another) or ``"ray"`` (a running Ray cluster with a shared cache folder).

    Raises:
        StudyError: an unknown executor. Errors of a step pass through; finished steps are kept.
    """
    pending = plan.pending()
    if executor == "local":
        total = sum(step.seconds for step in pending)
        with tqdm(total=round(total), unit="s", desc=plan.name, disable=not pending) as bar:
            for step in pending:
                bar.set_postfix_str(step.name)
                execute(step, plan.steps)
                bar.update(round(step.seconds))
    elif executor == "ray":
        _run_on_ray(plan)
    else:
        raise StudyError(f"there is no executor {executor!r}; use 'local' or 'ray'.")
    return collect(plan)


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


def execute(step: Step, known: dict[str, Step]) -> None:
    """Run one step unless its result is there; the result appears whole or not at all."""
    if step.done:
        return
    started = time.perf_counter()
    inputs = [(known[need], known[need].folder) for need in step.needs]
    if step.kind == "train":
        steps.train(step, inputs)
        release_memory()
    else:
        with atomic_folder(step.folder) as folder:
            steps.ACTIONS[step.kind](step.spec, inputs, folder)
    log.info("%s: %.0f s", step.name, time.perf_counter() - started)


def forget(plan: Plan) -> None:
    """Delete the finished and interrupted steps of a plan, so that a run does everything again."""
    for step in plan.steps.values():
        for folder in (step.folder, training.state_folder(step.folder)):
            shutil.rmtree(folder, ignore_errors=True)
