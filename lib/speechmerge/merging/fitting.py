"""What a merge must know before its first tensor: statistics of the whole model, and weights of experts.

Weights are learnt by measuring merged models: what a method's ``fit`` needs is made from the merge here.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import MethodError
from ..whisper.checkpoints import BLOCK
from ..whisper.parameter_classes import layer
from . import applying
from .rules.ranking import STRIDE
from .rules.streams import Piece

if TYPE_CHECKING:
    from .merge import Merge


def prepare(merge: "Merge", workers: int) -> None:
    """Fit the weights, find what the method's prepass finds, and the scale of depth, where they are asked for."""
    if merge.method.fit:
        fit(merge)
    if merge.method.prepass:
        merge.prepass = _prepass(merge, workers)
    if merge.lines is not None:
        merge.lines = {"alpha": None, "beta": 0.0, **merge.lines}
        if merge.lines["alpha"] is None:
            merge.lines["alpha"] = _balance(merge)


def _prepass(merge: "Merge", workers: int) -> Any:
    """Return what the method's prepass finds; of the same models and options it is found once."""
    key = repr((merge.method.name, merge.options, sorted(merge.selected), merge.policy))
    seen = {} if merge.extras else merge.inputs.seen  # extras have no name to know them by
    if key not in seen:
        seen[key] = merge.method.prepass(Deltas(merge, workers), **merge.options)
    return seen[key]


class Deltas:
    """The task vectors of a merge as a stream (:class:`.rules.streams.Stream`), read anew at every look.

    A rule may look while it is at work, as TIES does at the first votes that cancel out, so nothing is read into the
    memory that the merge reads into.
    """

    def __init__(self, merge: "Merge", workers: int) -> None:
        self.merge, self.workers, self.experts, self.size = merge, workers, len(merge.experts), 0
        self.inputs = merge.inputs.apart()
        self.places: list[tuple[str, int, int, int]] = []  # tensor, start, stop, scalars before
        for name in merge.base.shapes:
            for start, stop in merge.blocks(name, "rule") if merge.treatment(name) == "rule" else ():
                self.places.append((name, start, stop, self.size))
                self.size += stop - start

    def each(self, look: Callable[[Piece], Any]) -> Iterator[Any]:
        """Yield what ``look`` finds in the deltas of every tensor, or block of one, that the rule is applied to."""
        found = applying.side_by_side(lambda place: look(self._piece(*place[:3])), self.places, self.workers)
        with self.merge.bar("look through", len({name for name, *_ in self.places})) as bar:
            for (_, start, *_), one in zip(self.places, found, strict=True):
                bar.update(start == 0)
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


def _balance(merge: "Merge") -> float:
    """Return LiNeS' α: the sum of magnitudes of Στ_t over T times that of the merged task vector."""
    plain = merged = 0.0
    for name in merge.base.shapes:
        if (treatment := merge.treatment(name)) != "base":
            for start, base, change, _ in merge.changes(name, treatment):
                total = merge.inputs.read(name, start, start + len(base))[1].sum(0)
                plain += total.abs().sum(dtype=torch.float64).item()
                merged += change.abs().sum(dtype=torch.float64).item()
    return plain / merged / len(merge.experts) if merged else 0.0


def fit(merge: "Merge") -> None:
    """Let the method find weights ``[G, T]`` from measurements of merged models, and give them to the merge.

    A fit may try options of the rule besides, and return those found with the weights.
    """
    places = [_place(name, merge.options.get("groups", "model")) for name in merge.base.shapes]
    rows = {place: row for row, place in enumerate(dict.fromkeys(places))}
    merge.groups = {name: rows[place] for name, place in zip(merge.base.shapes, places, strict=True)}
    measure = _gradient if merge.method.measure in ("gradient", "entropy") else _number
    many = merge.method.evaluations(merge.options, len(merge.experts))
    with tqdm(total=many, desc=f"learn ({merge.method.name})", unit="model", disable=not merge.progress) as bar:

        def measured(weights: Tensor, **changes: Any) -> Any:
            merge.options |= changes
            found = measure(merge, weights)
            bar.update()
            return found

        given = merge.options | ({"seed": merge.seed} if merge.method.stochastic else {})
        found = merge.method.fit(measured, len(rows), len(merge.experts), **given)
    weights, changes = found if isinstance(found, tuple) else (found, {})
    merge.weights = weights
    merge.options |= changes
    merge.parameters |= {"weights": weights.tolist(), **changes}


def _place(name: str, groups: str) -> tuple:
    """Return the group of a tensor; those outside the layers form one of their own, unless each tensor has its own."""
    where = layer(name) or ()
    return {"model": (), "stack": where[:1], "layer": where, "tensor": (name,)}[groups]


class Merged(Mapping[str, Tensor]):
    """The model that a merge makes with some weights; each tensor is merged when it is asked for, and not kept."""

    def __init__(self, merge: "Merge", weights: Tensor) -> None:
        self.merge, self.weights = merge, weights

    def __getitem__(self, name: str) -> Tensor:
        """Merge one tensor."""
        if name not in self.merge.base.shapes:
            raise KeyError(name)
        self.merge.weights = self.weights
        return self.merge.tensor(name)

    def __iter__(self) -> Iterator[str]:
        """Yield the names, in the base's order."""
        yield from self.merge.base.shapes

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self.merge.base.shapes)


def _finite(merge: "Merge", measured: Any) -> float:
    """Return what a function measured of a merged model as a number."""
    try:
        found = float(measured)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise MethodError(f"{merge.method.name}: a merged model measured {measured!r}; expected a finite number.")
    return found


def _number(merge: "Merge", weights: Tensor) -> float:
    """Return the error or loss."""
    return _finite(merge, merge.extras[merge.method.measure](Merged(merge, weights)))


def _gradient(merge: "Merge", weights: Tensor) -> tuple[float, Tensor]:
    """Return the loss and its gradient by the weights: λ times the inner products of its gradient and the deltas."""
    loss, slopes = merge.extras[merge.method.measure](Merged(merge, weights))
    found = torch.zeros(weights.shape, dtype=torch.float64)
    for name in merge.base.shapes:
        if name in slopes and merge.treatment(name) != "base":
            found[merge.groups[name]] += merge.scaling * _inner(merge, name, slopes)
    if not torch.isfinite(found).all():
        raise MethodError(
            f"{merge.method.name}: the gradient is not finite; lower the learning rate or check the data."
        )
    return _finite(merge, loss), found


def _inner(merge: "Merge", name: str, slopes: Mapping[str, Tensor]) -> Tensor:
    """Return ⟨∇L, τ_t⟩ of one tensor for each expert, fp64 ``[T]``."""
    flat = slopes[name].detach().reshape(-1)
    total = torch.zeros(len(merge.experts), dtype=torch.float64)
    for start, stop in merge.blocks(name, "sum"):
        slope = flat[start:stop].to(merge.device, torch.float64)
        total += (merge.inputs.read(name, start, stop)[1].double() @ slope).cpu()
    return total
