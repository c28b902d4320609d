"""One merge: a method, its parameters and the models, checked, then streamed tensor by tensor.

Names, files and devices are known here; rules know arrays only. At no time is more than one tensor of each model in
memory, and of a large one only a block where the rule allows it. What a tensor gets is decided by its class
(:mod:`speechmerge.parameter_classes`) and the method's policy.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import fitting, parameter_classes, validation
from .checkpoints import BLOCK, most_precise, open_checkpoint
from .errors import CheckpointError, MethodError, nearest
from .methods import Method, find
from .parameter_classes import EMBEDDING, FROZEN, classify, depths, select
from .rules.primitives import Piece, per_expert

Source = Path | str | Mapping[str, Tensor]
STATISTICS = {"gram": "grams", "fisher": "fishers"}  # context a rule needs: key of ``extras`` it comes from
MEASURES = ("score", "gradient")  # keys of ``extras`` that hold functions of a merged model


class Merge:
    """One merge, checked and ready to stream.

    Args:
        method: name in the registry.
        base: the model all experts were fine-tuned from: a folder, or tensors by name.
        experts: the fine-tuned models, in the order in which per-expert parameters are given.
        scaling: λ; the result is θ0 + λτ with τ the method's merged task vector (a sum or a mean over experts).
        extras: what some methods need beside the models: statistics of data, one item per expert (``"grams"`` by
            module, ``"fishers"`` by tensor), or a function of a merged state dict (``"score"``: an error;
            ``"gradient"``: a loss and its gradient by tensor).
        include: parts or tensor names to merge (:func:`speechmerge.parameter_classes.select`); the rest stays the
            base's.
        policy: what a class of tensors gets instead of the method's own choice, e.g. ``{"EMB": "base"}``; one of
            ``"rule"``, ``"sum"``, ``"mean"``, ``"base"``.
        lines: scale the result by depth, ``{"alpha": ..., "beta": ..., "order": "stack" | "continued"}`` (LiNeS, arXiv
            2410.17146): θ0 + λ(α + β·depth)τ; without alpha, α = ‖Στ_t‖₁ / (T ‖τ‖₁) over the whole model.
        dtype: of the result; by default the base's.
        device: where to compute.
        strict: also refuse a wrong base, equal experts, other tokenizers and a changed sinusoid.
        max_update: see :func:`speechmerge.validation.check_updates`.
        params: the method's parameters.

    Raises:
        MethodError: unknown method, parameter, class or treatment; missing statistics.
        CheckpointError: the models cannot be merged (see :mod:`speechmerge.validation`).
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
        strict: bool = False,
        max_update: float = validation.MAX_UPDATE,
        **params: Any,
    ) -> None:
        self.method: Method = find(method)
        if isinstance(scaling, bool) or not isinstance(scaling, int | float) or not math.isfinite(scaling):
            raise MethodError(f"{method}: scaling is {scaling!r}, expected a finite number.")
        self.parameters = self.method.check(params, experts=len(experts))
        self.options = dict(self.parameters)  # what is left after the engine's own share is the rule's
        self.seed = self.options.pop("seed", 0)
        self.options.pop("flavour", None)
        self.weights = self.options.pop("weights", None) if self.method.gives == "experts" else None
        if self.options.get("task", 0) >= len(experts) > 0:
            raise MethodError(
                f"{method}: task is {self.options['task']}, but there are {len(experts)} experts from 0 on."
            )
        self.piece = self.method.piece(self.options)
        matrices = self.method.acts_on == "matrices"
        self.policy = parameter_classes.policy(matrices_only=matrices, others=self.method.others, changes=policy)
        self.scaling, self.dtype, self.device, self.strict = float(scaling), dtype, torch.device(device), strict
        self.base = open_checkpoint(base, "base")
        self.experts = [open_checkpoint(source, f"expert {i}") for i, source in enumerate(experts)]
        if strict:
            validation.check_tokenizers(self.base, self.experts)
        validation.check_tensors(self.base, self.experts)
        if strict:
            validation.check_updates(self.base, self.experts, max_update)
        self.selected = set(select(self.base.shapes, include))  # membership only, never iterated
        self.extras = self._checked(extras or {})
        precise = most_precise([self.base, *self.experts])
        self.compute = precise if precise == torch.float64 else torch.float32
        self.lines = lines
        self.depths = depths(self.base.shapes, self.options.get("depth_order", (lines or {}).get("order", "stack")))
        self.groups = dict.fromkeys(self.base.shapes, 0)  # which row of fitted weights a tensor takes
        self.progress, self._prepass, self._ready = False, None, False

    def _checked(self, extras: Mapping) -> dict[str, Any]:
        """Check that what the method needs beside the models is there."""
        known = (*STATISTICS.values(), *MEASURES)
        for key in extras:
            if key not in known:
                raise MethodError(f"extras has no key {key!r}.{nearest(key, known)}")
        for need, key in STATISTICS.items():
            if need in self.method.needs and len(extras.get(key, ())) != len(self.experts):
                raise MethodError(
                    f"{self.method.name} needs extras={{{key!r}: [...]}} with one item per expert "
                    f"({len(self.experts)}), got {len(extras.get(key, ()))}; collect them with the experts' own data."
                )
        if self.method.measure and not callable(extras.get(self.method.measure)):
            raise MethodError(
                f"{self.method.name} learns from dev data: give extras={{{self.method.measure!r}: function of a merged "
                "state dict}."
            )
        return dict(extras)

    def prepare(self) -> None:
        """Learn what the merge must know of the whole model: fitted weights, thresholds, the scale of depth."""
        if self._ready:
            return
        self._ready = True
        if self.method.fit:
            fitting.fit(self)
        if self.method.prepass:
            self._prepass = self.method.prepass(self.pieces, **self.options)
        if self.lines is not None:
            self.lines = {"alpha": None, "beta": 0.0, **self.lines}
            if self.lines["alpha"] is None:
                self.lines["alpha"] = self._balance()

    def stream(self, *, progress: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the merged model, in the base's order; a tied head is left out.

        Raises:
            CheckpointError: NaN or infinity in an input tensor, or a changed sinusoid where ``strict``.
            MethodError: the rule itself produced NaN or infinity.
        """
        self.progress = progress
        self.prepare()
        for name in self._names("merge"):
            yield name, self.tensor(name)

    def _names(self, what: str) -> Iterator[str]:
        return iter(
            tqdm(self.base.shapes, desc=f"{what} ({self.method.name})", unit="tensor", disable=not self.progress)
        )

    def pieces(self) -> Iterator[Piece]:
        """Yield the deltas of every tensor, or block of one, that the rule is applied to."""
        for name in self._names("look through"):
            if self.treatment(name) == "rule":
                for start, stop in self.blocks(name, "rule"):
                    base, deltas = self.read(name, start, stop)
                    fisher = self._fisher(name, start, base) if "fisher" in self.method.needs else None
                    yield Piece(self._shaped(name, deltas), math.prod(self.base.shapes[name]), fisher)

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
            if all(torch.equal(expert.read(name), start) for expert in self.experts):
                return "base"
            if self.strict:
                raise CheckpointError(
                    f"{name!r} is Whisper's fixed sinusoid, but an expert changed it; the experts come from another "
                    "base or were trained in another way. Give the right base."
                )
            kind = EMBEDDING
        return self.policy[kind]

    def tensor(self, name: str) -> Tensor:
        """Return one tensor of the merged model, on the CPU."""
        stored = self.base.dtypes[name]
        dtype = self.dtype if self.dtype and stored.is_floating_point else stored
        treatment = self.treatment(name)
        if treatment == "base":
            return self.base.read(name).to(dtype, copy=True)
        result = torch.empty(math.prod(self.base.shapes[name]), dtype=dtype)
        scaling = self.scaling
        if self.lines is not None:
            scaling *= self.lines["alpha"] + self.lines["beta"] * self.depths.get(name, 0.0)
        for start, base, change in self._changes(name, treatment):
            stop = start + len(base)
            result[start:stop] = base.add_(change, alpha=scaling)
            if not math.isfinite(result[start:stop].sum(dtype=torch.float64)):
                raise MethodError(f"{self.method.name} produced NaN or infinity in {name!r}; nothing was written.")
        return result.view(self.base.shapes[name])

    def _changes(self, name: str, treatment: str) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield each block of a tensor: where it starts, the base's scalars, the merged task vector."""
        generators = [generator(self.seed, name, t) for t in range(len(self.experts))] if self.method.stochastic else []
        for start, stop in self.blocks(name, treatment):
            base, deltas = self.read(name, start, stop)
            if treatment != "rule":
                yield start, base, self._combine(name, deltas, treatment)
            elif deltas.any():
                yield start, base, self._rule(name, start, base, deltas, generators)
            else:
                yield start, base, torch.zeros_like(base)

    def _balance(self) -> float:
        """Return LiNeS' α: the sum of magnitudes of Στ_t over T times that of the merged task vector."""
        plain = merged = 0.0
        for name in self._names("balance"):
            if (treatment := self.treatment(name)) != "base":
                for start, base, change in self._changes(name, treatment):
                    total = self.read(name, start, start + len(base))[1].sum(0)
                    plain += total.abs().sum(dtype=torch.float64).item()
                    merged += change.abs().sum(dtype=torch.float64).item()
        return plain / merged / len(self.experts) if merged else 0.0

    def blocks(self, name: str, treatment: str) -> Iterator[tuple[int, int]]:
        """Yield the ranges of scalars that are merged at once: blocks where no more need be seen, else everything."""
        shape = self.base.shapes[name]
        size = math.prod(shape)
        grain = {"entries": 1, "rows": shape[-1] if shape else 1}.get(self.piece, size)
        grain = 1 if treatment in ("sum", "mean") else max(1, grain)
        step = max(grain, BLOCK // grain * grain)
        for start in range(0, size, step):
            yield start, min(start + step, size)

    def read(self, name: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return a range of the base, ``[n]``, and of the experts' task vectors, ``[T, n]``, in fp32 or fp64."""
        kind = {"device": self.device, "dtype": self.compute}
        base = self.base.block(name, start, stop).to(**kind, copy=True)
        deltas = torch.empty(len(self.experts), stop - start, **kind)
        for delta, expert in zip(deltas, self.experts, strict=True):
            torch.sub(expert.block(name, start, stop).to(**kind), base, out=delta)
        return base, deltas

    def _shaped(self, name: str, values: Tensor) -> Tensor:
        """Give flat values ``[..., n]`` the shape the rule works on: entries flat, rows, the tensor, or a matrix."""
        shape = self.base.shapes[name]
        lead = values.shape[:-1]
        if self.piece == "entries":
            return values
        if self.piece == "rows":
            return values.view(*lead, -1, shape[-1] if shape else 1)
        if self.piece == "matrices":
            return values.view(*lead, shape[0], -1)  # a filter becomes (out, in · width)
        return values.view((*lead, *shape))

    def _combine(self, name: str, deltas: Tensor, scale: str) -> Tensor:
        """Sum the experts, or take their mean, with the method's weights if it has any."""
        if isinstance(self.weights, Tensor):
            weights, scale = self.weights[self.groups[name]].tolist(), "sum"
        else:
            weights = per_expert(self.weights, len(deltas))
        total = math.fsum(weights) if scale == "mean" else 1.0
        if total == 0:
            raise MethodError(f"{self.method.name}: the weights {weights} sum to zero, so there is no mean.")
        merged = deltas[0] * (weights[0] / total)
        for weight, delta in zip(weights[1:], deltas[1:], strict=True):
            merged.add_(delta, alpha=weight / total)
        return merged

    def _rule(self, name: str, start: int, base: Tensor, deltas: Tensor, generators: list) -> Tensor:
        """Apply the method's rule to one tensor, or block of one, and return the merged task vector, ``[n]``."""
        context: dict[str, Any] = {"base": self._shaped(name, base), "depth": self.depths.get(name)}
        context |= {"generators": generators, "prepass": self._prepass}
        if "fisher" in self.method.needs:
            context["fisher"] = self._fisher(name, start, base)
        if "gram" in self.method.needs:
            context["gram"] = self._statistic("grams", name.removesuffix(".weight"), base)
        context = {need: context[need] for need in self.method.needs}
        found = self.method.rule(self._shaped(name, deltas), **self.options, **context)
        if self.method.gives == "experts":
            found = self._combine(name, found, self.method.scale)
        return found.reshape(-1)

    def _fisher(self, name: str, start: int, base: Tensor) -> Tensor:
        return self._shaped(
            name, self._statistic("fishers", name, base).reshape(len(self.experts), -1)[:, start : start + len(base)]
        )

    def _statistic(self, key: str, wanted: str, base: Tensor) -> Tensor:
        """Return one statistic of every expert, ``[T, ...]``: Grams are named by module, Fishers by tensor."""
        missing = [t for t, item in enumerate(self.extras[key]) if wanted not in item]
        if missing:
            raise MethodError(f"extras[{key!r}] of expert {missing[0]} has nothing for {wanted!r}; collect it as well.")
        return torch.stack([item[wanted].to(base.device, base.dtype) for item in self.extras[key]])

    def estimate(self) -> tuple[int, int]:
        """Return about how many bytes of memory the merge takes at its peak, and how many it reads."""
        seen = [
            max(stop - start for start, stop in self.blocks(name, self.policy[classify(name, shape)]))
            for name, shape in self.base.shapes.items()
            if math.prod(shape)
        ]
        passes = 3 if self.method.prepass else 1
        read = passes * (self.base.bytes() + sum(expert.bytes() for expert in self.experts))
        return 4 * max(seen) * (2 * len(self.experts) + 3), read


def generator(seed: int, name: str, task: int) -> torch.Generator:
    """Return the generator of one tensor and expert; it depends on nothing else, so order and threads do not matter."""
    key = hashlib.sha256(f"{seed}|{name}|{task}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
