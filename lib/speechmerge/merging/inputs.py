"""The models that are merged: opened, checked against each other, and read as task vectors, block by block.

Several merges of the same models can share them: then a block that one of them has just read is there for the others.
"""

import copy
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..devices import usable_device
from ..whisper import checkpoints
from ..whisper.checkpoints import BLOCK, most_precise, open_checkpoint
from . import adapters, lengths, precision, validation

Source = Path | str | Mapping[str, Tensor]


class Inputs:
    """A base and its experts.

    Args:
        base: the model all experts were fine-tuned from: a folder, or tensors by name.
        experts: the fine-tuned models.
        strict: also refuse a wrong base, equal experts, other tokenizers.
        max_update: see :func:`speechmerge.merging.validation.check_updates`.
        device: where task vectors are wanted.

    Attributes:
        base, experts: opened.
        rounding: of each expert, what storing it in few digits has left, or ``None``.
        compute: the dtype of task vectors: fp32, or fp64 where a model is.
        seen: what merges found out about the whole of these models, for others that would look for the same.

    Raises:
        CheckpointError: the models cannot be merged (see :mod:`speechmerge.merging.validation`).
    """

    def __init__(
        self,
        base: Source,
        experts: Sequence[Source],
        *,
        strict: bool = False,
        max_update: float = validation.MAX_UPDATE,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = usable_device(device)
        self.base = open_checkpoint(base, "base")
        labels = [f"expert {i}" for i in range(len(experts))]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # a stored head is compared with its table
            self.experts = list(pool.map(partial(adapters.open_expert, self.base), experts, labels))
        if strict:
            validation.check_tokenizers(self.base, self.experts)
        validation.check_tensors(self.base, self.experts)
        self.experts = [precision.unrounded(self.base, expert) for expert in self.experts]
        if strict:
            validation.check_updates(self.base, self.experts, max_update)
        self.rounding = precision.check(self.base, self.experts)
        precise = most_precise([self.base, *self.experts])
        self.compute = precise if precise == torch.float64 else torch.float32
        self.seen: dict[str, Any] = {}
        self._here = threading.local()  # memory of each thread, and what it read last

    def read(self, name: str, start: int, stop: int, *, reuse: bool = False) -> tuple[Tensor, Tensor, list[float]]:
        """Return a range of the base, ``[n]``, of the task vectors, ``[T, n]``, and the squared length of each.

        All are in :attr:`compute`.

        Args:
            name: of the tensor.
            start: of the range, in scalars.
            stop: its end.
            reuse: let them take the place of what this thread read so before; what it read last is not read again.
                They must not be written to.
        """
        last = getattr(self._here, "last", None) if reuse else None
        if last and last[0] == (name, start, stop):
            return last[1]
        size, kind = stop - start, {"device": self.device, "dtype": self.compute}
        room = self._room(size) if reuse else torch.empty(len(self.experts) + 1, size, **kind)
        base, deltas, squares = room[0], room[1:], [0.0] * len(self.experts)
        step = BLOCK if self.device.type == "cpu" else size  # within a CPU's cache
        for low in range(0, size, max(1, step)):
            part, block = (name, start + low, start + min(low + step, size)), slice(low, low + step)
            base[block].copy_(self.base.reader(*part, base[block]))
            for delta, expert in zip(deltas[:, block], self.experts, strict=True):
                torch.sub(expert.reader(*part, delta).to(**kind), base[block], out=delta)
            squares = [x + y for x, y in zip(squares, lengths.squares(deltas[:, block]), strict=True)]
            if not math.isfinite(sum(squares)) and not checkpoints.finite(deltas[:, block]):
                for model in (self.base, *self.experts):
                    model.block(*part)  # says which one and where
        if reuse:
            self._here.last = ((name, start, stop), (base, deltas, squares))
        return base, deltas, squares

    def apart(self) -> "Inputs":
        """Return the same models, read into memory of its own: for who reads while what was read before is in use."""
        found = copy.copy(self)
        found._here = threading.local()
        return found

    def _room(self, size: int) -> Tensor:
        """Return this thread's memory, ``[1 + T, size]``: new pages for every tensor cost much time."""
        self._here.last = None
        count, held = (len(self.experts) + 1) * size, getattr(self._here, "held", None)
        if held is None or len(held) < count:
            self._here.held = None
            self._here.held = held = torch.empty(count, device=self.device, dtype=self.compute)
        return held[:count].view(len(self.experts) + 1, size)
