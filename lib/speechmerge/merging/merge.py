"""One merge: a method, its parameters and the models, checked, then streamed tensor by tensor.

Names, files and devices are known here; rules know arrays only. At no time is more than one tensor of each model in
memory, and of a large one only a block where the rule allows it. What a tensor gets is decided by its class
(:mod:`speechmerge.whisper.parameter_classes`) and the method's policy.
"""

import math
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import CheckpointError, MethodError
from ..whisper import checkpoints, parameter_classes
from ..whisper.checkpoints import BLOCK
from ..whisper.parameter_classes import EMBEDDING, FROZEN, classify, depths, select
from . import applying, fitting, lengths, options, validation
from .inputs import Inputs, Source
from .methods import Method, find


class Merge:
    """One merge, checked and ready to stream.

    Args:
        method: name in the registry.
        base: the model all experts were fine-tuned from: a folder, or tensors by name.
        experts: the fine-tuned models, in the order in which per-expert parameters are given.
        scaling: λ; the result is θ0 + λτ with τ the method's merged task vector (a sum or a mean over experts).
        extras: what some methods need beside the models: statistics of data, one item per expert (``"grams"`` by
            module, ``"fishers"`` by tensor), or a function of a merged state dict (``"score"``: an error; ``"loss"``;
            ``"gradient"``, ``"entropy"``: a number and its gradient by tensor), which is merged as it is read.
        include: parts or tensor names to merge (:func:`.parameter_classes.select`); the rest stays the base's.
        policy: what a class of tensors gets instead of the method's own choice, e.g. ``{"EMB": "base"}``; one of
            ``"rule"``, ``"sum"``, ``"mean"``, ``"base"``.
        lines: scale the result by depth, ``{"alpha": ..., "beta": ..., "order": "stack" | "continued"}`` (LiNeS, arXiv
            2410.17146): θ0 + λ(α + β·depth)τ; without alpha, α = ‖Στ_t‖₁ / (T ‖τ‖₁) over the whole model.
        dtype: of the result; by default the base's.
        device: where to compute, ``"auto"`` for a GPU if there is one.
        batched: whether matrices of equal shape are merged together; by default on a GPU only.
        svd_cache: folder for singular vectors, which methods and parameters tried one after another then share; it
            takes 4·min(m, n)² bytes for each matrix and expert, and pays from the second merge on.
        strict: also refuse a wrong base, equal experts, other tokenizers and a changed sinusoid.
        max_update: see :func:`speechmerge.merging.validation.check_updates`.
        max_growth: see :func:`speechmerge.merging.lengths.check`.
        inputs: base and experts as another merge with the same ``strict``, ``max_update`` and ``device`` opened them.
        params: the method's parameters.

    Raises:
        MethodError: unknown method, parameter, class or treatment; missing statistics.
        CheckpointError: the models cannot be merged (see :mod:`speechmerge.merging.validation`).
    """

    def __init__(
        self,
        method: str,
        base: Source,
        experts: Sequence[Source],
        *,
        scaling: float = 1.0,
        extras: Mapping[str, Sequence[Mapping[str, Tensor]]] | None = None,
        include: str | Sequence[str] | None = None,
        policy: Mapping[str, str] | None = None,
        lines: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        batched: bool | None = None,
        svd_cache: Path | str | None = None,
        strict: bool = False,
        max_update: float = validation.MAX_UPDATE,
        max_growth: float = lengths.MAX_GROWTH,
        inputs: Inputs | None = None,
        **params: Any,
    ) -> None:
        self.method: Method = find(method)
        given = {"base": base, "experts": experts, "scaling": scaling, "extras": extras, "include": include}
        given |= {"policy": policy, "lines": lines, "dtype": dtype, "batched": batched, "svd_cache": svd_cache}
        for name, value in (given | {"strict": strict, "max_update": max_update, "max_growth": max_growth}).items():
            options.check(method, name, value)
        self.scaling, self.dtype, self.strict = float(scaling), dtype, strict
        self.max_growth, self.lengths = max_growth, lengths.Lengths()
        self.svd_cache = Path(svd_cache) if svd_cache else None
        self._take_parameters(params, len(experts))
        matrices = self.method.acts_on == "matrices"
        self.policy = parameter_classes.policy(matrices_only=matrices, others=self.method.others, changes=policy)
        self.lines, order = lines, self._order(lines)
        self.extras = validation.check_extras(self.method, extras or {}, len(experts))
        self.inputs = inputs or Inputs(base, experts, strict=strict, max_update=max_update, device=device)
        self.base, self.experts, self.device = self.inputs.base, self.inputs.experts, self.inputs.device
        self.batched = self.device.type != "cpu" if batched is None else batched
        self.selected = set(select(self.base.shapes, include))  # membership only, never iterated
        self.depths = depths(self.base.shapes, order)
        self.groups = dict.fromkeys(self.base.shapes, 0)  # which row of fitted weights a tensor takes
        self.prepass: Any = None  # what the method found out about the whole model
        self.kept: dict[str, list[tuple[int, Tensor, Tensor]]] | None = None  # if a dict, what :meth:`changes` gave
        self.progress, self._ready = False, False

    def _take_parameters(self, params: Mapping[str, Any], experts: int) -> None:
        """Check the method's parameters, and tell the engine's own share from the rule's."""
        self.parameters = self.method.check(params, experts=experts)
        self.options = dict(self.parameters)  # what is left after the engine's own share is the rule's
        self.seed = self.options.pop("seed", 0)
        self.options.pop("flavour", None)
        self.weights = self.options.pop("weights", None) if self.method.gives == "experts" else None
        if self.options.get("task", 0) >= experts > 0:
            raise MethodError(
                f"{self.method.name}: task is {self.options['task']}, but there are {experts} experts from 0 on."
            )
        self.piece = self.method.piece(self.options)

    def _order(self, lines: Mapping[str, Any] | None) -> str:
        """Return how depth is counted: the method's own order, or that of the option ``lines``, which must agree."""
        asked = (lines or {}).get("order")
        order = self.options.get("depth_order", asked or "stack")
        if asked not in (None, order):
            raise MethodError(
                f"{self.method.name}: depth_order is {order!r} and the order of lines {asked!r}; give both the same."
            )
        return order

    def begin(self, *, progress: bool = False, whole: bool = True) -> None:
        """Get ready for every tensor, or for what a killed merge had left where not ``whole``."""
        self.progress, self.lengths.complete = progress, whole
        self.prepare()

    def prepare(self) -> None:
        """Learn what the merge must know of the whole model (:func:`speechmerge.merging.fitting.prepare`), once."""
        if not self._ready:
            self._ready = True
            workers = applying.workers(self)
            with applying.threads(self, self.piece == "matrices"):
                fitting.prepare(self, workers)

    def stream(self, *, progress: bool = False, skip: Collection[str] = ()) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the merged model; a tied head is left out.

        The order is the base's, save that batches of equal shape (on a GPU) come together.

        Args:
            progress: show a progress bar.
            skip: tensors that are not wanted.

        Raises:
            CheckpointError: NaN or infinity in an input tensor, or a changed sinusoid where ``strict``.
            MethodError: the rule itself produced NaN or infinity.
        """
        self.begin(progress=progress, whole=not skip)
        with self.bar("merge", len(self.base.shapes)) as bar:
            bar.update(len(skip))
            batches = applying.batches(self, skip)
            for found in applying.side_by_side(self.batch, batches, applying.workers(self)):
                yield from found
                bar.update(len(found))
        lengths.tell(self)

    def bar(self, what: str, total: int) -> tqdm:
        """Return a progress bar over so many tensors or blocks."""
        return tqdm(total=total, desc=f"{what} ({self.method.name})", unit="tensor", disable=not self.progress)

    def batch(self, names: list[str]) -> list[tuple[str, Tensor]]:
        """Return merged tensors: one, or matrices of equal shape with the rule applied to all of them at once."""
        if len(names) == 1 or (self.kept and names[0] in self.kept):
            return [(name, self.tensor(name)) for name in names]
        found, parts = [], [self.inputs.read(name, 0, math.prod(self.base.shapes[name])) for name in names]
        base, deltas = torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts], 1)
        changes = applying.apply(self, names, 0, base, deltas, [])
        for name, start, change, (*_, squares) in zip(names, base, changes, parts, strict=True):
            result = torch.empty(len(start), dtype=self._dtype(name))
            self._put(result, name, 0, start, change, squares)
            lengths.check(self, name)
            found.append((name, result.view(self.base.shapes[name])))
        return found

    def treatment(self, name: str) -> str:
        """Return what a tensor gets: ``"rule"``, ``"sum"``, ``"mean"`` or ``"base"``.

        Raises:
            CheckpointError: an expert changed the fixed sinusoid, where ``strict``; elsewhere it counts as a table.
        """
        if name not in self.selected or not self.base.dtypes[name].is_floating_point:
            return "base"
        kind = classify(name, self.base.shapes[name])
        if kind == FROZEN and self.policy[FROZEN] == "base":
            start = self.base.read(name)
            changed = [expert.label for expert in self.experts if not torch.equal(expert.read(name), start)]
            if not changed:
                return "base"
            if self.strict:
                raise CheckpointError(
                    f"{name!r} is Whisper's fixed sinusoid, but in {', '.join(changed)} it differs from the base's by "
                    "more than rounding; the expert comes from another base or was trained in another way. Give the "
                    "right base; if it was trained on purpose, set policy FROZEN to rule, mean or sum."
                )
            kind = EMBEDDING
        return self.policy[kind]

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
        treatment = self.treatment(name)
        if treatment == "base":
            return self.base.read(name).to(self._dtype(name), copy=True)
        result = torch.empty(math.prod(self.base.shapes[name]), dtype=self._dtype(name))
        if self.kept and name in self.kept:
            for start, base, change in self.kept[name]:
                self._add(result, name, start, base, change)
            return result.view(self.base.shapes[name])
        changes = self.changes(name, treatment)
        while True:
            with applying.threads(self, treatment == "rule" and self.piece == "matrices"):
                if (block := next(changes, None)) is None:
                    break
                self._put(result, name, *block)
            yield
        lengths.check(self, name)
        return result.view(self.base.shapes[name])

    def _dtype(self, name: str) -> torch.dtype:
        stored = self.base.dtypes[name]
        return self.dtype if self.dtype and stored.is_floating_point else stored

    def _put(self, result: Tensor, name: str, start: int, base: Tensor, change: Tensor, squares: list[float]) -> None:
        """Write θ0 + λτ of a block into ``result``, note its length, and keep θ0 and τ if they are wanted again."""
        square = lengths.squares(change[None])[0] * self._depth_scaling(name) ** 2
        self.lengths.add(name, start, square, squares)
        if self.kept is not None:
            self.kept.setdefault(name, []).append((start, base.clone(), change.clone()))
        self._add(result, name, start, base, change)

    def _add(self, result: Tensor, name: str, start: int, base: Tensor, change: Tensor) -> None:
        """Write θ0 + λτ of a block into ``result``, flat and on the CPU."""
        scaling = self.scaling * self._depth_scaling(name)
        block = result[start : start + len(base)]
        if base.device == block.device:
            torch.add(base, change, alpha=scaling, out=block)
        else:
            block.copy_(torch.add(base, change, alpha=scaling))
        if not checkpoints.finite(block):
            raise MethodError(f"{self.method.name} produced NaN or infinity in {name!r}; nothing was written.")

    def _depth_scaling(self, name: str) -> float:
        """Return what scales a tensor beside λ."""
        return 1.0 if self.lines is None else self.lines["alpha"] + self.lines["beta"] * self.depths.get(name, 0.0)

    def changes(self, name: str, treatment: str) -> Iterator[tuple[int, Tensor, Tensor, list[float]]]:
        """Yield each block of a tensor: its start, the base's scalars, the merged task vector, the experts' squares."""
        generators = applying.generators(self, name)
        for start, stop in self.blocks(name, treatment):
            base, deltas, squares = self.inputs.read(name, start, stop, reuse=True)
            if treatment != "rule":
                change = applying.combine(self, name, deltas, treatment)
            elif deltas[:, :1].any() or deltas.any():  # the first numbers mostly settle it
                change = applying.apply(self, [name], start, base, deltas, generators)
            else:
                change = torch.zeros_like(base)
            yield start, base, change, squares

    def blocks(self, name: str, treatment: str) -> Iterator[tuple[int, int]]:
        """Yield the ranges of scalars that are merged at once: blocks where no more need be seen, else everything."""
        shape = self.base.shapes[name]
        size = math.prod(shape)
        grain = {"entries": 1, "rows": shape[-1] if shape else 1}.get(self.piece, size)
        grain = 1 if treatment in ("sum", "mean") else max(1, grain)
        step = max(grain, BLOCK // grain * grain)
        for start in range(0, size, step):
            yield start, min(start + step, size)
