"""What a tuning has tried so far, on disk, so that one that was killed goes on where it was and ends the same."""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import SpeechMergeError
from ..files import locked

TRIED, PLAN = "tried.jsonl", "plan.json"


class Journal:
    """Answers by key, and the seconds spent on them by all runs together."""

    def __init__(self, folder: Path, stream: IO[str]) -> None:
        self.folder, self._stream = folder, stream
        stream.seek(0)
        self.known: dict[str, dict[str, Any]] = {}
        self.before, whole = 0.0, []
        for line in stream.read().splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a line cut short by a kill counts nothing
                entry = json.loads(line)
                self.known[entry["key"]] = entry
                self.before = max(self.before, entry["at"])
                whole.append(line)
        stream.seek(0)
        stream.truncate()
        stream.writelines(f"{line}\n" for line in whole)
        stream.flush()
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds spent up to now, those of earlier runs among them."""
        return self.before + time.perf_counter() - self._started

    def add(self, key: str, **entry: Any) -> dict[str, Any]:
        """Note an answer."""
        entry = {"key": key, **entry, "at": round(self.seconds(), 2)}
        self._stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._stream.flush()
        self.known[key] = entry
        return entry


def work_folder(output: Path) -> Path:
    """Return where the work on ``output`` lies until it is complete."""
    return output.parent / f".{output.name}.tuning"


@contextlib.contextmanager
def opened(output: Path, identity: dict[str, Any], *, afresh: bool = False) -> Iterator[Journal]:
    """Yield the journal of the work on ``output``; on success it is removed, any other end leaves it.

    Args:
        output: where the result will go; the work lies beside it.
        identity: what the tuning is made of: settings, models and speech.
        afresh: forget work of another identity instead of refusing.

    Raises:
        SpeechMergeError: the work there is of another tuning, or another process is at it.
    """
    folder = work_folder(output)
    busy = f"{output} is being tuned by another process; wait for it, or choose another output."
    with locked(folder / TRIED, busy) as stream:
        _same(folder, identity, stream, afresh)
        yield Journal(folder, stream)
    shutil.rmtree(folder)


def _same(folder: Path, identity: dict[str, Any], stream: IO[str], afresh: bool) -> None:
    """Check that the work is of this tuning, or start it."""
    file = folder / "identity.json"
    told = json.dumps(identity, indent=1, sort_keys=True, ensure_ascii=False)
    stored = file.read_text(encoding="utf-8") if file.is_file() else None
    if stored is not None and stored != told:
        old = json.loads(stored)
        other = [name for name in identity if old.get(name) != identity[name]]
        if not afresh:
            raise SpeechMergeError(
                f"{folder} holds an interrupted tuning that differs in {', '.join(other) or 'its form'}; give the "
                "first command again to go on with it, or pass --overwrite to start afresh."
            )
        for path in folder.iterdir():
            if path.name != TRIED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        stream.truncate(0)
    file.write_text(told, encoding="utf-8")
