"""What fine-tuning changed: norms, cosines, spectra and where the energy lies, as plain rows.

A task vector is expert minus base. All sums are taken in fp64, tensor by tensor, so a model never has to fit in memory
more than once.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..whisper.checkpoints import open_checkpoint
from ..whisper.parameter_classes import FROZEN, MATRIX, classify, layer, parts
from . import precision, validation

Source = Path | str | Mapping[str, Tensor]
STACKS = ("encoder", "decoder")
RANK_FRACTIONS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)  # of min(m, n): where the kept energy is reported
SPECTRUM_POINTS = 33  # singular values kept of each spectrum, evenly spread from the first to the last


def deltas(base: Source, experts: Mapping[str, Source]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield ``(name, base tensor, task vectors [T, ...])`` in fp64 for every tensor of numbers, in the base's order.

    What rounding alone changed is no part of them (:mod:`speechmerge.merging.precision`).

    Raises:
        CheckpointError: the models do not have the same tensors.
    """
    model = open_checkpoint(base, "base")
    tuned = [open_checkpoint(source, label) for label, source in experts.items()]
    validation.check_tensors(model, tuned)
    tuned = [precision.unrounded(model, expert) for expert in tuned]
    for name in model.shapes:
        if model.dtypes[name].is_floating_point:
            start = model.read(name).double()
            yield name, start, torch.stack([expert.read(name).double() - start for expert in tuned])


def describe(base: Source, experts: Mapping[str, Source]) -> list[dict]:
    """Describe the task vectors of experts of one base.

    Args:
        base: folder or tensors of the base.
        experts: folder or tensors by the name rows shall carry, in order.

    Returns:
        Rows told apart by ``kind``:

        - ``norm``: ``expert, tensor, class, stack, block, layer, norm, base_norm, relative`` (Frobenius norms; relative
          is norm / base_norm; layer is ``None`` outside the blocks);
        - ``spectrum``: ``expert, tensor, stack, block, layer, rank, effective_rank, stable_rank, energy_at,
          singular_values`` of every linear map (see :func:`spectrum`);
        - ``cosine``: ``scope, a, b, cosine`` for each pair of experts, over the whole model, each class, each stack,
          each block type;
        - ``energy``: ``expert, stack, block, layer, share, scalars``: the share of ‖τ‖² and the number of scalars;
        - ``total``: ``expert, norm, base_norm, relative`` over the whole model.
    """
    names = list(experts)
    rows: list[dict] = []
    products: dict[str, Tensor] = {}  # Gram matrix of the experts' task vectors in each scope
    places: dict[tuple, Tensor] = {}  # squared norms and scalars of each place
    base_square = 0.0
    for name, start, change in deltas(base, experts):
        kind, where = classify(name, start.shape), parts(name, start.shape)
        stack = next((part for part in where if part in STACKS), None)
        block = next((part for part in where if part not in STACKS), None)
        place = {"stack": stack, "block": block, "layer": at[1] if (at := layer(name)) else None}
        flat = change.flatten(1)
        gram = flat @ flat.mT
        for scope in dict.fromkeys(("model", kind, stack, block)):
            if scope not in (None, FROZEN):
                products[scope] = products.get(scope, 0) + gram
        square = torch.cat([gram.diagonal(), torch.tensor([start.numel()])])
        key = tuple(place.values())
        places[key] = places.get(key, 0) + square
        own = start.square().sum().item()
        base_square += own
        for label, value in zip(names, gram.diagonal().clamp(min=0).sqrt().tolist(), strict=True):
            about = {"expert": label, "tensor": name}
            rows.append({"kind": "norm", **about, "class": kind, **place, **_relative(value, math.sqrt(own))})
        if kind == MATRIX:
            rows += [
                {"kind": "spectrum", "expert": label, "tensor": name, **place, **spectrum(matrix)}
                for label, matrix in zip(names, change, strict=True)
            ]
    return rows + _cosines(names, products) + _energy(names, places, products["model"], base_square)


def _relative(norm: float, base_norm: float) -> dict[str, float]:
    return {"norm": norm, "base_norm": base_norm, "relative": norm / base_norm if base_norm else 0.0}


def spectrum(matrix: Tensor) -> dict:
    """Describe the singular values of one matrix.

    Args:
        matrix: shape ``[m, n]``.

    Returns:
        ``rank`` = min(m, n); ``effective_rank`` = exp of the entropy of σ/Σσ (Roy and Vetterli, 2007);
        ``stable_rank`` = ‖·‖²/σ₁²; ``energy_at`` = share of ‖·‖² in the leading singular values at each of
        RANK_FRACTIONS; ``singular_values`` = SPECTRUM_POINTS of them, evenly spread. A zero matrix has ranks 0.
    """
    double = matrix.double()
    short = double if double.shape[0] <= double.shape[1] else double.mT
    values = torch.linalg.eigvalsh(short @ short.mT).flip(0).clamp(min=0).sqrt()
    rank = len(values)
    chosen = torch.linspace(0, rank - 1, min(rank, SPECTRUM_POINTS)).round().long()
    about = {"rank": rank, "effective_rank": 0.0, "stable_rank": 0.0, "energy_at": {}}
    if values[0] > 0:
        share = values / values.sum()
        energy = values.square().cumsum(0) / values.square().sum()
        about["effective_rank"] = math.exp(-torch.special.xlogy(share, share).sum().item())
        about["stable_rank"] = (values.square().sum() / values[0].square()).item()
        about["energy_at"] = {str(r): round(energy[max(1, round(r * rank)) - 1].item(), 6) for r in RANK_FRACTIONS}
    return about | {"singular_values": [float(f"{value:.5g}") for value in values[chosen].tolist()]}


def _cosines(names: list[str], products: Mapping[str, Tensor]) -> list[dict]:
    """Return a row for each pair of experts in each scope; zero task vectors have cosine 0."""
    rows = []
    for scope, gram in products.items():
        norms = gram.diagonal().clamp(min=0).sqrt()
        for (i, a), (j, b) in itertools.combinations(enumerate(names), 2):
            size = (norms[i] * norms[j]).item()
            cosine = gram[i, j].item() / size if size else 0.0
            rows.append({"kind": "cosine", "scope": scope, "a": a, "b": b, "cosine": cosine})
    return rows


def _energy(names: list[str], places: Mapping[tuple, Tensor], whole: Tensor, base_square: float) -> list[dict]:
    """Return each place's share of an expert's squared norm, and the norms of the whole."""
    rows = []
    for i, label in enumerate(names):
        total = whole[i, i].item()
        for (stack, block, index), squares in places.items():
            row = {"kind": "energy", "expert": label, "stack": stack, "block": block, "layer": index}
            share = squares[i].item() / total if total else 0.0
            rows.append(row | {"scalars": int(squares[-1]), "share": share})
        rows.append({"kind": "total", "expert": label, **_relative(math.sqrt(total), math.sqrt(base_square))})
    return rows


def length(base: Source, model: Source) -> float:
    """Return the Frobenius norm of all that a model changes in its base."""
    return math.sqrt(sum(change.square().sum().item() for _, _, change in deltas(base, {"model": model})))
