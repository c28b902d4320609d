"""A plain CSV or TSV of ``path,text[,language,translation,speaker]``, or a folder of one for each split.

Tables are read by Python's own reader: readers that guess the type of a column make 7 of ``007`` and nothing of ``NA``.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...errors import CorpusError
from .rows import NAMES, Layout, Listing, Row, columns, row, split_above, split_of, told

SUFFIXES = (".csv", ".tsv")
MOST_CHARACTERS = 2**24  # in a cell


def found(path: Path) -> bool:
    """Tell whether this is a table, or a folder with tables."""
    return path.suffix.lower() in SUFFIXES if path.is_file() else bool(_tables(path))


def rows(path: Path) -> Listing:
    """Read the tables; paths are relative to the table, or to a folder ``clips`` beside it."""
    files, notes = [path] if path.is_file() else _tables(path), []
    listed = [one for file in files for one in table(file, file.parent, notes, split=split_of(file.stem))]
    return Listing(listed, list(dict.fromkeys(notes)))


def _tables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())


def table(path: Path, root: Path, notes: list[str], split: str | None = None, quoted: bool = True) -> list[Row]:
    """Return the rows of one table; what is said about it is added to ``notes``.

    Args:
        path: of the table.
        root: folder that was named; folders between it and an audio file may tell the split.
        notes: grows.
        split: of all rows, unless a column or folder tells another.
        quoted: whether quotation marks part cells (Common Voice writes them as they are said).

    Raises:
        CorpusError: it is no text, or its columns are not known.
    """
    names, records = delimited(path, quoted=quoted)
    known = columns(names, path)
    if set(known) - set(known.values()):
        notes.append(told(known))
    listed = []
    for number, cells in records:
        record = dict(zip(names, cells, strict=False))
        one = row(record, known, path.parent)
        if one.audio is None and (path.parent / "clips").is_dir():
            one = row(record, known, path.parent / "clips")
        above = split_above(one.audio, root) if isinstance(one.audio, Path) else None
        one = replace(one, split=one.split or above or split)
        problem, here = one.problem, f"line {number} of {path.name}"
        if len(cells) != len(names):
            problem = f"line has {len(cells)} cells, expected {len(names)}: {here}"
        elif any("\n" in cell.strip() for cell in cells):
            problem = f"line has a cell that goes on in the next: {here}"  # as after a lone quotation mark
        listed.append(replace(one, problem=problem, name=one.name or f"{path.stem}-{number}"))
    return listed


def delimited(path: Path, *, quoted: bool) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the names of a table's columns, and its lines with their numbers; empty lines are passed over.

    Raises:
        CorpusError: it is empty, no UTF-8, or no table.
    """
    text = text_of(path)
    lines = lines_of(text)
    if not text.strip():
        raise CorpusError(f"{path}: the table is empty; expected a first line that names the columns, as path,text.")
    mark = max(",\t;|", key=lambda c: (_known(lines[0], c), c == ("\t" if path.suffix.lower() == ".tsv" else ",")))
    csv.field_size_limit(MOST_CHARACTERS)
    if mark == "\t":
        cells = ([_unquoted(cell) if quoted else cell for cell in line.split(mark)] for line in lines)
        numbered = enumerate(cells, 1)
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
        numbered = ((reader.line_num, cells) for cells in _read(reader, path))
    _, names = next(numbered)
    return names, ((number, cells) for number, cells in numbered if any(cell.strip() for cell in cells))


def text_of(path: Path) -> str:
    """Return a file of UTF-8, with or without a byte order mark.

    Raises:
        CorpusError: it is something else.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 ({error}); save it as UTF-8.") from error


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, which other signs than a line's end do not part (``str.splitlines`` knows ten)."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _known(line: str, mark: str) -> int:
    names = {name for some in NAMES.values() for name in some}
    return sum("_".join(cell.strip('\ufeff" \r\n').lower().split()) in names for cell in line.split(mark))


def _unquoted(cell: str) -> str:
    """Take off quotation marks that a program has put round a cell; those that are said have no partner inside."""
    inner = cell[1:-1]
    wrapped = len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if wrapped else cell


def _read(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise CorpusError(
            f"{path}, line {reader.line_num}: not readable as CSV ({error}); put quotation marks round cells that hold "
            "some, each of them doubled, as programs that write CSV do."
        ) from error


LAYOUT = Layout("table of paths and texts", found, rows)
