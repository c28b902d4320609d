"""Training an interface and a head on stored states; the upstreams stay as they are.

Clips are drawn, frames chosen, weights begun and Gumbel noise made with one seed. Utterance tasks hear a few random
frames of a clip in each step and evenly spaced ones when they are tested; speech recognition hears all. Of several
evaluations on dev the best is kept, and test is read once, after that.
"""

import copy
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ..errors import TrainingError
from . import heads, interfaces
from .answering import Options, System
from .examples import Example, Fold, Task
from .fusing import temperature
from .hearing import Hearing

log = logging.getLogger(__name__)

RATES = (1e-3, 3e-3, 1e-2, 3e-2)  # that dev chooses from
BEYOND = 3  # further ones that are tried where the best is the lowest or the highest


def prepare(task: Task, fold: Fold, hearing: Hearing, interface: str, options: Options) -> System:
    """Make an interface and a head for a fold, with the initial weights of the seed.

    Args:
        task: what is learnt.
        fold: whose training clips tell the classes.
        hearing: the upstreams, not normalised.
        interface: name of one.
        options: of the training.
    """
    train = [one for one in fold if one.split == "train"]
    hearing = hearing.normalised(options.normalise, [one.clip for one in train])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        made = interfaces.build(interface, hearing.shapes, options.width)
        if task.kind == "characters":
            classes: Sequence[str] = "".join(sorted({" "} | {c for one in train for c in one.label}))
        else:
            classes = sorted({one.label for one in train})
        head = heads.made(task.kind, made.out, classes, options.head)
    return System(task, made, head, classes, hearing, options)


def train(task: Task, fold: Fold, hearing: Hearing, interface: str, options: Options) -> System:
    """Train an interface and a head, keep the state with the lowest error on dev, and return it.

    Raises:
        TrainingError: the loss is not finite.
        MethodError: the interface cannot be built for these upstreams.
    """
    started, system = time.perf_counter(), prepare(task, fold, hearing, interface, options)
    system.rate = options.rate or interfaces.find(interface).rate
    parts = {split: [one for one in fold if one.split == split] for split in ("train", "dev")}
    draw = np.random.default_rng([options.seed, 1])
    batches = list(_batches(system, parts["train"], draw))
    modules, best = system.modules(), None
    optimiser = _optimiser(modules, system.rate, options.decay)
    points = {round(len(batches) * (n + 1) / options.evaluations) for n in range(options.evaluations)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed + 1)
        for number, group in enumerate(batches):
            _step(system, modules.train(), optimiser, group, number / len(batches), draw)
            if number + 1 in points or number + 1 == len(batches):
                system.tried.append(system.error(parts["dev"]))
                if system.tried[-1] <= system.dev:  # of equals the one that was trained longer
                    system.dev, best = system.tried[-1], copy.deepcopy(modules.state_dict())
    if best is not None:
        modules.load_state_dict(best)
    modules.eval()
    system.seconds = time.perf_counter() - started
    return system


def _step(
    system: System,
    modules: nn.Module,
    optimiser: torch.optim.Optimizer,
    group: Sequence[Example],
    share: float,
    draw: np.random.Generator,
) -> None:
    """Make one step at a share of the way."""
    options = system.options
    if hasattr(system.interface, "temperature"):
        system.interface.temperature = temperature(share)
    rises = share / options.warmup if options.warmup else 1.0
    for part in optimiser.param_groups:
        part["lr"] = system.rate * min(1.0, rises + 1e-3, (1.0 - share) / (1.0 - options.warmup))
    loss = system.step(group, draw)
    if not loss.isfinite():
        raise TrainingError(
            f"task {system.task.name!r}: the loss is {loss.item()} after {share:.0%} of the steps at rate "
            f"{system.rate:g}; take a lower rate."
        )
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(modules.parameters(), options.clip_norm)
    optimiser.step()


def _optimiser(modules: nn.Module, rate: float, decay: float) -> torch.optim.Optimizer:
    """Return AdamW, without decay of biases, norms and logits of weighted sums."""
    matrices = [values for values in modules.parameters() if values.ndim > 1]
    others = [values for values in modules.parameters() if values.ndim < 2]
    parts = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([part for part in parts if part["params"]], lr=rate)


def _batches(system: System, train: Fold, draw: np.random.Generator) -> Iterator[list[Example]]:
    """Yield the batches of a training: random clips, or those of like length where all frames are heard."""
    options = system.options
    if system.task.whole:
        size = max(1, options.batch // 2)
        ordered = sorted(train, key=lambda one: (one.clip.seconds, one.clip.id))
        groups = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        for _ in range(options.epochs):
            yield from (groups[place] for place in draw.permutation(len(groups)))
        return
    waiting: list[int] = []
    for _ in range(options.steps):
        while len(waiting) < min(options.batch, len(train)):
            waiting += draw.permutation(len(train)).tolist()
        group, waiting = waiting[: options.batch], waiting[options.batch :]
        yield [train[place] for place in group]


def tuned(
    task: Task,
    fold: Fold,
    hearing: Hearing,
    interface: str,
    options: Options,
    rates: Sequence[float] = RATES,
    beyond: int = BEYOND,
) -> tuple[System, list[dict]]:
    """Train at several rates and return the system with the lowest error on dev, and what was tried.

    Of rates that end alike, as they may on a small dev set, the one that was better on the way is taken, and then the
    one nearest to the interface's own. Where the best of more than two is the lowest or the highest, a better one may
    lie beyond: the next is tried, and so on until the best lies between two others or ``beyond`` more were tried.

    Raises:
        TrainingError: the loss is not finite at one of ``rates``; beyond them, the search ends there.
    """
    known = math.log(interfaces.find(interface).rate)
    found = [train(task, fold, hearing, interface, replace(options, rate=rate)) for rate in rates]
    while True:
        best = min(found, key=lambda one: (one.dev, np.mean(one.tried), abs(math.log(one.rate) - known)))
        further = next_rate([one.rate for one in found], best.rate)
        if further is None:
            break
        if len(found) - len(rates) == beyond:
            log.warning("%s, %s: the best rate, %g, is at the end of those tried.", task.name, interface, best.rate)
            break
        try:
            found.append(train(task, fold, hearing, interface, replace(options, rate=further)))
        except TrainingError as exc:
            log.warning("%s", exc)
            break
    tried = sorted(found, key=lambda one: one.rate)
    return best, [{"rate": one.rate, "dev": one.dev} for one in tried]


def next_rate(tried: Sequence[float], best: float) -> float | None:
    """Return the rate beyond the end at which the best of more than two lies, as far as its neighbour is; else None."""
    ordered = sorted(tried)
    if len(ordered) < 3 or ordered[0] < best < ordered[-1]:
        return None
    neighbour = ordered[1] if best == ordered[0] else ordered[-2]
    return float(f"{best**2 / neighbour:.0e}")  # to one digit, as the others: 0.3 beyond 0.03 and 0.09
