"""Merges that were killed are taken up again: which tensors of the output are written, and still hold what was written.

The work lies beside the output in a hidden folder until it is complete. Its journal says in the first line which merge
it belongs to; each further line names a finished tensor and a sum over its bits.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import locked
from ..whisper.tensor_files import header, read_entry

log = logging.getLogger(__name__)
JOURNAL = "journal.jsonl"
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Journal:
    """The tensors of an unfinished output that are finished, by name, with a sum over their bits."""

    def __init__(self, stream: IO[str], finished: dict[str, int]) -> None:
        self.stream, self.finished = stream, finished

    def add(self, name: str, tensor: Tensor) -> None:
        """Note that a tensor is written."""
        self.finished[name] = bits(tensor)
        self.stream.write(json.dumps([name, self.finished[name]]) + "\n")
        self.stream.flush()


def bits(tensor: Tensor) -> int:
    """Return the sum of a tensor's scalars read as integers."""
    whole = tensor.contiguous().view(-1).view(_BITS[tensor.element_size()])
    return int(whole.numpy().sum(dtype="int64"))  # without torch, which would make a copy of twice the size


@contextlib.contextmanager
def unfinished(output: Path, key: str | None) -> Iterator[tuple[Path, Journal]]:
    """Yield the folder of a merge's unfinished work and its journal.

    What a killed merge with the same key left is kept, as far as its tensors still hold what was written; any other
    work is removed. On success the caller has moved the files; an error removes them; a kill or Ctrl-C leaves them.

    Args:
        output: where the result will go; the folder lies beside it.
        key: what the merge is, with its inputs; ``None`` for one that cannot be recognised, which starts afresh.

    Raises:
        SpeechMergeError: another process is at work on the same output.
    """
    folder = output.parent / f".{output.name}.unfinished"
    busy = f"{output} is being written by another process; wait for it, or choose another output."
    with locked(folder / JOURNAL, busy) as stream:
        journal = Journal(stream, _taken_up(folder, stream, key))
        try:
            yield folder, journal
        except Exception:
            shutil.rmtree(folder)
            raise
    shutil.rmtree(folder)


def _taken_up(folder: Path, stream: IO[str], key: str | None) -> dict[str, int]:
    """Return the tensors that need not be written again; start the journal anew with them."""
    stream.seek(0)
    first, *lines = stream.read().splitlines() or [""]
    found = _verified(folder, lines) if key is not None and first == key else {}
    if not found:
        for file in folder.glob("*.safetensors"):
            file.unlink()
    else:
        log.info("%d tensors were written before the merge was interrupted and are kept", len(found))
    stream.seek(0)
    stream.truncate()
    stream.write("\n".join([key or "", *(json.dumps(line) for line in found.items())]) + "\n")
    stream.flush()
    return found


def _verified(folder: Path, lines: list[str]) -> dict[str, int]:
    """Return the noted tensors whose bits are still those that were written; a line cut short counts nothing."""
    try:
        entries = {entry.stored_name: entry for file in folder.glob("*.safetensors") for entry in header(file)}
    except CheckpointError:
        return {}
    found = {}
    for line in lines:
        with contextlib.suppress(ValueError):
            name, expected = json.loads(line)
            entry = entries.get(name)
            if entry and bits(read_entry(entry, 0, entry.size // entry.dtype.itemsize)) == expected:
                found[name] = expected
    return found
