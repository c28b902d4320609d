"""A parquet file, or a folder of them as on the Hugging Face hub: ``audio: {bytes, path}`` and a column of text."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .. import parquet
from .rows import Layout, Listing, Row, columns, named, row, split_above, split_of, told


def found(path: Path) -> bool:
    """Tell whether this is a parquet file, or a folder with some."""
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    return [file for file in named(path) if file.suffix.lower() == ".parquet"]


def rows(path: Path) -> Listing:
    """Read the files one row group at a time; their names or folders tell the split."""
    files = _files(path)
    root = path.parent if path.is_file() else path
    found = {file: columns(parquet.opened(file).schema_arrow.names, file) for file in files}
    notes = [told(known) for known in found.values() if set(known) - set(known.values())]
    return Listing(_rows(found, root), list(dict.fromkeys(notes)))


def _rows(found: dict[Path, dict[str, str]], root: Path) -> Iterator[Row]:
    for file, known in found.items():
        split = split_of(file.stem) or split_above(file, root)
        for number, record in parquet.rows([file], known, None):
            one = row(record, {field: field for field in known}, file.parent, split=split)
            yield one if one.audio else replace(one, name=one.name or f"{file.stem}-{number}")


LAYOUT = Layout("parquet", found, rows)
