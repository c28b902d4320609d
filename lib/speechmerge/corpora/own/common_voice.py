"""Common Voice: ``train.tsv``, ``dev.tsv``, ``test.tsv`` or else ``validated.tsv``, and the folder ``clips``."""

from pathlib import Path

from .rows import Layout, Listing
from .table import table

SPLITS = ("train", "dev", "test")


def found(path: Path) -> bool:
    """Tell whether a folder has clips and one of the tables."""
    return (path / "clips").is_dir() and any((path / f"{name}.tsv").is_file() for name in (*SPLITS, "validated"))


def rows(path: Path) -> Listing:
    """Read the three splits, or all validated clips where there are none; other tables are told."""
    given = [name for name in SPLITS if (path / f"{name}.tsv").is_file()]
    notes: list[str] = []
    listed = []
    for name in given or ["validated"]:
        listed += table(path / f"{name}.tsv", path, notes, split=name if given else None, quoted=False)
    others = sorted(file.name for file in path.glob("*.tsv") if file.stem not in (given or ["validated"]))
    if others:
        notes.append(f"not read: {', '.join(others)}")
    return Listing(listed, list(dict.fromkeys(notes)))


LAYOUT = Layout("Common Voice", found, rows)
