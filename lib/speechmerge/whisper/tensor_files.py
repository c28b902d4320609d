"""Single files of a model folder: JSON, and safetensors read without mapping them (headers, ranges of scalars)."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in a safetensors file."""

    file: Path
    stored_name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # byte offset in the file
    size: int  # bytes


def read_json(path: Path) -> dict:
    """Read a JSON file of a model folder."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there; give the folder that holds it, or copy the file there.") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not readable as JSON ({error}); copy the file again.") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, expected names with values; copy it again.")
    return found


def read_if_there(path: Path) -> dict:
    """Read a JSON file of a model folder; where it is not there, it says nothing."""
    return read_json(path) if path.is_file() else {}


def header(file: Path) -> list[Entry]:
    """Read the header of a safetensors file.

    Raises:
        CheckpointError: the file is truncated or damaged, or uses a number format that cannot be merged.
    """
    length = file.stat().st_size
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if length < 8 or size > length - 8:
            raise CheckpointError(f"{file} is truncated: {length} bytes do not even hold its header; copy it again.")
        try:
            content = json.loads(stream.read(size))
        except ValueError as error:
            raise CheckpointError(f"{file}: the header is damaged ({error}); copy the file again.") from error
    entries = []
    for name, about in content.items():
        if name == "__metadata__":
            continue
        if about["dtype"] not in DTYPES:
            raise CheckpointError(f"{file}: {name!r} is stored as {about['dtype']}, which cannot be merged; use F32.")
        start, end = about["data_offsets"]
        entries.append(Entry(file, name, DTYPES[about["dtype"]], tuple(about["shape"]), 8 + size + start, end - start))
    promised = max((entry.start + entry.size for entry in entries), default=0)
    if promised > length:
        raise CheckpointError(f"{file} is truncated: {length} bytes, its header promises {promised}; copy it again.")
    return entries


def read_entry(entry: Entry, start: int, stop: int, room: Tensor | None = None) -> Tensor:
    """Read a range of scalars of one tensor from its file (a mapped file would count as memory).

    Into ``room`` if it is on the CPU and of the stored dtype, else into fresh memory.
    """
    fits = room is not None and room.dtype == entry.dtype and room.device.type == "cpu"
    tensor = room if fits else torch.empty(stop - start, dtype=entry.dtype)
    if stop > start:
        buffer, done = memoryview(tensor.view(torch.uint8).numpy()), 0
        with entry.file.open("rb", buffering=0) as stream:
            stream.seek(entry.start + start * entry.dtype.itemsize)
            while done < len(buffer) and (count := stream.readinto(buffer[done:])):
                done += count
        if done != len(buffer):
            raise CheckpointError(f"{entry.file}: {entry.stored_name!r} ends early; the file changed while being read.")
    return tensor
