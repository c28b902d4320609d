"""One merge: a method, its parameters and the models, checked and never changed; :mod:`.run` merges by it.

Names, files and devices are known here; rules know arrays only. What a tensor gets is decided by its class
(:mod:`speechmerge.whisper.parameter_classes`) and the method's policy.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, MethodError
from ..whisper import parameter_classes
from ..whisper.checkpoints import BLOCK, Checkpoint
from ..whisper.parameter_classes import EMBEDDING, FROZEN, classify, depths, select
from . import lengths, options, validation
from .inputs import Inputs, Source
from .methods import Method, find


@dataclass(frozen=True, eq=False)
class Merge:
    """What is to be merged, and how: checked, and never changed; :func:`open_merge` makes it.

    Attributes:
        method: of the registry.
        inputs: base and experts.
        scaling: λ.
        parameters: the method's, as they were given or by default, for the record.
        options: those of them that the rule takes.
        seed: of random masks and searches.
        weights: of the experts, where they are given.
        piece: what the rule sees at once: ``entries``, ``rows``, ``tensors`` or ``matrices``.
        policy: what each class of tensors gets.
        lines: how the result is scaled by depth, if it is.
        depths: of the tensors.
        extras: what the method needs beside the models.
        selected: names of the tensors that are merged.
        dtype: of the result; ``None`` for the base's.
        batched: whether matrices of equal shape are merged together.
        svd_cache: folder of singular vectors, or ``None``.
        strict: whether a changed sinusoid is refused.
        max_growth: see :func:`speechmerge.merging.lengths.check`.
    """

    method: Method
    inputs: Inputs
    scaling: float
    parameters: Mapping[str, Any]
    options: Mapping[str, Any]
    seed: int
    weights: Any
    piece: str
    policy: Mapping[str, str]
    lines: Mapping[str, Any] | None
    depths: Mapping[str, float]
    extras: Mapping[str, Any]
    selected: Collection[str]
    dtype: torch.dtype | None
    batched: bool
    svd_cache: Path | None
    strict: bool
    max_growth: float

    @property
    def base(self) -> Checkpoint:
        """The opened base."""
        return self.inputs.base

    @property
    def experts(self) -> list[Checkpoint]:
        """The opened experts."""
        return self.inputs.experts

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.inputs.device

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

    def blocks(self, name: str, treatment: str) -> Iterator[tuple[int, int]]:
        """Yield the ranges of scalars that are merged at once: blocks where no more need be seen, else everything."""
        shape = self.base.shapes[name]
        size = math.prod(shape)
        grain = {"entries": 1, "rows": shape[-1] if shape else 1}.get(self.piece, size)
        grain = 1 if treatment in ("sum", "mean") else max(1, grain)
        step = max(grain, BLOCK // grain * grain)
        for start in range(0, size, step):
            yield start, min(start + step, size)


def open_merge(
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
) -> Merge:
    """Open the models and check a merge of them.

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
    about = find(method)
    given = {"base": base, "experts": experts, "scaling": scaling, "extras": extras, "include": include}
    given |= {"policy": policy, "lines": lines, "dtype": dtype, "batched": batched, "svd_cache": svd_cache}
    for name, value in (given | {"strict": strict, "max_update": max_update, "max_growth": max_growth}).items():
        options.check(method, name, value)
    told = _given(about, params, extras or {}, len(experts))
    order = _order(about, told["options"], lines)
    treated = parameter_classes.policy(matrices_only=about.acts_on == "matrices", others=about.others, changes=policy)
    inputs = inputs or Inputs(base, experts, strict=strict, max_update=max_update, device=device)
    return Merge(
        method=about,
        inputs=inputs,
        scaling=float(scaling),
        piece=about.piece(told["options"]),
        policy=treated,
        lines=lines,
        depths=depths(inputs.base.shapes, order),
        selected=set(select(inputs.base.shapes, include)),  # membership only, never iterated
        dtype=dtype,
        batched=inputs.device.type != "cpu" if batched is None else batched,
        svd_cache=Path(svd_cache) if svd_cache else None,
        strict=strict,
        max_growth=max_growth,
        **told,
    )


def _given(method: Method, params: Mapping[str, Any], extras: Mapping[str, Any], experts: int) -> dict[str, Any]:
    """Check what a method is given: its parameters, the rule's own share of them, seed, weights, and extras."""
    parameters = method.check(params, experts=experts)
    own = dict(parameters)
    seed = own.pop("seed", 0)
    own.pop("flavour", None)
    weights = own.pop("weights", None) if method.gives == "experts" else None
    if own.get("task", 0) >= experts > 0:
        raise MethodError(f"{method.name}: task is {own['task']}, but there are {experts} experts from 0 on.")
    told = {"parameters": parameters, "options": own, "seed": seed, "weights": weights}
    return told | {"extras": validation.check_extras(method, extras, experts)}


def _order(method: Method, own: Mapping[str, Any], lines: Mapping[str, Any] | None) -> str:
    """Return how depth is counted: the method's own order, or that of the option ``lines``, which must agree."""
    asked = (lines or {}).get("order")
    order = own.get("depth_order", asked or "stack")
    if asked not in (None, order):
        raise MethodError(
            f"{method.name}: depth_order is {order!r} and the order of lines {asked!r}; give both the same."
        )
    return order
