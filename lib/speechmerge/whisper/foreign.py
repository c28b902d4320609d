"""A Whisper stored in another program's file, opened without reading its weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoints import Checkpoint
from .tensor_files import Entry, read_entry

Source = Entry | Callable[[int, int], Tensor]  # where a tensor lies, or what returns a range of its scalars


@dataclass(frozen=True)
class Foreign:
    """What another program's file holds.

    Attributes:
        sizes: keys of ``WhisperConfig``.
        checkpoint: the tensors, by Hugging Face name and without the tied head, read one at a time.
        precision: how they are stored: ``"float32"``, ``"float16"``, ``"bfloat16"``, ``"int8"`` or ``"int8_float16"``.
        tokens: the vocabulary's bytes by id, as far as the file says them: not the special tokens.
        alignment_heads: ``[layer, head]`` pairs for word timestamps, where the file says them.
    """

    sizes: dict[str, int]
    checkpoint: Checkpoint
    precision: str
    tokens: tuple[bytes, ...] | None = None
    alignment_heads: list[list[int]] | None = None

    def loaded(self) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """Return the sizes, and all tensors as float32 arrays in memory."""
        model = self.checkpoint
        return self.sizes, {name: model.read(name).float().numpy() for name in model.shapes}


def checkpoint(
    path: Path,
    sources: Mapping[str, Source],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, torch.dtype],
) -> Checkpoint:
    """Return the tensors of a file as a model that is read one tensor at a time."""

    def reader(name: str, start: int, stop: int, room: Tensor | None = None) -> Tensor:
        source = sources[name]
        return read_entry(source, start, stop, room) if isinstance(source, Entry) else source(start, stop)

    return Checkpoint(str(path), None, dict(shapes), dict(dtypes), None, reader)


def of_entries(path: Path, entries: Mapping[str, Entry]) -> Checkpoint:
    """Return a model whose tensors lie in the file as they are."""
    shapes = {name: entry.shape for name, entry in entries.items()}
    return checkpoint(path, entries, shapes, {name: entry.dtype for name, entry in entries.items()})


def precision(dtypes: Mapping[str, torch.dtype]) -> str:
    """Return the number format of the matrices, that of most scalars."""
    return str(dtypes["model.decoder.embed_tokens.weight"]).removeprefix("torch.")
