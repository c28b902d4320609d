"""Kaldi's data folder: ``wav.scp``, ``text``, and where they are there ``segments``, ``utt2spk``, ``utt2lang``."""

from pathlib import Path

from ...errors import CorpusError
from .rows import Layout, Listing, Row, below, sound, split_above
from .table import lines_of, text_of


def found(path: Path) -> bool:
    """Tell whether a folder, or one below it, has ``wav.scp`` and ``text``."""
    return path.is_dir() and any((file.parent / "text").is_file() for file in below(path, "wav.scp"))


def rows(path: Path) -> Listing:
    """Read every data folder; one named ``train``, ``dev`` or ``test`` tells the split.

    Raises:
        CorpusError: a recording is given as a shell command, or a line has too few fields.
    """
    folders = [file.parent for file in below(path, "wav.scp") if (file.parent / "text").is_file()]
    return Listing([one for folder in folders for one in _rows(folder, split_above(folder / "text", path))])


def _rows(folder: Path, split: str | None) -> list[Row]:
    """Return an utterance for each line of ``text``, and one that cannot be used for each that has no text."""
    recordings, texts = dict(_pairs(folder / "wav.scp")), _pairs(folder / "text")
    pipes = [name for name, path in recordings.items() if path.endswith("|") or path.startswith("|")]
    if pipes:
        raise CorpusError(
            f"{folder / 'wav.scp'}: {len(pipes)} recordings are shell commands (first: {pipes[0]!r}), which are never "
            "run here; write the sounds to files and name those."
        )
    cuts = _segments(folder / "segments", recordings)
    speakers, languages = dict(_pairs(folder / "utt2spk")), dict(_pairs(folder / "utt2lang"))
    listed = []
    silent = [(name, "") for name in cuts if name not in dict(texts)]
    for name, text in [*texts, *silent]:
        recording, start, seconds = cuts.get(name, ("", 0.0, None))
        audio, _, problem = sound(recordings.get(recording), folder)
        if recording not in recordings:
            problem = f"audio file is missing: {recording or name} is not in wav.scp or segments"
        known = {"id": name, "speaker": speakers.get(name, ""), "language": languages.get(name, ""), "split": split}
        listed.append(Row(audio, text, name=name, start=start, seconds=seconds, problem=problem, **known))
    return listed


def _segments(path: Path, recordings: dict[str, str]) -> dict[str, tuple[str, float, float | None]]:
    """Return recording, beginning and length of each utterance; without ``segments`` a recording is one."""
    if not path.is_file():
        return {name: (name, 0.0, None) for name in recordings}
    cuts = {}
    for name, rest in _pairs(path):
        try:
            recording, start, end = rest.split()[:3]
            cuts[name] = (recording, float(start), float(end) - float(start))
        except ValueError as error:
            raise CorpusError(
                f"{path}: found {name} {rest}; expected UTTERANCE RECORDING START END in seconds."
            ) from error
        if not (cuts[name][1] >= 0 and cuts[name][2] > 0):
            raise CorpusError(
                f"{path}: utterance {name!r} goes from {start} to {end}; expected an end after its start."
            )
    return cuts


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Return the first word of each line and what follows it; nothing if there is no such file."""
    if not path.is_file():
        return []
    parts = (line.split(maxsplit=1) for line in lines_of(text_of(path)) if line.strip())
    return [(words[0], words[1].strip() if len(words) > 1 else "") for words in parts]


LAYOUT = Layout("Kaldi data folder", found, rows)
