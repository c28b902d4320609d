"""Writing that never leaves half a file under a final name, and hashing."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from .errors import SpeechMergeError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed over ``path``, on failure it is removed.

    Where ``path`` is a link, what it leads to is replaced.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False, marks: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it takes the name ``path``, on failure it is removed.

    Raises:
        SpeechMergeError: ``path`` exists and may not be replaced (:func:`check_free`).
    """
    path = Path(path)
    check_free(path, overwrite=overwrite, marks=marks)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        for one in (temporary, *temporary.rglob("*")):  # some libraries write for the owner's eyes alone
            if not one.is_symlink():
                one.chmod(0o755 if one.is_dir() else 0o644)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            path.rename(old / path.name)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(path: Path, *, overwrite: bool = False, marks: Sequence[str] = ()) -> None:
    """Raise if ``path`` is there already and may not be replaced.

    Args:
        path: what will be written.
        overwrite: whether it may take the place of what is there.
        marks: files by which a folder is known as one of the kind that is written; another folder is never replaced.
    """
    if path.exists() and not overwrite:
        raise SpeechMergeError(f"{path} already exists; choose another output or pass --overwrite to replace it.")
    if marks and path.is_dir() and any(path.iterdir()) and not any((path / mark).exists() for mark in marks):
        raise SpeechMergeError(
            f"{path} is a folder of something else (it has no {' and no '.join(marks)}), so it is not replaced; choose "
            "another output."
        )


def check_output(
    path: Path, *, overwrite: bool = False, inputs: Iterable[Path] = (), marks: Sequence[str] = ()
) -> None:
    """Raise before any work if writing ``path`` would lose something.

    Args:
        path: what will be written, a file or a folder.
        overwrite: whether it may take the place of what is there.
        inputs: files that are read, which it never replaces.
        marks: of the folder that is written (:func:`check_free`).

    Raises:
        SpeechMergeError: it is there already, one of the inputs, or neither a file nor a folder; or it cannot be
            written (:func:`check_writable`).
    """
    path = Path(path)
    if any(path.exists() and Path(one).exists() and path.samefile(one) for one in inputs):
        raise SpeechMergeError(f"{path} is read here, so it is not written; name another output.")
    check_free(path, overwrite=overwrite, marks=marks)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise SpeechMergeError(f"{path} is neither a file nor a folder, so it cannot be replaced; name another output.")
    check_writable(path, 0)


def check_writable(path: Path, needed_bytes: int) -> None:
    """Raise before heavy work if ``path`` cannot be written or its disk lacks ``needed_bytes``."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() and folder != Path(path).absolute():
        raise SpeechMergeError(f"{folder} is a file, so {path} cannot be written; choose another output.")
    if not os.access(folder, os.W_OK):
        raise SpeechMergeError(f"{folder} is not writable, so {path} cannot be written ({os.strerror(errno.EACCES)}).")
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise SpeechMergeError(
            f"{path} needs about {needed_bytes / 1e9:.2f} GB but {folder} has {free / 1e9:.2f} GB free; make room, "
            "or write elsewhere."
        )


def state(path: Path) -> tuple[str, int, int]:
    """Return what changes with a file: its full path, size and time of change."""
    about = path.stat()
    return str(path.absolute()), about.st_size, about.st_mtime_ns


def digest(value: object) -> str:
    """SHA-256 (hex) of a JSON-serialisable value, independent of the order of dict keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[IO[str]]:
    """Yield a text file that is read and added to, and that no other process has open so; its folder is made.

    Raises:
        SpeechMergeError: another process has it; ``busy`` is the sentence.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SpeechMergeError(busy) from error
        yield stream
