"""What ``datasets`` saved with ``save_to_disk``: one data set, or one for each split."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CorpusError
from .rows import Layout, Listing, Row, columns, row, split_of, told

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 64  # rows


def found(path: Path) -> bool:
    """Tell whether a folder holds the files that ``save_to_disk`` leaves."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def rows(path: Path) -> Listing:
    """Read the data set or sets.

    Raises:
        CorpusError: it is damaged.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # of its own, of pyarrow's and of the system's kinds
        told = " ".join(str(error).split())
        raise CorpusError(f"{path}: not readable as a saved data set ({told}); save it again.") from error
    return listing(loaded, path, path)


def listing(loaded: "Mapping[str, Dataset] | Dataset", where: object, folder: Path | None) -> Listing:
    """List the rows of data sets by split, their sounds as they lie in the files."""
    by_split = loaded if isinstance(loaded, dict) else {"": loaded}
    known = {name: columns(part.column_names, where) for name, part in by_split.items()}
    notes = [told(found) for found in known.values() if set(found) - set(found.values())]
    files = [Path(file["filename"]) for part in by_split.values() for file in part.cache_files]
    return Listing(_rows(by_split, known, folder), list(dict.fromkeys(notes)), files)


def _rows(
    by_split: "Mapping[str, Dataset]", known: Mapping[str, Mapping[str, str]], folder: Path | None
) -> Iterator[Row]:
    from datasets import Audio, ClassLabel

    for name, part in by_split.items():
        found = known[name]
        part = part.select_columns(list(dict.fromkeys(found.values())))
        if isinstance(part.features[found["audio"]], Audio):
            part = part.cast_column(found["audio"], Audio(decode=False))
        labels = {name: kind.names for name, kind in part.features.items() if isinstance(kind, ClassLabel)}
        for batch in part.iter(BATCH):
            for values in zip(*batch.values(), strict=True):
                record = dict(zip(batch, values, strict=True))
                record |= {name: some[record[name]] for name, some in labels.items() if record[name] is not None}
                yield row(record, found, folder, split=split_of(name))


LAYOUT = Layout("saved data set", found, rows)
