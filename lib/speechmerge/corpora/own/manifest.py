"""A manifest as NeMo's: one JSON object a line with ``audio_filepath``, ``text``, ``offset`` and ``duration``."""

import json
from dataclasses import replace
from pathlib import Path

from ...errors import CorpusError
from .rows import Layout, Listing, Row, columns, row, split_above, split_of, told
from .table import lines_of, text_of

SUFFIXES = (".jsonl", ".json", ".ndjson")


def found(path: Path) -> bool:
    """Tell whether this is a manifest, or a folder with manifests."""
    return path.suffix.lower() in SUFFIXES if path.is_file() else bool(_manifests(path))


def rows(path: Path) -> Listing:
    """Read the manifests; paths are relative to the manifest."""
    files, notes = [path] if path.is_file() else _manifests(path), []
    listed = [one for file in files for one in lines(file, file.parent, notes, split=split_of(file.stem))]
    return Listing(listed, list(dict.fromkeys(notes)))


def _manifests(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES)
    return [path for path in files if path.suffix.lower() != ".json" or "manifest" in path.stem or split_of(path.stem)]


def lines(path: Path, root: Path, notes: list[str], split: str | None = None) -> list[Row]:
    """Return the rows of a file of JSON lines, or of one JSON list; the arguments are those of :func:`.table.table`.

    Raises:
        CorpusError: a line is no JSON object, or the fields are not known.
    """
    text = text_of(path)
    if text.lstrip().startswith("["):
        records = [_object(one, f"{path}, entry {n}") for n, one in enumerate(_parsed(text, path), 1)]
    else:
        numbered = [(f"{path}, line {n}", line) for n, line in enumerate(lines_of(text), 1) if line.strip()]
        records = [_object(_parsed(line, where), where) for where, line in numbered]
    if not records:
        raise CorpusError(f"{path}: holds no lines; expected one JSON object for each clip.")
    known = columns(list(dict.fromkeys(name for record in records for name in record)), path)
    if set(known) - set(known.values()):
        notes.append(told(known))
    listed = []
    for record in records:
        one = row(record, known, path.parent)
        above = split_above(one.audio, root) if isinstance(one.audio, Path) else None
        name = one.name or f"{path.stem}-{len(listed) + 1}"
        listed.append(replace(one, split=one.split or above or split, name=name))
    return listed


def _parsed(text: str, where: object) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CorpusError(f"{where}: not readable as JSON ({error}); expected one object a line.") from error


def _object(value: object, where: str) -> dict:
    if not isinstance(value, dict):
        raise CorpusError(f"{where}: found {type(value).__name__}, expected one JSON object for each clip.")
    return value


LAYOUT = Layout("manifest of JSON lines", found, rows)
