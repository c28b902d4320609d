"""Tables of results as parquet files, which pandas and ``datasets`` read as they are.

A column holds numbers, words, or lists of words; what is nested deeper, such as parameters, is JSON text. Tables of one
kind have the same columns of the same types in every experiment, so that all of them can be read as one.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from speechmerge.errors import StudyError
from speechmerge.files import atomic_file

AS_JSON = {b"json": b"1"}  # mark of a column whose text is JSON
NUMBERS = ("wer", "cer", "bleu", "chrf", "wide_low", "wide_high", "z", "mapsswe_p")
COUNTS = ("substitutions", "deletions", "insertions", "segments")
# Types of columns in which an experiment need not have a value; others without one are text.
EMPTY = dict.fromkeys(NUMBERS, pa.float64()) | dict.fromkeys(COUNTS, pa.int64()) | {"experts": pa.list_(pa.string())}
ALSO = {"comparisons": ("segments", "z", "mapsswe_p")}  # columns of a kind of table that some experiments do not fill


def read(path: Path, columns: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a table, whole or those of these columns that it has; none if there is no file.

    Raises:
        StudyError: the file is damaged.
    """
    if not path.is_file():
        return []
    with _intact(path):
        known = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in known if columns is None or name in columns])
        rows = table.to_pylist()
        for name in (field.name for field in table.schema if field.metadata and b"json" in field.metadata):
            for row in rows:
                row[name] = None if row[name] is None else json.loads(row[name])
    return rows


def count(path: Path) -> int:
    """Return how many rows a table has, of which none is read; none if there is no file.

    Raises:
        StudyError: the file is damaged.
    """
    if not path.is_file():
        return 0
    with _intact(path):
        return pq.read_metadata(path).num_rows


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read what to do."""
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        why = str(error).partition("\n")[0]
        raise StudyError(
            f"{path} is damaged ({why}); restore the committed file, or delete it and run again."
        ) from error


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a table whole or not at all; columns stand in the order in which rows name them first.

    A table without rows is no file.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    names = dict.fromkeys([*(name for row in rows for name in row), *ALSO.get(path.stem, ())])
    arrays, fields = [], []
    for name, values in {name: [row.get(name) for row in rows] for name in names}.items():
        nested = any(isinstance(value, dict) or _deep(value) for value in values)
        if nested:
            values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        empty = all(value is None or value == [] for value in values)
        arrays.append(pa.array(values, EMPTY.get(name, pa.string()) if empty else None))
        fields.append(pa.field(name, arrays[-1].type, metadata=AS_JSON if nested else None))
    with atomic_file(path) as file:
        pq.write_table(pa.Table.from_arrays(arrays, schema=pa.schema(fields)), file, compression="zstd")


def _deep(value: object) -> bool:
    """Whether a value is a list of anything but words."""
    return isinstance(value, list) and not all(isinstance(one, str) for one in value)
