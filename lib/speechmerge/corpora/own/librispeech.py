"""LibriSpeech's layout: ``SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt`` with a line ``ID TEXT`` for each ``ID.flac``."""

from pathlib import Path

from .rows import SOUNDS, Layout, Listing, Row, below, split_above
from .table import lines_of, text_of


def found(path: Path) -> bool:
    """Tell whether there are transcripts of this name."""
    return path.is_dir() and bool(below(path, "*.trans.txt"))


def rows(path: Path) -> Listing:
    """Read all chapters; folders such as ``dev-clean`` tell the split."""
    listed, untold = [], []
    for file in below(path, "*.trans.txt"):
        sounds = {one.stem: one for one in sorted(file.parent.iterdir()) if one.suffix.lower() in SOUNDS}
        for line in filter(None, map(str.strip, lines_of(text_of(file)))):
            name, _, text = line.partition(" ")
            audio = sounds.pop(name, None)
            problem = None if audio else f"audio file is missing: {file.parent.relative_to(path)}/{name}.flac"
            speaker, split = name.partition("-")[0], split_above(file, path)
            listed.append(Row(audio, text.strip(), name=name, id=name, speaker=speaker, split=split, problem=problem))
        untold += sounds.values()
    notes = [f"{len(untold)} sounds have no transcript (first: {untold[0].relative_to(path)})"] if untold else []
    return Listing(listed, notes)


LAYOUT = Layout("LibriSpeech", found, rows)
