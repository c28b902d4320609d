"""A store of hidden states: each clip goes through each upstream once, whatever tasks, interfaces and seeds ask for it.

A folder belongs to one upstream, window and version of its code. ``states.f16`` holds the states of one clip after
another, ``clips.jsonl`` a line for each, written after its states; new clips are added at the end. Work that was
interrupted goes on after the last whole line. Clips that only tasks about whole utterances use keep evenly spaced
frames.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..corpora import Clip
from ..errors import CheckpointError
from ..files import check_writable, digest, locked
from ..packages import artefact
from .alignment import spaced
from .upstreams import UPSTREAMS, Upstream, base_of, plain

KEPT = 100  # frames of a clip that no task hears whole
ROOM = 1.2  # disk that must be free, for each byte that will be written
STATES, INDEX, ABOUT = "states.f16", "clips.jsonl", "about.json"
BYTES = np.dtype(np.float16).itemsize


@dataclass(frozen=True)
class Entry:
    """Where the states of a clip lie.

    Attributes:
        clip: key of its sound.
        first: frame of the file at which it begins.
        kept: frames that are stored.
        frames: that the upstream gave.
    """

    clip: str
    first: int
    kept: int
    frames: int


@dataclass(frozen=True)
class Features:
    """The states of some clips by one upstream.

    Attributes:
        folder: of the store.
        layers, width: of its states.
        fingerprint: of the upstream.
        entries: by :func:`key` of a clip.
        known: keys of clips that were read, so that a sound is hashed once.
    """

    folder: Path
    layers: int
    width: int
    fingerprint: str
    entries: dict[str, Entry]
    known: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def read(self, clip: Clip, *, whole: bool) -> np.ndarray:
        """Return the states of a clip as they lie on disk, ``[T, L, D]`` in float16; pages are read when used.

        Args:
            clip: one that was extracted.
            whole: all its frames; at most ``KEPT`` evenly spaced ones otherwise.

        Raises:
            CheckpointError: it is not in the store, or not whole.
        """
        place = (clip.source, clip.language, clip.id)
        if place not in self.known:
            self.known[place] = key(clip)
        entry = self.entries.get(self.known[place])
        if entry is None or (whole and entry.kept < entry.frames):
            raise CheckpointError(
                f"{self.folder}: clip {clip.id!r} is not {'whole ' if entry else ''}in the store; run "
                "`speechmerge fuse features` for this task."
            )
        shape = (entry.kept, self.layers, self.width)
        start = entry.first * self.layers * self.width * BYTES
        states = np.memmap(self.folder / STATES, np.float16, "r", start, shape)
        return states if whole or entry.kept <= KEPT else _Rows(states, spaced(entry.kept, KEPT))


class _Rows:
    """Some rows of an array, of which only those that are asked for are read."""

    def __init__(self, states: np.ndarray, rows: np.ndarray) -> None:
        self.states, self.rows = states, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, wanted: np.ndarray) -> np.ndarray:
        return self.states[self.rows[wanted]]


def key(clip: Clip) -> str:
    """Return what tells a clip's sound from others."""
    return hashlib.sha256(clip.flac).hexdigest()[:24]


def folder_of(name: str, upstream: Upstream, window: str) -> Path:
    """Return the store of an upstream."""
    version = UPSTREAMS[base_of(name)].version if base_of(name) in UPSTREAMS else 1
    hears = window if getattr(upstream, "window", None) else "as it comes"
    return artefact("features", digest([upstream.fingerprint, hears, version]))


def frames_of(seconds: float, rate: float, *, whole: bool) -> int:
    """Return about how many frames of a clip are stored."""
    return round(seconds * rate) if whole else min(KEPT, round(seconds * rate))


def extract(name: str, upstream: Upstream, clips: Sequence[Clip], *, whole: bool, window: str = "full") -> Features:
    """Add the clips that are missing to an upstream's store, and return what it holds of them.

    Args:
        name: of the upstream.
        upstream: loaded.
        clips: any number; a clip that stands twice is heard once.
        whole: whether all frames of a clip are kept.
        window: what Whisper's encoder hears.

    Raises:
        SpeechMergeError: the disk is too small, or another process is adding to this store.
        CheckpointError: the store is damaged or another upstream's, or a state is not finite.
    """
    folder = folder_of(name, upstream, window)
    busy = f"{folder} is being filled by another process; wait for it, or use another cache folder."
    with locked(folder / INDEX, busy):
        _claim(folder / ABOUT, _about(name, upstream, window))
        known = _resumed(folder, upstream.layers * upstream.width)
        todo = _missing(clips, whole, known)
        frames = sum(frames_of(clip.seconds, upstream.rate, whole=whole) for clip in todo)
        check_writable(folder, round(ROOM * BYTES * frames * upstream.layers * upstream.width))
        with (folder / STATES).open("ab") as states, (folder / INDEX).open("a", encoding="utf-8") as index:
            first = states.seek(0, os.SEEK_END) // (BYTES * upstream.layers * upstream.width)
            for clip in tqdm(todo, desc=f"{name} hears", unit="clip", leave=False, disable=len(todo) < 8):
                entry = _add(clip, upstream, whole, first, states, name)
                index.write(json.dumps(asdict(entry)) + "\n")
                index.flush()
                known[entry.clip], first = entry, first + entry.kept
    wanted = {key(clip) for clip in clips}
    entries = {clip: entry for clip, entry in known.items() if clip in wanted}
    return Features(folder, upstream.layers, upstream.width, upstream.fingerprint, entries)


def _about(name: str, upstream: Upstream, window: str) -> dict:
    told = {"upstream": plain(name), "window": window, "fingerprint": upstream.fingerprint}
    return told | {"layers": upstream.layers, "width": upstream.width, "rate": upstream.rate}


def _claim(path: Path, about: dict) -> None:
    """Note whose states a store holds, or refuse one that holds another's."""
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        for field in ("fingerprint", "layers", "width"):
            if found[field] != about[field]:
                raise CheckpointError(
                    f"{path.parent} holds states of {found['upstream']} with {field} {found[field]}, expected "
                    f"{about[field]}; delete the folder and extract again."
                )
    else:
        path.write_text(json.dumps(about) + "\n", encoding="utf-8")


def _missing(clips: Sequence[Clip], whole: bool, known: dict[str, Entry]) -> list[Clip]:
    """Return the clips that must be heard, each once."""
    wanted = {key(clip): clip for clip in clips}
    found = {name: known.get(name) for name in wanted}
    return [wanted[name] for name, entry in found.items() if entry is None or (whole and entry.kept < entry.frames)]


def _add(clip: Clip, upstream: Upstream, whole: bool, first: int, file: object, name: str) -> Entry:
    """Hear one clip and write its states."""
    found = upstream.states(clip.samples())
    stored = found.to(torch.float16)
    finite = stored.isfinite().flatten(1).all(1)
    if not finite.all():
        raise CheckpointError(
            f"upstream {name!r}, clip {clip.id!r}: layer {int(finite.long().argmin())} has a value that is not finite "
            "in float16; nothing of the clip is stored. Leave the clip out, or check the model."
        )
    rows = np.arange(found.shape[1]) if whole else spaced(found.shape[1], KEPT)
    file.write(stored.transpose(0, 1)[rows].contiguous().numpy().tobytes())
    file.flush()
    return Entry(key(clip), first, len(rows), found.shape[1])


def _entries(folder: Path, numbers: int) -> tuple[dict[str, Entry], int, int]:
    """Read the index of a store; return entries, bytes of its whole lines, and bytes of the states they stand for.

    Raises:
        CheckpointError: the states end before the index says.
    """
    text = (folder / INDEX).read_bytes()
    lines = text[: text.rfind(b"\n") + 1]
    found = [Entry(**json.loads(line)) for line in lines.splitlines()]
    end = (found[-1].first + found[-1].kept) * numbers * BYTES if found else 0
    there = (folder / STATES).stat().st_size if (folder / STATES).is_file() else 0
    if there < end:
        raise CheckpointError(
            f"{folder / STATES} has {there} bytes, {INDEX} says {end}; the store is damaged, so delete the folder and "
            "extract again."
        )
    return {entry.clip: entry for entry in found}, len(lines), end


def _resumed(folder: Path, numbers: int) -> dict[str, Entry]:
    """Return the entries of a store; what an interrupted run has left behind the last whole line is cut off."""
    found, lines, end = _entries(folder, numbers)
    os.truncate(folder / INDEX, lines)
    if (folder / STATES).is_file():
        os.truncate(folder / STATES, end)
    return found


def opened(name: str) -> Features:
    """Open a store by the name of its folder, without its upstream.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    folder = artefact("features", name)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        found, _, _ = _entries(folder, about["layers"] * about["width"])
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is no feature store ({error}); let the upstream hear its clips again."
        ) from error
    return Features(folder, about["layers"], about["width"], about["fingerprint"], found)
