"""Training an interface and a head on stored states; the upstreams stay as they are.

Clips are drawn, frames chosen, weights begun and Gumbel noise made with one seed. Utterance tasks hear a few random
frames of a clip in each step and evenly spaced ones when they are tested; speech recognition hears all. Of several
evaluations on dev the best is kept, and test is read once, after that.
"""

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TrainingError
from . import interfaces
from .alignment import spaced
from .examples import Example, Fold, Task
from .fusing import WeightedSum, temperature
from .heads import Characters, Classes, Verification
from .hearing import Hearing, joined
from .scoring import Answers, measured

log = logging.getLogger(__name__)

AT_ONCE = 16  # clips in an evaluation
RATES = (1e-3, 3e-3, 1e-2, 3e-2)  # that dev chooses from


@dataclass(frozen=True)
class Options:
    """How it is trained.

    Attributes:
        rate: AdamW's peak learning rate; ``None`` takes the one the interface is declared with.
        steps: of utterance tasks.
        epochs: of speech recognition.
        batch: clips in a step; speech recognition takes half as many, of like length.
        frames: of each clip in a training step of utterance tasks.
        tested: most frames of each clip when such a task is tested.
        evaluations: on dev.
        warmup: share of the steps in which the rate rises; afterwards it falls to 0, linearly.
        decay: weight decay of matrices.
        clip_norm: of gradients.
        normalise: what is done to states (:mod:`.alignment`).
        width: to which upstreams are projected; the largest of them without it.
        head: of speech recognition: ``"linear"`` or ``"context"``.
        seed: of everything that is drawn.
    """

    rate: float | None = None
    steps: int = 300
    epochs: int = 20
    batch: int = 32
    frames: int = 24
    tested: int = 64
    evaluations: int = 6
    warmup: float = 0.1
    decay: float = 0.01
    clip_norm: float = 1.0
    normalise: str = "frame"
    width: int | None = None
    head: str = "linear"
    seed: int = 0


@dataclass
class System:
    """An interface and a head, trained or not.

    Attributes:
        task: what it answers.
        interface, head: the modules.
        classes: in the order of the head's answers; the alphabet of a recogniser.
        hearing: the upstreams, normalised as in training.
        options: of its training.
        rate: that it was trained with.
        dev: the best error on dev.
        tried: the errors of all evaluations on dev.
        seconds: of the training.
    """

    task: Task
    interface: nn.Module
    head: nn.Module
    classes: Sequence[str]
    hearing: Hearing
    options: Options
    rate: float = 0.0
    dev: float = float("inf")
    tried: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def sizes(self) -> dict[str, int]:
        """Return how many numbers interface and head have."""
        return {"interface": interfaces.parameters(self.interface), "head": interfaces.parameters(self.head)}

    def weights(self) -> list[list[float]] | None:
        """Return the weights of the layers of each upstream, where the interface has such."""
        summed = self.interface if isinstance(self.interface, WeightedSum) else None
        return summed.weights() if summed else None

    def _modules(self) -> nn.ModuleList:
        return nn.ModuleList([self.interface, self.head])

    def forward(self, group: Sequence[Example], rows: Sequence[np.ndarray]) -> tuple[Tensor, list[int]]:
        """Return what the interface makes of some frames of each clip, and how many there are."""
        heard = [self.hearing.open(one.clip).take(own) for one, own in zip(group, rows, strict=True)]
        return self.interface(joined(heard)), [len(own) for own in rows]

    @torch.no_grad()
    def answers(self, fold: Sequence[Example]) -> Answers:
        """Return the head's answer to each clip: log-probabilities, embeddings or texts."""
        self._modules().eval()
        found = []
        for start in range(0, len(fold), AT_ONCE):
            group = fold[start : start + AT_ONCE]
            rows = [self._tested(self.hearing.open(one.clip).frames) for one in group]
            answer = self.head(*self.forward(group, rows))
            found += answer if isinstance(answer, list) else [answer.numpy()]
        return found if self.task.kind == "characters" else np.concatenate(found)

    def _tested(self, frames: int) -> np.ndarray:
        return np.arange(frames) if self.task.whole else spaced(frames, self.options.tested)

    def error(self, fold: Sequence[Example]) -> float:
        """Return the error of the system on some examples, between 0 and 1 or above."""
        return measured(self.task, fold, said(self, self.answers(fold))).rate

    def step(self, group: Sequence[Example], draw: np.random.Generator) -> Tensor:
        """Return the loss of a training step."""
        rows = []
        for one in group:
            frames, some = self.hearing.open(one.clip).frames, self.options.frames
            chosen = np.arange(frames) if self.task.whole else np.sort(draw.choice(frames, some, frames < some))
            rows.append(chosen)
        targets = [one.label if self.task.whole else self.classes.index(one.label) for one in group]
        return self.head.loss(*self.forward(group, rows), targets)


def said(system: System, answers: Answers) -> Answers:
    """Return answers as they are scored: the most likely class of each clip in the place of log-probabilities."""
    if system.task.kind != "classes":
        return answers
    return [system.classes[place] for place in np.asarray(answers).argmax(1)]


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
            head: nn.Module = Characters(made.out, classes, options.head)
        else:
            classes = sorted({one.label for one in train})
            head = (Verification if task.kind == "verification" else Classes)(made.out, len(classes))
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
    modules, best = system._modules(), None
    optimiser = _optimiser(modules, system.rate, options.decay)
    points = {round(len(batches) * (n + 1) / options.evaluations) for n in range(options.evaluations)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed + 1)
        for number, group in enumerate(batches):
            _step(system, modules.train(), optimiser, group, number / len(batches), draw)
            if number + 1 in points or number + 1 == len(batches):
                system.tried.append(system.error(parts["dev"]))
                if system.tried[-1] < system.dev:
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
    task: Task, fold: Fold, hearing: Hearing, interface: str, options: Options, rates: Sequence[float] = RATES
) -> tuple[System, list[dict]]:
    """Train at several rates and return the system with the lowest error on dev, and what was tried.

    It is said where the best rate is the lowest or the highest, so that a better one may lie beyond.
    """
    best, tried = None, []
    for rate in rates:
        found = train(task, fold, hearing, interface, replace(options, rate=rate))
        tried.append({"rate": rate, "dev": found.dev})
        if best is None or found.dev < best.dev:
            best = found
    if len(rates) > 2 and best.rate in (min(rates), max(rates)):
        log.warning("%s, %s: the best rate, %g, is at the end of those tried.", task.name, interface, best.rate)
    return best, tried
