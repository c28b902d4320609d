"""Checkpoints: opened without loading, checked before any heavy work, read tensor by tensor.

A source is a Hugging Face folder of safetensors (sharded or not) or a dict of tensors. Pickles are never opened.
"""

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from .configuration import is_whisper
from .number_formats import alike
from .parameter_classes import tied_head
from .tensor_files import DTYPES, Entry, header, read_entry, read_if_there, read_json
from .weight_files import INDEX, SINGLE, weight_files

BLOCK = 1 << 18  # scalars handled at once where a tensor need not be seen whole; 1 MB in fp32, within a CPU's cache
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")  # left by DataParallel and torch.compile
_BARE = re.compile(r"^(?=(?:encoder|decoder)\.)")  # the names of WhisperModel, which has no head


@dataclass(frozen=True)
class Checkpoint:
    """A model whose tensors are read one at a time.

    Attributes:
        label: how messages name it.
        folder: where it lies, ``None`` for tensors in memory.
        shapes, dtypes: of every tensor, wrappers' prefixes stripped and the tied head left out.
        head: ``(name, token table)`` of a tied head that the source stores, beside the table or in its place.
        reader: returns a range of a tensor's scalars in row order, ``(name, start, stop)``, in their stored dtype; a
            tensor given as ``room`` may be written to and returned.
        stored: the model as it is stored, if ``reader`` gives the base's numbers, in the base's dtype, for what
            rounding alone changed (:mod:`speechmerge.merging.precision`).
    """

    label: str
    folder: Path | None
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    head: tuple[str, str] | None
    reader: Callable[..., Tensor]
    stored: "Checkpoint | None" = None

    def read(self, name: str) -> Tensor:
        """Return a tensor in its stored dtype; it must not be changed in place.

        Raises:
            CheckpointError: it holds NaN or an infinity; tensor and index are named.
        """
        return self.block(name, 0, math.prod(self.shapes[name])).view(self.shapes[name])

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Return the scalars ``start`` to ``stop`` of a tensor, in row order; otherwise as :meth:`read`."""
        values = self.reader(name, start, stop)
        if values.is_floating_point() and not finite(values):
            bad = int((~torch.isfinite(values)).nonzero()[0])
            index = [int(i) for i in torch.unravel_index(torch.tensor(bad + start), self.shapes[name])]
            raise CheckpointError(
                f"{self.label}: tensor {name!r} holds values that are not finite, the first ({values[bad].item()}) at "
                f"index {index}; this training diverged or the file is damaged."
            )
        return values

    def tensors(self) -> Mapping[str, Tensor]:
        """Return all tensors, each read when it is asked for."""
        return OnDemand(self.shapes, self.read)

    def bytes(self) -> int:
        """Return the size of all tensors on disk."""
        return sum(math.prod(self.shapes[n]) * self.dtypes[n].itemsize for n in self.shapes)


class OnDemand(Mapping[str, Tensor]):
    """Tensors by name, each read or made when it is asked for, and not kept."""

    def __init__(self, names: Collection[str], read: Callable[[str], Tensor]) -> None:
        self.names, self.read = names, read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def finite(values: Tensor) -> bool:
    """Tell whether all numbers are finite; one sum settles it, but for huge numbers whose sum overflows."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return math.isfinite(values.sum(dtype=wide)) or bool(torch.isfinite(values).all())


def open_checkpoint(source: Path | str | Mapping[str, Tensor], label: str = "model") -> Checkpoint:
    """Open a folder or a dict of tensors.

    Raises:
        CheckpointError: the folder is missing, damaged, incomplete, holds pickles only, or its output head is not tied;
            a tensor has a number format that cannot be merged.
    """
    if isinstance(source, Mapping):
        for name, tensor in source.items():
            _check_given(label, name, tensor)
        plain = _strip({name: name for name in source}, label)
        return _tie(
            label,
            None,
            {name: tuple(source[stored].shape) for name, stored in plain.items()},
            {name: source[stored].dtype for name, stored in plain.items()},
            lambda name, start, stop, room=None: source[plain[name]].detach().reshape(-1)[start:stop],
        )
    folder = Path(source)
    found = _entries(folder)
    entries = {name: found[stored] for name, stored in _strip({name: name for name in found}, str(folder)).items()}
    if is_whisper(folder) and all(map(_BARE.match, entries)):
        entries = {with_head(name): entry for name, entry in entries.items()}  # as transformers loads it
    return _tie(
        str(folder),
        folder,
        {name: entry.shape for name, entry in entries.items()},
        {name: entry.dtype for name, entry in entries.items()},
        lambda name, start, stop, room=None: read_entry(entries[name], start, stop, room),
    )


def strip_wrappers(name: str) -> str:
    """Return a tensor's name without the prefixes that DataParallel and torch.compile add."""
    return _WRAPPERS.sub("", name)


def with_head(name: str) -> str:
    """Return a tensor's name in the model with its head, given its name there or in a bare ``WhisperModel``."""
    return _BARE.sub("model.", name)


def _check_given(label: str, name: object, tensor: object) -> None:
    """Raise unless a dict's entry is a named tensor that can be merged: dense, with numbers, of a known format."""
    if not isinstance(name, str):
        raise CheckpointError(f"{label} has the key {name!r}, a {type(name).__name__}; expected names of tensors.")
    if not isinstance(tensor, Tensor):
        raise CheckpointError(f"{label}: {name!r} is a {type(tensor).__name__}, expected a torch tensor.")
    if tensor.layout != torch.strided or tensor.is_meta:
        kind = "without numbers, on the meta device" if tensor.is_meta else f"{tensor.layout}"
        raise CheckpointError(f"{label}: {name!r} is {kind}; expected a dense tensor in memory.")
    if tensor.dtype not in DTYPES.values():
        raise CheckpointError(f"{label}: {name!r} is {tensor.dtype}, which cannot be merged; use torch.float32.")


def _strip(names: dict[str, str], label: str) -> dict[str, str]:
    """Map names without wrappers' prefixes to the stored names."""
    plain = {strip_wrappers(name): stored for name, stored in names.items()}
    if len(plain) != len(names):
        raise CheckpointError(f"{label}: some tensors appear with and without a 'module.' or '_orig_mod.' prefix.")
    return plain


def _tie(label: str, folder: Path | None, shapes: dict, dtypes: dict, reader: Callable) -> Checkpoint:
    """Leave out a stored output head that equals the token table; take one that is stored alone for the table."""
    head, table = tied_head(shapes)
    if folder is not None and table and (head in shapes) != (table in shapes):
        _check_config(folder, table if table in shapes else head)
    if head and table in shapes:
        _check_head(label, shapes, reader, head, table)
        shapes, dtypes = ({name: x for name, x in of.items() if name != head} for of in (shapes, dtypes))
    elif head and table:
        shapes, dtypes = ({table if name == head else name: x for name, x in of.items()} for of in (shapes, dtypes))
        reader = _renamed(reader, table, head)
    if not shapes:
        raise CheckpointError(f"{label}: there are no tensors in it.")
    return Checkpoint(label, folder, shapes, dtypes, (head, table) if head and table else None, reader)


def _renamed(reader: Callable, name: str, stored: str) -> Callable:
    """Return a reader that knows a tensor by another name than it is stored under."""
    return lambda wanted, *part: reader(stored if wanted == name else wanted, *part)


def _check_head(label: str, shapes: dict, reader: Callable, head: str, table: str) -> None:
    """Raise unless the head equals the token table, at the coarser precision of the two."""
    size = math.prod(shapes[head])
    ranges = [(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]
    if shapes[head] != shapes[table] or not all(_same(reader(head, *part), reader(table, *part)) for part in ranges):
        raise CheckpointError(
            f"{label}: {head!r} differs from {table!r}, but Whisper's output head is tied to the token table; this "
            "model was trained untied, or one of the two was left from another model. Remove the one that was not "
            "trained, and the other counts for both; a model trained untied cannot be merged as a Whisper."
        )


def _check_config(folder: Path, stored: str) -> None:
    """Raise where the configuration says that head and table are not tied, but only one of them is there."""
    if read_if_there(folder / "config.json").get("tie_word_embeddings") is False:
        raise CheckpointError(
            f"{folder}: config.json says tie_word_embeddings: false, but of token table and output head only "
            f"{stored!r} is stored, so the other would be random. Set it to true if the model was trained tied, as "
            "every Whisper is; else save the model again."
        )


def _same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two blocks are equal bit for bit, or but for rounding where they are stored in different formats."""
    if one.dtype != other.dtype:
        return alike(one, other)
    one, other = (x.contiguous().view(torch.uint8).cpu().numpy() for x in (one, other))  # torch's threads would wait
    if len(one) % 8 == len(other) % 8 == 0:
        one, other = one.view(np.int64), other.view(np.int64)
    return np.array_equal(one, other)


def _entries(folder: Path) -> dict[str, Entry]:
    """Return where each stored tensor of a model folder lies, in the order of its files."""
    files = weight_files(folder)
    found: dict[str, Entry] = {}
    for entry in (entry for file in files for entry in header(file)):
        if other := found.get(entry.stored_name):
            raise CheckpointError(
                f"{folder}: {entry.stored_name!r} is in {other.file.name} and in {entry.file.name}; these shards come "
                "from two savings. Save the model again into an empty folder."
            )
        found[entry.stored_name] = entry
    promised = {} if files == [folder / SINGLE] else read_json(folder / INDEX)["weight_map"]
    for name in sorted(promised.keys() - found.keys()):
        raise CheckpointError(
            f"{folder}: the index places {name!r} in {promised[name]}, which lacks it; index and shards come from two "
            "savings. Copy all of them again."
        )
    return found


def fingerprint(source: Path | str | Mapping[str, Tensor] | Checkpoint) -> str:
    """Return the SHA-256 (hex) over sorted tensor names and their values as raw fp32; a tied head is left out."""
    model = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    model = model.stored or model
    digest = hashlib.sha256()
    for name in sorted(model.shapes):
        digest.update(name.encode())
        size = math.prod(model.shapes[name])
        for start in range(0, size, BLOCK):
            values = model.reader(name, start, min(start + BLOCK, size))
            digest.update(values.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def most_precise(models: Sequence[Checkpoint]) -> torch.dtype:
    """Return the floating-point dtype with the most digits among the models' tensors."""
    found = [dtype for model in models for dtype in model.dtypes.values() if dtype.is_floating_point]
    return max(found, key=lambda dtype: (dtype.itemsize, -torch.finfo(dtype).eps), default=torch.float32)
