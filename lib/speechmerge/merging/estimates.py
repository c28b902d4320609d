"""What a merge will take, found before the work: memory from shapes, time from one tensor merged on the spot."""

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..whisper.parameter_classes import MATRIX, classify
from . import applying
from .run import Known, Run

if TYPE_CHECKING:
    from .merge import Merge

COPIES = {"entries": 2, "rows": 4, "tensors": 4, "matrices": 6}  # of each expert's block at the peak, as measured
SAMPLE = 1 << 21  # scalars of the piece that is merged to learn the speed, at most


@dataclass(frozen=True)
class Estimate:
    """Bytes of memory at the peak, bytes read, seconds of work; rough, for deciding whether to start."""

    memory: int
    read: int
    seconds: float

    def __str__(self) -> str:
        spent = f"{self.seconds:.0f} s" if self.seconds < 90 else f"{self.seconds / 60:.0f} min"
        return f"reads {_size(self.read)}, takes about {_size(self.memory)} of memory and {spent}"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def estimate(merge: "Merge") -> Estimate:
    """Return what a merge will take.

    The speed is that of the machine now: one piece is read, and merged where the rule needs nothing of the whole model.
    A matrix method's time grows with m · n · min(m, n), all other time with the number of scalars. What is learnt from
    dev data is not in it.
    """
    sizes = {name: math.prod(shape) for name, shape in merge.base.shapes.items()}
    policies = {name: merge.policy[classify(name, shape)] for name, shape in merge.base.shapes.items()}
    memory = max(_held(merge, name, policy) for name, policy in policies.items())
    passes = merge.method.passes
    read = passes * (merge.base.bytes() + sum(expert.bytes() for expert in merge.experts))
    ruled = [name for name, policy in policies.items() if policy == "rule" and 0 < sizes[name] <= SAMPLE]
    sample = max(ruled or sizes, key=lambda name: (classify(name, merge.base.shapes[name]) == MATRIX, sizes[name]))
    reading, ruling = _speeds(merge, sample, policies[sample])
    work = sum(_weight(merge, name) for name, policy in policies.items() if policy == "rule")
    seconds = passes * reading * sum(sizes.values()) + ruling * work / _weight(merge, sample)
    return Estimate(memory, read, seconds)


def _held(merge: "Merge", name: str, treatment: str) -> int:
    """Return the bytes that merging one tensor takes: its largest block, in some copies for each expert."""
    longest = max((stop - start for start, stop in merge.blocks(name, treatment)), default=0)
    copies = COPIES[merge.piece] if treatment == "rule" else 2
    return merge.inputs.compute.itemsize * longest * (copies * len(merge.experts) + 3)


def _weight(merge: "Merge", name: str) -> float:
    """Return the work a rule has with a tensor, in units of its own."""
    shape = merge.base.shapes[name]
    return math.prod(shape) * (min(shape[0], math.prod(shape[1:])) if merge.piece == "matrices" else 1)


def _speeds(merge: "Merge", name: str, treatment: str) -> tuple[float, float]:
    """Return the seconds that reading one scalar of all models takes, and those of the rule for a whole tensor."""
    start, stop = next(merge.blocks(name, treatment))
    began = time.perf_counter()
    base, deltas, _ = merge.inputs.read(name, start, stop)
    read = time.perf_counter()
    if treatment == "rule" and not (merge.method.prepass or merge.method.data):
        run = Run(merge, Known.given(merge))
        applying.apply(run, [name], start, base, deltas, applying.generators(merge, name))
    share = (stop - start) / math.prod(merge.base.shapes[name])
    return (read - began) / (stop - start), (time.perf_counter() - read) / share
