"""Sounds in folders, and nothing that says what is said: enough for labels that are the names of folders."""

from pathlib import Path

from .rows import Layout, Listing, Row, sound, sounds, split_above


def found(path: Path) -> bool:
    """Tell whether there are sounds in a folder or below it."""
    return path.is_dir() and bool(sounds(path))


def rows(path: Path) -> Listing:
    """Return a row for each sound, without a text; a folder named ``train``, ``dev`` or ``test`` tells its split."""
    return Listing([_row(file, path) for file in sounds(path)])


def _row(file: Path, root: Path) -> Row:
    audio, name, problem = sound(file.relative_to(root), root)
    return Row(audio=audio, text=None, name=name, split=split_above(file, root), problem=problem)


LAYOUT = Layout("folders of sounds", found, rows)
