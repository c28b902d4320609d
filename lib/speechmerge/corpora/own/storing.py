"""Rows decoded once: each kept as FLAC or with the reason why it cannot be used, until a file or the code changes."""

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ...audio import SAMPLE_RATE, decode, encode_flac
from ...errors import CorpusError
from ...files import atomic_folder, digest
from ...packages import cache_folder
from ..building import ROW_GROUP
from .judging import audio_problem, text_problem
from .layouts import listed
from .rows import Row
from .states import below, place, stamp, state

log = logging.getLogger(__name__)

AT_ONCE = 512  # rows decoded before they are written
NOT_READ = ("no audio named", "audio file is missing", "path leaves the folder", "unreadable audio", "line has")
OVER = 0.5  # seconds by which a segment may end after its recording, as rounded times do
MOST_NOT_READ = 0.5  # share of rows of these kinds above which the source is refused


@dataclass(frozen=True)
class Kept:
    """A decoded row; ``reason`` says why it cannot be used, and then there may be no ``flac``."""

    id: str
    name: str
    text: str | None
    translation: str
    language: str
    speaker: str
    split: str | None
    seconds: float
    hash: str
    reason: str | None
    flac: bytes | None


@dataclass(frozen=True)
class Store:
    """All rows of a source, its layout, and what its reader said about it."""

    layout: str
    notes: tuple[str, ...]
    rows: list[Kept]


TYPES = {"seconds": pa.float64(), "flac": pa.binary()}
COLUMNS = pa.schema([(one.name, TYPES.get(one.name, pa.string())) for one in fields(Kept)])


def stored(where: str, *, texts: bool = True) -> Store:
    """Return the decoded rows of a path or hub id, from the cache where nothing has changed since.

    Args:
        where: one of them.
        texts: whether recordings without a text are unusable.

    Raises:
        CorpusError: there is no speech of a known layout, or most of its rows cannot be read.
        SourceError: the hub does not answer.
    """
    folder = cache_folder() / "own" / digest(place(where) if texts else [place(where), "untold"])[:24]
    about = folder / "about.json"
    if about.is_file():
        try:
            known = json.loads(about.read_text(encoding="utf-8"))
            if known["stamp"] == stamp(below(where), map(state, known["files"])):
                return _opened(folder)
            log.info("%s has changed; it is read again", where)
        except (OSError, pa.ArrowException, TypeError, KeyError, ValueError) as error:
            log.info("%s: what was kept of %s is damaged (%s); it is read again", folder, where, error)
    _fill(folder, where, texts)
    return _opened(folder)


def _opened(folder: Path) -> Store:
    known = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    rows = pq.ParquetFile(folder / "rows.parquet").read().to_pylist()
    return Store(known["layout"], tuple(known["notes"]), [Kept(**row) for row in rows])


def _fill(folder: Path, where: str, texts: bool) -> None:
    """Decode all rows of a source into a folder of the cache, under the state its files had before."""
    before = below(where)
    layout, listing = listed(where, texts=texts)
    files, counted = {str(file): state(str(file)) for file in listing.files}, _Counted(where)
    with atomic_folder(folder, overwrite=True) as temporary:
        with pq.ParquetWriter(temporary / "rows.parquet", COLUMNS, compression="none", use_dictionary=False) as file:
            total = len(listing.rows) if isinstance(listing.rows, list) else None
            for part in _decoded(_noting(listing.rows, files, where), where, total):
                counted.add(part)
                for start in range(0, len(part), ROW_GROUP):
                    some = [row.__dict__ for row in part[start : start + ROW_GROUP]]
                    file.write_table(pa.Table.from_pylist(some, schema=COLUMNS))
        counted.check()
        known = {"stamp": stamp(before, files.values()), "layout": layout, "notes": listing.notes, "files": list(files)}
        (temporary / "about.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


class _Counted:
    """Counts rows that cannot be read, so that a source with wrong paths is refused."""

    def __init__(self, where: str):
        self.where, self.all, self.lost, self.first = where, 0, 0, ""

    def add(self, rows: list[Kept]) -> None:
        self.all += len(rows)
        lost = [row for row in rows if row.reason and row.reason.startswith(NOT_READ)]
        self.lost += len(lost)
        if lost and not self.first:
            self.first = f"{lost[0].id or lost[0].name or 'a row without a name'}: {lost[0].reason}"

    def check(self) -> None:
        if not self.all:
            raise CorpusError(f"{self.where}: there is not one row; expected recordings with their texts.")
        if self.lost > MOST_NOT_READ * self.all:
            raise CorpusError(
                f"{self.where}: {self.lost} of {self.all} rows cannot be read (first: {self.first}); more than "
                f"{MOST_NOT_READ:.0%} are not passed over, so check the paths and files."
            )


def _noting(rows: Iterable[Row], files: dict[str, tuple], where: str) -> Iterator[Row]:
    """Yield rows, and note the state of audio files outside of the place that is named: they change without it.

    Raises:
        CorpusError: the rows end in a damaged part of a file.
    """
    root = place(where) + os.sep
    try:
        for row in rows:
            path = str(row.audio) if isinstance(row.audio, Path) else root
            if not path.startswith(root) and path not in files:
                files[path] = state(path)
            yield row
    except (OSError, pa.ArrowException) as error:
        told = " ".join(str(error).split())
        raise CorpusError(
            f"{where}: its rows cannot be read to the end ({told}); write or download it again."
        ) from error


def _decoded(rows: Iterable[Row], where: str, total: int | None) -> Iterator[list[Kept]]:
    """Yield decoded rows in portions, in their order."""
    bar = tqdm(total=total, desc=f"read {Path(where).name}", unit="clip", leave=False)
    waiting = iter(rows)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        while part := list(itertools.islice(waiting, AT_ONCE)):
            yield list(pool.map(_keep, part))
            bar.update(len(part))


def _keep(row: Row) -> Kept:
    """Decode a row; nothing is raised, for what is wrong with one recording is a reason."""
    reason = row.problem or text_problem(row.text)
    samples = np.empty(0, np.float32)
    if not reason and row.audio is not None:
        try:
            samples = decode(row.audio, row.start, row.seconds)
            reason = audio_problem(samples, row.text)
            if row.seconds and len(samples) < (row.seconds - OVER) * SAMPLE_RATE:
                reason = f"ends after its recording: {row.start:.2f} s and {row.seconds:.2f} s more"
        except (CorpusError, OSError) as error:
            told = " ".join(str(error).split()).removeprefix(f"{row.audio}: ").replace(f": '{row.audio}'", "")
            reason = f"unreadable audio: {told}"
    return Kept(
        id=row.id,
        name=row.name,
        text=row.text and " ".join(row.text.split()),
        translation=row.translation,
        language=row.language,
        speaker=row.speaker,
        split=row.split,
        seconds=round(len(samples) / SAMPLE_RATE, 3),
        hash=hashlib.sha256(samples.tobytes()).hexdigest(),
        reason=reason,
        flac=None if reason else encode_flac(samples),
    )
