"""Hugging Face's audiofolder: sounds and ``metadata.csv`` or ``.jsonl``, also one for each split."""

from pathlib import Path

from . import manifest, table
from .rows import Layout, Listing, named, sounds, split_above

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")


def found(path: Path) -> bool:
    """Tell whether a folder, or one below it, holds metadata; or whether this is the metadata itself."""
    return bool(_metadata(path))


def _metadata(path: Path) -> list[Path]:
    return [file for file in named(path) if file.name.lower() in METADATA]


def rows(path: Path) -> Listing:
    """Read all metadata; sounds that none of them names are told."""
    root = path.parent if path.is_file() else path
    listed, notes = [], []
    for file in _metadata(path):
        read = manifest.lines if file.suffix.lower() == ".jsonl" else table.table
        listed += read(file, root, notes, split=split_above(file, root))
    told = {one.audio for one in listed}
    strange = [file for file in sounds(root) if file not in told]
    if strange:
        notes.append(f"{len(strange)} sounds have no row in the metadata (first: {strange[0].relative_to(root)})")
    return Listing(listed, list(dict.fromkeys(notes)))


LAYOUT = Layout("audio folder with metadata", found, rows)
