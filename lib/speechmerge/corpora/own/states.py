"""What speech of one's own is kept by: the code that reads it, and name, size and time of change of its files."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path

from ...files import digest
from ..building import hashes
from . import hub


def place(where: str) -> str:
    """Return the one name of a place: its full path, or its id on the hub."""
    return where if where.startswith(hub.PREFIX) else os.path.realpath(os.path.expanduser(where))


@functools.cache
def _code() -> list[str]:
    """Return hashes of the code that decides what is kept of a row."""
    corpora = Path(__file__).parents[1]
    return hashes((Path(__file__).with_name("storing.py"), corpora / "base.py", corpora / "building.py"))


def stamp(own: Iterable[tuple], besides: Iterable[tuple]) -> str:
    """Hash the code, and the states of the files below a place and of those besides."""
    return digest([_code(), sorted(own), list(besides)])


def below(where: str) -> list[tuple]:
    """Return the states of all files below a folder, or of one file; hidden ones are passed over."""
    if not os.path.isdir(place(where)):
        return [state(place(where))]
    found, waiting, seen = [], [place(where)], set()
    while waiting:
        folder = waiting.pop()
        if os.path.realpath(folder) in seen:  # links may lead in a circle
            continue
        seen.add(os.path.realpath(folder))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append(entry.path)
                else:
                    found.append(state(entry.path))
    return found


def state(path: str) -> tuple:
    """Return a file's name, size and time of change; of what is not there, the name."""
    try:
        state = os.stat(path)
    except OSError:
        return path, -1, -1
    return path, state.st_size, state.st_mtime_ns
