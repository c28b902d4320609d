"""A system, an interface and a head on what upstreams heard: what it answers, and how wrong that is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from . import interfaces
from .alignment import spaced
from .examples import Example, Task
from .fusing import WeightedSum
from .hearing import Heard, Hearing, joined
from .scoring import Answers, measured

AT_ONCE = 16  # clips in an evaluation


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
        return self.interface.weights() if isinstance(self.interface, WeightedSum) else None

    def modules(self) -> nn.ModuleList:
        """Return interface and head."""
        return nn.ModuleList([self.interface, self.head])

    def forward(self, heard: Sequence[Heard], rows: Sequence[np.ndarray]) -> tuple[Tensor, list[int]]:
        """Return what the interface makes of some frames of each clip, and how many there are."""
        taken = [one.take(own) for one, own in zip(heard, rows, strict=True)]
        return self.interface(joined(taken)), [len(own) for own in rows]

    @torch.no_grad()
    def answers(self, fold: Sequence[Example]) -> Answers:
        """Return the head's answer to each clip: log-probabilities, embeddings or texts."""
        self.modules().eval()
        found = []
        for start in range(0, len(fold), AT_ONCE):
            heard = [self.hearing.open(one.clip) for one in fold[start : start + AT_ONCE]]
            answer = self.head(*self.forward(heard, [self._tested(one.frames) for one in heard]))
            found += answer if isinstance(answer, list) else [answer.numpy()]
        return found if self.task.kind == "characters" else np.concatenate(found)

    def _tested(self, frames: int) -> np.ndarray:
        return np.arange(frames) if self.task.whole else spaced(frames, self.options.tested)

    def error(self, fold: Sequence[Example]) -> float:
        """Return the error of the system on some examples, between 0 and 1 or above."""
        return measured(self.task, fold, said(self, self.answers(fold))).rate

    def step(self, group: Sequence[Example], draw: np.random.Generator) -> Tensor:
        """Return the loss of a training step."""
        heard, some = [self.hearing.open(one.clip) for one in group], self.options.frames
        rows = [
            np.arange(one.frames) if self.task.whole else np.sort(draw.choice(one.frames, some, one.frames < some))
            for one in heard
        ]
        targets = [one.label if self.task.whole else self.classes.index(one.label) for one in group]
        return self.head.loss(*self.forward(heard, rows), targets)


def said(system: System, answers: Answers) -> Answers:
    """Return answers as they are scored: the most likely class of each clip in the place of log-probabilities."""
    if system.task.kind != "classes":
        return answers
    return [system.classes[place] for place in np.asarray(answers).argmax(1)]
