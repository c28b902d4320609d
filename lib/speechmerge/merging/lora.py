"""The arithmetic of a low-rank update: s·BA of linear maps, tables and convolutions, and DoRA's norms."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..whisper.tensor_files import Entry, read_entry

MAP, TABLE = ("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")
MAGNITUDE = "lora_magnitude_vector"


@dataclass(frozen=True)
class Pair:
    """A stored A and B.

    Attributes:
        first, second: A of shape ``[r, n]``, ``[r, in, width]`` for a convolution, and B of shape ``[m, r]``,
            ``[m, r, 1]`` for a convolution. A map's update is s·BA; a table of n rows gets its transpose.
        magnitude: DoRA's norms, one for each row of a map or filter, or for each column of a table.
        table: whether it belongs to a table.
        scale: s.
    """

    first: Entry
    second: Entry
    magnitude: Entry | None
    table: bool
    scale: float

    def added_to(self, start: Tensor) -> Tensor:
        """Return a tensor with the update: W + s·BA, or with DoRA m·(W + s·BA) / ‖W + s·BA‖ (arXiv 2402.09353)."""
        a, b = read(self.first, start.dtype).flatten(1), read(self.second, start.dtype).flatten(1)
        product = (b @ a).mul_(self.scale)
        moved = start + (product.mT if self.table else product).reshape(start.shape)
        if self.magnitude is None:
            return moved
        along = 0 if self.table else tuple(range(1, start.dim()))
        norms = torch.linalg.vector_norm(moved, dim=along, keepdim=True)
        return moved * read(self.magnitude, start.dtype).reshape(norms.shape) / norms


def read(entry: Entry, dtype: torch.dtype) -> Tensor:
    """Return a stored tensor in a dtype."""
    return read_entry(entry, 0, math.prod(entry.shape)).to(dtype).view(entry.shape)


def kinds(where: str, parts: Mapping[str, Entry], *, dora: bool) -> tuple[str, str]:
    """Return the names of A and B among the parts stored for a module, :data:`MAP` or :data:`TABLE`.

    Raises:
        CheckpointError: one of the two is missing, or there is no norm where there must be one, or the reverse.
    """
    found = TABLE if any(kind in parts for kind in TABLE) else MAP
    extra = (MAGNITUDE,) if dora else ()
    if set(parts) - {"bias"} != {*found, *extra}:
        raise CheckpointError(
            f"{where} has {', '.join(sorted(parts))}; expected {' and '.join(found)}"
            f"{f', and {MAGNITUDE}' if dora else ''} (use_dora is {dora}). The adapter is damaged, save it again."
        )
    return found


def check_shapes(where: str, pair: Pair, shape: tuple[int, ...]) -> None:
    """Check that an update fits a tensor.

    Raises:
        CheckpointError: A and B do not fit each other, or their product or the norms do not fit the tensor.
    """
    a, b = pair.first.shape, pair.second.shape
    inner = 2 + (len(shape) - 2 if not pair.table else 0)  # a convolution's A has the filter's width
    plain = len(a) == len(b) == inner >= 2 and a[0] == b[1] > 0 and set(b[2:]) <= {1}
    if not plain or not all(e.dtype.is_floating_point for e in (pair.first, pair.second)):
        raise CheckpointError(
            f"{where} have shapes {list(a)} and {list(b)} ({pair.first.dtype}, {pair.second.dtype}); expected numbers "
            "of shapes [rank, n] and [m, rank]. The adapter is damaged, save it again."
        )
    made = (a[1], b[0]) if pair.table else (b[0], *a[1:])
    if made != shape:
        raise CheckpointError(
            f"{where} make an update of shape {list(made)}, the base's tensor is {list(shape)}; the adapter was "
            "trained on another base."
        )
    norms = shape[-1] if pair.table else shape[0]
    if pair.magnitude is not None and math.prod(pair.magnitude.shape) != norms:
        raise CheckpointError(
            f"{where}: {MAGNITUDE} holds {math.prod(pair.magnitude.shape)} norms, expected {norms}. The adapter is "
            "damaged, save it again."
        )
