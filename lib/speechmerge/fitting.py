"""Weights of experts learnt by measuring merged models: what a method's ``fit`` needs, made from a merge."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import MethodError
from .parameter_classes import layer

if TYPE_CHECKING:
    from .merging import Merge


def fit(merge: "Merge") -> None:
    """Let the method find weights ``[G, T]`` from measurements of merged models, and give them to the merge."""
    places = [_place(name, merge.options.get("groups", "model")) for name in merge.base.shapes]
    rows = {place: row for row, place in enumerate(dict.fromkeys(places))}
    merge.groups = {name: rows[place] for name, place in zip(merge.base.shapes, places, strict=True)}
    measure = _score if merge.method.measure == "score" else _gradient
    found = merge.method.fit(lambda weights: measure(merge, weights), len(rows), len(merge.experts), **merge.options)
    merge.weights = found
    merge.parameters["weights"] = found.tolist()


def _place(name: str, groups: str) -> tuple:
    """Return the group of a tensor; those outside the layers form one of their own."""
    where = layer(name) or ()
    return {"model": (), "stack": where[:1], "layer": where}[groups]


def _state(merge: "Merge", weights: Tensor) -> dict[str, Tensor]:
    """Return the model merged with these weights."""
    merge.weights = weights
    return {name: merge.tensor(name) for name in merge.base.shapes}


def _score(merge: "Merge", weights: Tensor) -> float:
    return float(merge.extras["score"](_state(merge, weights)))


def _gradient(merge: "Merge", weights: Tensor) -> tuple[float, Tensor]:
    """Return the loss and its gradient by the weights: λ times the inner products of its gradient and the deltas."""
    loss, slopes = merge.extras["gradient"](_state(merge, weights))
    found = torch.zeros(weights.shape, dtype=torch.float64)
    for name in merge.base.shapes:
        if name in slopes and merge.treatment(name) != "base":
            found[merge.groups[name]] += merge.scaling * _inner(merge, name, slopes)
    if not torch.isfinite(found).all():
        raise MethodError(
            f"{merge.method.name}: the gradient is not finite; lower the learning rate or check the data."
        )
    return float(loss), found


def _inner(merge: "Merge", name: str, slopes: Mapping[str, Tensor]) -> Tensor:
    """Return ⟨∇L, τ_t⟩ of one tensor for each expert, fp64 ``[T]``."""
    flat = slopes[name].detach().reshape(-1)
    total = torch.zeros(len(merge.experts), dtype=torch.float64)
    for start, stop in merge.blocks(name, "sum"):
        slope = flat[start:stop].to(merge.device, torch.float64)
        total += (merge.read(name, start, stop)[1].double() @ slope).cpu()
    return total
