"""What every layout yields, and the words by which people name columns and splits."""

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import CorpusError

# The first name that a table has is taken; columns are compared in lower case, with _ for spaces.
NAMES = {
    "audio": (
        *("audio", "path", "file_name", "filename", "file", "audio_filepath", "audio_path", "audio_file"),
        *("filepath", "file_path", "wav", "wav_path", "wav_filename", "clip"),
    ),
    "text": (
        *("text", "sentence", "transcription", "transcript", "raw_transcription", "raw_text", "normalized_text"),
        "transcripts",
    ),
    "translation": ("translation", "english", "translation_en", "text_en", "en"),
    "language": ("language", "locale", "lang", "language_code", "lang_code"),
    "speaker": ("speaker", "speaker_id", "client_id", "spk", "speaker_name", "voice", "reader"),
    "split": ("split", "subset", "partition"),
    "id": ("id", "utt_id", "utterance_id", "segment_id", "utt", "key", "uid"),
    "start": ("offset",),
    "seconds": ("duration",),  # only beside an offset: alone it is that of the whole file
}
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "development", "valid", "validation", "val"), "dev"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
NO_TEXT = (list, dict, bytes, bool)
SOUNDS = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm", ".aiff", ".sph", ".g722", ".wma"}
DEPTH = 4  # folders below the one that is named in which files are looked for


@dataclass(frozen=True)
class Row:
    """One line of a source, before anything is decoded.

    Attributes:
        audio: a file, an encoded sound, or ``None`` where there is neither.
        text: as the source writes it; ``None`` where nobody has written it down.
        name: what the clip is called where the source gives no id.
        id: the source's own id.
        language: as the source names it; empty where it does not.
        translation: in English.
        speaker: as in a clip.
        split: ``"train"``, ``"dev"``, ``"test"`` or ``None``.
        start: second at which the clip begins within the audio.
        seconds: how long it is; ``None`` goes to the end.
        problem: why the row cannot be used.
    """

    audio: Path | bytes | None
    text: str | None
    name: str
    id: str = ""
    language: str = ""
    translation: str = ""
    speaker: str = ""
    split: str | None = None
    start: float = 0.0
    seconds: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Listing:
    """The rows of a source, what a reader of them should know, and the files besides that they depend on."""

    rows: Iterable[Row]
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """One way in which speech is laid out.

    Attributes:
        title: for people.
        found: whether a file or folder has this layout, told from names alone.
        rows: what it holds.
    """

    title: str
    found: Callable[[Path], bool]
    rows: Callable[[Path], Listing]


def below(folder: Path, *patterns: str) -> list[Path]:
    """Return the files of a folder and of those below it that match, in order of path; hidden ones are passed over."""
    found = {path for level in range(DEPTH + 1) for one in patterns for path in folder.glob("*/" * level + one)}
    return sorted(p for p in found if p.is_file() and not any(x.startswith(".") for x in p.relative_to(folder).parts))


def named(path: Path) -> list[Path]:
    """Return the file that was named, or the files of a folder and of those below it."""
    return [path] if path.is_file() else below(path, "*")


def sounds(folder: Path) -> list[Path]:
    """Return the sounds of a folder and of those below it."""
    return [file for file in below(folder, "*") if file.suffix.lower() in SOUNDS]


def columns(names: Iterable[str], where: object) -> dict[str, str]:
    """Return the column of each field that is there.

    Raises:
        CorpusError: none of the columns holds the audio, or none the text.
    """
    known: dict[str, str] = {}
    for name in names:
        known.setdefault("_".join(str(name).strip().strip("\ufeff").lower().split()), name)
    found = {field: known[one] for field, some in NAMES.items() for one in reversed(some) if one in known}
    if "start" not in found:
        found.pop("seconds", None)
    missing = [field for field in ("audio", "text") if field not in found]
    if missing:
        told = " and ".join(f"one for the {field} ({', '.join(NAMES[field][:6])})" for field in missing)
        raise CorpusError(
            f"{where}: found the columns {', '.join(map(str, names)) or 'none'}; expected {told}, so rename them or "
            "add a first line that names them."
        )
    return found


def told(found: Mapping[str, str]) -> str:
    """Say which column is read as what."""
    return "columns: " + ", ".join(f"{field} from {name}" for field, name in found.items() if field != name)


def split_of(name: str) -> str | None:
    """Return the split that a file or folder is named after (``train-00000-of-00002``, ``manifest_dev``), if any."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in (words[:1] + words[-1:]) if word in SPLIT_NAMES), None)


def split_above(path: Path, root: Path) -> str | None:
    """Return the split after which a folder between a file and ``root`` is named, if any."""
    inside = path.parent.relative_to(root).parts if path.is_relative_to(root) else ()
    return next((split for part in inside if (split := split_of(part))), None)


def row(record: Mapping[str, object], found: Mapping[str, str], folder: Path | None, **known: str | None) -> Row:
    """Make a row of one line of a table.

    Args:
        record: values by column.
        found: column of each field.
        folder: where relative paths start, which must stay below it.
        known: fields that the place of the table tells; a column that is filled goes before.
    """
    values = {field: record.get(column) for field, column in found.items()}
    audio, name, problem = sound(values.pop("audio"), folder)
    values = {field: _plain(value) for field, value in values.items()}
    odd = [f"{field} is no text: {value}" for field, value in values.items() if isinstance(value, NO_TEXT)]
    text = {field: " ".join(str(value).split()) for field, value in values.items() if value is not None}
    start, seconds, wrong = _cut(text.pop("start", ""), text.pop("seconds", ""))
    place = known.pop("split", None)
    split = split_of(text.pop("split", "")) or place
    if start is not None:
        name += f"@{start:.2f}"
    fields = known | {field: value for field, value in text.items() if value}
    return Row(
        **{"audio": audio, "name": name, "text": "", "split": split, "start": start or 0.0, "seconds": seconds}
        | fields
        | {"problem": problem or wrong or (odd[0] if odd else None)}
    )


def _plain(value: object) -> object:
    """Return a cell as it was meant: "not a number" where a value is missing, 7.0 for 7 in a column of floats."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else int(value) if value.is_integer() else value


def _cut(start: str, seconds: str) -> tuple[float | None, float | None, str | None]:
    """Return where a clip begins and how long it is; a length without a beginning is that of the whole file."""
    if not start:
        return None, None, None
    try:
        begin, length = float(start), float(seconds) if seconds else None
    except ValueError:
        return None, None, f"beginning or length is no number: {start}, {seconds or 'none'}"
    if not begin >= 0 or (length is not None and not length > 0):
        return None, None, f"beginning or length cannot be: {start}, {seconds or 'none'}"
    return begin, length, None


def sound(value: object, folder: Path | None) -> tuple[Path | bytes | None, str, str | None]:
    """Return the audio of a cell, its name, and what is wrong with it: a path, bytes, or ``{bytes, path}`` of both."""
    data = value.get("bytes") if isinstance(value, Mapping) else value if isinstance(value, bytes) else None
    path = value.get("path") if isinstance(value, Mapping) else value if isinstance(value, str | Path) else None
    if data:
        return data, _label(Path(path)) if path else "", None
    if not path or not str(path).strip():
        return None, "", "no audio named"
    path = Path(os.path.expanduser(str(path).strip()))
    full = path if path.is_absolute() or folder is None else Path(os.path.normpath(folder / path))
    name = full.relative_to(folder) if folder and full.is_relative_to(folder) else path
    label = _label(name)
    if not path.is_absolute() and (folder is None or not full.is_relative_to(folder)):
        return None, label, f"path leaves the folder: {path}"
    if there := next((p for p in _spellings(full) if os.path.isfile(p)), None):
        return there, label, None
    hint = "; write / between folders" if "\\" in str(name) else ""
    return None, label, f"audio file is missing: {name}{hint}"


def _spellings(path: Path) -> list[Path]:
    """Return a path as it is, and with its accents as letters of their own or not: systems store names differently."""
    return [path, *(Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))]


def _label(path: Path) -> str:
    """Return what a clip is called after its file: the path without the ending of a sound."""
    return (path.with_suffix("") if path.suffix.lower() in SOUNDS else path).as_posix().lstrip("/")
