"""What a merge must know before its first tensor: statistics of the whole model, and weights of experts.

Weights are learnt by measuring merged models: what a method's ``fit`` needs is made from the merge here.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import MethodError
from ..whisper.checkpoints import BLOCK
from ..whisper.parameter_classes import layer
from . import applying
from .lengths import Lengths
from .merge import Merge
from .rules.ranking import STRIDE
from .rules.streams import Piece
from .run import Known, Run, bar


def begin(merge: Merge, *, progress: bool = False, whole: bool = True, keep: bool = False) -> Run:
    """Find what must be known of the whole model, and return a run of the merge.

    Args:
        merge: what is merged.
        progress: show progress bars.
        whole: whether every tensor will be merged, and none was left over from before.
        keep: whether the run keeps θ0 and τ of every tensor (:meth:`.run.Run.again`).
    """
    workers = applying.workers(merge)
    with applying.threads(merge, merge.piece == "matrices"):
        found = known(merge, workers, progress)
    return Run(merge, found, progress=progress, lengths=Lengths(complete=whole), kept={} if keep else None)


def known(merge: Merge, workers: int, progress: bool = False) -> Known:
    """Fit the weights, find what the method's prepass finds, and the scale of depth, where they are asked for."""
    found = Known.given(merge)
    if merge.method.fit:
        found = fitted(merge, found, progress)
    if merge.method.prepass:
        found = replace(found, prepass=_prepass(merge, found, workers, progress))
    if merge.lines is not None and merge.lines.get("alpha") is None:
        found = replace(found, lines=found.lines | {"alpha": _balance(Run(merge, found))})
    return found


def _prepass(merge: Merge, found: Known, workers: int, progress: bool) -> Any:
    """Return what the method's prepass finds; of the same models and options it is found once."""
    key = repr((merge.method.name, found.options, sorted(merge.selected), merge.policy))
    seen = {} if merge.extras else merge.inputs.seen  # extras have no name to know them by
    if key not in seen:
        seen[key] = merge.method.prepass(Deltas(merge, workers, progress), **found.options)
    return seen[key]


class Deltas:
    """The task vectors of a merge as a stream (:class:`.rules.streams.Stream`), read anew at every look.

    A rule may look while it is at work, as TIES does at the first votes that cancel out, so nothing is read into the
    memory that the merge reads into.
    """

    def __init__(self, merge: Merge, workers: int, progress: bool = False) -> None:
        self.merge, self.workers, self.experts, self.size = merge, workers, len(merge.experts), 0
        self.progress = progress
        self.inputs = merge.inputs.apart()
        self.places: list[tuple[str, int, int, int]] = []  # tensor, start, stop, scalars before
        for name in merge.base.shapes:
            for start, stop in merge.blocks(name, "rule") if merge.treatment(name) == "rule" else ():
                self.places.append((name, start, stop, self.size))
                self.size += stop - start

    def each(self, look: Callable[[Piece], Any]) -> Iterator[Any]:
        """Yield what ``look`` finds in the deltas of every tensor, or block of one, that the rule is applied to."""
        found = applying.side_by_side(lambda place: look(self._piece(*place[:3])), self.places, self.workers)
        names = {name for name, *_ in self.places}
        with bar(self.merge, "look through", len(names), self.progress) as shown:
            for (_, start, *_), one in zip(self.places, found, strict=True):
                shown.update(start == 0)
                yield one

    def sample(self) -> Iterator[Tensor]:
        """Yield every :data:`.ranking.STRIDE`-th delta, ``[T, n]``."""
        return applying.side_by_side(lambda place: self._sample(*place), self.places, self.workers)

    def _piece(self, name: str, start: int, stop: int) -> Piece:
        merge = self.merge
        base, deltas, _ = self.inputs.read(name, start, stop, reuse=True)
        fisher = applying.fisher(merge, name, start, base) if "fisher" in merge.method.needs else None
        return Piece(applying.shaped(merge, name, deltas), math.prod(merge.base.shapes[name]), fisher)

    def _sample(self, name: str, start: int, stop: int, before: int) -> Tensor:
        merge, parts = self.merge, []
        compute = merge.inputs.compute
        kind, room = {"device": merge.device, "dtype": compute}, torch.empty(BLOCK, dtype=compute)
        for low in range(start, stop, BLOCK):
            high, first = min(low + BLOCK, stop), -(before + low - start) % STRIDE
            read = (model.reader(name, low, high, room[: high - low]) for model in (merge.base, *merge.experts))
            base, *experts = [values[first::STRIDE].to(**kind, copy=True) for values in read]
            parts.append(torch.stack(experts).sub_(base))
        return torch.cat(parts, 1)


def _balance(run: Run) -> float:
    """Return LiNeS' α: the sum of magnitudes of Στ_t over T times that of the merged task vector."""
    merge, plain, merged = run.merge, 0.0, 0.0
    for name in merge.base.shapes:
        if (treatment := merge.treatment(name)) != "base":
            for start, base, change, _ in run.changes(name, treatment):
                total = merge.inputs.read(name, start, start + len(base))[1].sum(0)
                plain += total.abs().sum(dtype=torch.float64).item()
                merged += change.abs().sum(dtype=torch.float64).item()
    return plain / merged / len(merge.experts) if merged else 0.0


def fitted(merge: Merge, found: Known, progress: bool = False) -> Known:
    """Let the method find weights ``[G, T]`` from measurements of merged models.

    A fit may try options of the rule besides, and return those found with the weights.
    """
    places = [_place(name, merge.options.get("groups", "model")) for name in merge.base.shapes]
    rows = {place: row for row, place in enumerate(dict.fromkeys(places))}
    found = replace(found, groups={name: rows[x] for name, x in zip(merge.base.shapes, places, strict=True)})
    measure = gradient if merge.method.measure in ("gradient", "entropy") else number
    many = merge.method.evaluations(merge.options, len(merge.experts))
    with tqdm(total=many, desc=f"learn ({merge.method.name})", unit="model", disable=not progress) as shown:

        def measured(weights: Tensor, **changes: Any) -> Any:
            tried = measure(Run(merge, replace(found, weights=weights, options={**found.options, **changes})))
            shown.update()
            return tried

        given = {**merge.options, **({"seed": merge.seed} if merge.method.stochastic else {})}
        learnt = merge.method.fit(measured, len(rows), len(merge.experts), **given)
    weights, changes = learnt if isinstance(learnt, tuple) else (learnt, {})
    told = {"weights": weights.tolist(), **changes}
    return replace(found, weights=weights, options={**found.options, **changes}, learnt=told)


def _place(name: str, groups: str) -> tuple:
    """Return the group of a tensor; those outside the layers form one of their own, unless each tensor has its own."""
    where = layer(name) or ()
    return {"model": (), "stack": where[:1], "layer": where, "tensor": (name,)}[groups]


def _finite(merge: Merge, measured: Any) -> float:
    """Return what a function measured of a merged model as a number."""
    try:
        found = float(measured)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise MethodError(f"{merge.method.name}: a merged model measured {measured!r}; expected a finite number.")
    return found


def number(run: Run) -> float:
    """Return the error or loss of the model that a run makes."""
    return _finite(run.merge, run.merge.extras[run.merge.method.measure](run.model()))


def gradient(run: Run) -> tuple[float, Tensor]:
    """Return the loss and its gradient by the weights: λ times the inner products of its gradient and the deltas."""
    merge = run.merge
    loss, slopes = merge.extras[merge.method.measure](run.model())
    found = torch.zeros(run.known.weights.shape, dtype=torch.float64)
    for name in merge.base.shapes:
        if name in slopes and merge.treatment(name) != "base":
            found[run.known.groups[name]] += merge.scaling * _inner(merge, name, slopes)
    if not torch.isfinite(found).all():
        raise MethodError(
            f"{merge.method.name}: the gradient is not finite; lower the learning rate or check the data."
        )
    return _finite(merge, loss), found


def _inner(merge: Merge, name: str, slopes: Mapping[str, Tensor]) -> Tensor:
    """Return ⟨∇L, τ_t⟩ of one tensor for each expert, fp64 ``[T]``."""
    flat = slopes[name].detach().reshape(-1)
    total = torch.zeros(len(merge.experts), dtype=torch.float64)
    for start, stop in merge.blocks(name, "sum"):
        slope = flat[start:stop].to(merge.device, torch.float64)
        total += (merge.inputs.read(name, start, stop)[1].double() @ slope).cpu()
    return total
