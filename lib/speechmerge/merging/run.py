"""One run of a merge: every tensor's way from the opened models to the merged one, block by block.

At no time is more than one tensor of each model in memory, and of a large one only a block where the rule allows it.
What must be known before the first tensor is in :class:`Known`; :func:`speechmerge.merging.fitting.begin` finds it.
"""

import math
from collections.abc import Collection, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import MethodError
from ..whisper import checkpoints
from ..whisper.checkpoints import OnDemand
from . import applying
from .lengths import Lengths, check, squares, tell
from .merge import Merge


@dataclass(frozen=True, eq=False)
class Known:
    """What a merge must know of the whole model before its first tensor.

    Attributes:
        options: of the rule, with those that were found with the weights.
        weights: of the experts: given ones, or learnt ones ``[G, T]``.
        groups: which row of learnt weights a tensor takes.
        prepass: what the method's prepass found.
        lines: how the result is scaled by depth, with α and β.
        learnt: parameters that were found, for the record.
    """

    options: Mapping[str, Any]
    weights: Any
    groups: Mapping[str, int]
    prepass: Any = None
    lines: Mapping[str, float] | None = None
    learnt: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def given(merge: Merge) -> "Known":
        """Return what a merge was told, before anything is found."""
        lines = None if merge.lines is None else {"alpha": 1.0, "beta": 0.0} | _numbers(merge.lines)
        return Known(merge.options, merge.weights, dict.fromkeys(merge.base.shapes, 0), lines=lines)


def _numbers(lines: Mapping[str, Any]) -> dict[str, float]:
    return {name: lines[name] for name in ("alpha", "beta") if lines.get(name) is not None}


class Run:
    """One run of a merge over the tensors of its models.

    Args:
        merge: what is merged.
        known: of the whole model.
        progress: show a progress bar.
        lengths: of the updates that were merged.
        kept: θ0 and τ of each block, by tensor, if they are kept: then :meth:`again` need not find them.
    """

    def __init__(
        self,
        merge: Merge,
        known: Known,
        *,
        progress: bool = False,
        lengths: Lengths | None = None,
        kept: dict[str, list[tuple[int, Tensor, Tensor]]] | None = None,
    ) -> None:
        self.merge, self.known, self.progress = merge, known, progress
        self.lengths, self.kept = lengths or Lengths(), kept

    def again(self, scaling: float) -> "Run":
        """Return a run with another λ of what this one has kept."""
        merge = replace(self.merge, scaling=scaling)
        return Run(merge, self.known, lengths=self.lengths, kept=self.kept)

    def weighted(self, weights: Tensor) -> "Run":
        """Return a run with other learnt weights ``[G, T]``."""
        return Run(self.merge, replace(self.known, weights=weights))

    def model(self) -> Mapping[str, Tensor]:
        """Return the merged model; each tensor is merged when it is asked for."""
        return OnDemand(self.merge.base.shapes, self.tensor)

    def stream(self, *, skip: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the merged model; a tied head is left out.

        The order is the base's, save that batches of equal shape (on a GPU) come together.

        Args:
            skip: tensors that are not wanted.

        Raises:
            CheckpointError: NaN or infinity in an input tensor, or a changed sinusoid where ``strict``.
            MethodError: the rule itself produced NaN or infinity.
        """
        merge = self.merge
        with bar(merge, "merge", len(merge.base.shapes), self.progress) as shown:
            shown.update(len(skip))
            for found in applying.side_by_side(self.batch, applying.batches(merge, skip), applying.workers(merge)):
                yield from found
                shown.update(len(found))
        tell(self)

    def batch(self, names: list[str]) -> list[tuple[str, Tensor]]:
        """Return merged tensors: one, or matrices of equal shape with the rule applied to all of them at once."""
        if len(names) == 1 or (self.kept and names[0] in self.kept):
            return [(name, self.tensor(name)) for name in names]
        merge, found = self.merge, []
        parts = [merge.inputs.read(name, 0, math.prod(merge.base.shapes[name])) for name in names]
        base, deltas = torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts], 1)
        changes = applying.apply(self, names, 0, base, deltas, [])
        for name, start, change, (*_, lengths) in zip(names, base, changes, parts, strict=True):
            result = torch.empty(len(start), dtype=self._dtype(name))
            self._put(result, name, 0, start, change, lengths)
            check(self, name)
            found.append((name, result.view(merge.base.shapes[name])))
        return found

    def tensor(self, name: str) -> Tensor:
        """Return one tensor of the merged model, on the CPU."""
        steps = self.steps(name)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def steps(self, name: str) -> Generator[None, None, Tensor]:
        """Merge one tensor, a block at each step; return it."""
        merge, treatment = self.merge, self.merge.treatment(name)
        if treatment == "base":
            return merge.base.read(name).to(self._dtype(name), copy=True)
        result = torch.empty(math.prod(merge.base.shapes[name]), dtype=self._dtype(name))
        if self.kept and name in self.kept:
            for start, base, change in self.kept[name]:
                self._add(result, name, start, base, change)
            return result.view(merge.base.shapes[name])
        changes = self.changes(name, treatment)
        while True:
            with applying.threads(merge, treatment == "rule" and merge.piece == "matrices"):
                if (block := next(changes, None)) is None:
                    break
                self._put(result, name, *block)
            yield
        check(self, name)
        return result.view(merge.base.shapes[name])

    def changes(self, name: str, treatment: str) -> Iterator[tuple[int, Tensor, Tensor, list[float]]]:
        """Yield each block of a tensor: its start, the base's scalars, the merged task vector, the experts' squares."""
        merge = self.merge
        generators = applying.generators(merge, name)
        for start, stop in merge.blocks(name, treatment):
            base, deltas, lengths = merge.inputs.read(name, start, stop, reuse=True)
            if treatment != "rule":
                change = applying.combine(self, name, deltas, treatment)
            elif deltas[:, :1].any() or deltas.any():  # the first numbers mostly settle it
                change = applying.apply(self, [name], start, base, deltas, generators)
            else:
                change = torch.zeros_like(base)
            yield start, base, change, lengths

    def _dtype(self, name: str) -> torch.dtype:
        stored = self.merge.base.dtypes[name]
        return self.merge.dtype if self.merge.dtype and stored.is_floating_point else stored

    def _put(self, result: Tensor, name: str, start: int, base: Tensor, change: Tensor, lengths: list[float]) -> None:
        """Write θ0 + λτ of a block into ``result``, note its length, and keep θ0 and τ if they are wanted again."""
        square = squares(change[None])[0] * self._depth_scaling(name) ** 2
        self.lengths.add(name, start, square, lengths)
        if self.kept is not None:
            self.kept.setdefault(name, []).append((start, base.clone(), change.clone()))
        self._add(result, name, start, base, change)

    def _add(self, result: Tensor, name: str, start: int, base: Tensor, change: Tensor) -> None:
        """Write θ0 + λτ of a block into ``result``, flat and on the CPU."""
        scaling = self.merge.scaling * self._depth_scaling(name)
        block = result[start : start + len(base)]
        if base.device == block.device:
            torch.add(base, change, alpha=scaling, out=block)
        else:
            block.copy_(torch.add(base, change, alpha=scaling))
        if not checkpoints.finite(block):
            raise MethodError(f"{self.merge.method.name} produced NaN or infinity in {name!r}; nothing was written.")

    def _depth_scaling(self, name: str) -> float:
        """Return what scales a tensor beside λ."""
        lines = self.known.lines
        return 1.0 if lines is None else lines["alpha"] + lines["beta"] * self.merge.depths.get(name, 0.0)


def bar(merge: Merge, what: str, total: int, shown: bool) -> tqdm:
    """Return a progress bar over so many tensors or blocks."""
    return tqdm(total=total, desc=f"{what} ({merge.method.name})", unit="tensor", disable=not shown)
