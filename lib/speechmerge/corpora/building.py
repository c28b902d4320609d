"""From the items of a corpus to stored clips: decode, filter, drop repeats, split, write, read.

What is dropped is counted by reason and kept beside the clips, so that the data cards can tell.
"""

import ast
import functools
import hashlib
import json
import logging
import os
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ..audio import SAMPLE_RATE, decode, encode_flac
from ..errors import CorpusError
from ..files import atomic_folder, digest
from ..packages import cache_folder, debian_packages
from .base import (
    LONGEST,
    SHORTEST,
    Clip,
    Corpus,
    Item,
    assign_split,
    check,
    fingerprint,
    transcript_key,
)

log = logging.getLogger(__name__)

SILENT = 0.01  # full scale is 1; a recording that never gets above this holds no speech
CONSENT = "SPEECHMERGE_ACCEPT_NONCOMMERCIAL"  # environment variable; "1" accepts licences for non-commercial use
ROW_GROUP = 256  # clips
OTHER_SPLIT = "words of a clip of another split"  # reason for leaving a clip out
MUCH_MORE = 20  # characters; see _faithful
COLUMNS = pa.schema(
    [("audio", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    + [(name, pa.string()) for name in ("id", "text", "translation", "language", "domain", "speaker")]
    + [("seconds", pa.float64()), *((name, pa.string()) for name in ("split", "source", "licence"))]
)


def build(corpus: Corpus, language: str) -> tuple[list[Clip], dict[str, int]]:
    """Make the clips of one language of a corpus from its packages.

    Returns:
        The clips in order of id, and the number of recordings dropped for each reason.

    Raises:
        CorpusError: two recordings share an id, or an audio file is missing, empty or damaged.
        SourceError: a package cannot be had.
    """
    folders = debian_packages(corpus.packages(language))
    times: Counter[str] = Counter()
    drawn: set[str] = set()  # ids whose split is not the source's own
    dropped: Counter[str] = Counter()
    heard: dict[str, list[Clip]] = defaultdict(list)
    for item in tqdm(corpus.items(language, folders), desc=f"build {corpus.name} {language}", unit="clip", leave=False):
        times[item.id] += 1
        if item.split is None:
            drawn.add(item.id)
        reason = item.drop or text_problem(item.text)
        if reason is None:
            samples = item.audio if isinstance(item.audio, np.ndarray) else decode(item.audio)
            reason = audio_problem(samples, item.text, corpus.characters_per_second.get(language))
        if reason is None:
            heard[hashlib.sha256(samples.tobytes()).hexdigest()].append(_clip(corpus, language, item, samples))
        else:
            dropped[reason] += 1
    repeated = sorted(name for name, count in times.items() if count > 1)
    if repeated:
        raise CorpusError(
            f"corpus {corpus.name!r}, language {language!r}: {len(repeated)} ids stand for more than one recording "
            f"(first: {repeated[0]!r}); ids must be unique, so correct the join in corpora/{corpus.name}.py."
        )
    clips = []
    for same in heard.values():
        if len({transcript_key(clip.text) for clip in same}) > 1:
            dropped["one recording under several texts"] += len(same)
        else:
            dropped["repeated recording"] += len(same) - 1
            clips.append(min(same, key=lambda clip: clip.id))
    clips, dropped[OTHER_SPLIT] = _of_one_split(sorted(clips, key=lambda clip: clip.id), drawn)
    check(clips)
    return clips, {reason: count for reason, count in sorted(dropped.items()) if count}


def _of_one_split(clips: list[Clip], drawn: set[str]) -> tuple[list[Clip], int]:
    """Leave out clips that say the words of an earlier one but, translated otherwise, were drawn into another split."""
    splits: dict[str, str] = {}
    first = [splits.setdefault(transcript_key(clip.text), clip.split) for clip in clips]
    kept = [clip for clip, split in zip(clips, first, strict=True) if clip.split == split or clip.id not in drawn]
    return kept, len(clips) - len(kept)


def _clip(corpus: Corpus, language: str, item: Item, samples: np.ndarray) -> Clip:
    """Make a clip of an item that passed the filters."""
    return Clip(
        id=item.id,
        flac=encode_flac(samples),
        text=item.text,
        translation=item.translation if language != "en" and _faithful(item) else None,
        language=language,
        domain=item.domain,
        speaker=item.speaker,
        seconds=round(len(samples) / SAMPLE_RATE, 3),
        split=item.split or assign_split(item.text, language, english=item.translation),
        source=corpus.name,
        licence=corpus.licences[language],
    )


def text_problem(text: str) -> str | None:
    """Say why a text is not a transcript, or return ``None``."""
    if not re.search(r"\w", text):
        return "no transcript"
    if re.search(r"[\[\]()<>{}]", text):
        return "text in brackets"
    if re.search(r"[*#=@|\\]", text):
        return "symbol that is read as a word"
    if "\ufffd" in text or re.search(r"\w\?\w", text):
        return "damaged characters"
    return None


def audio_problem(samples: np.ndarray, text: str, limits: tuple[float, float] | None) -> str | None:
    """Say why a recording (float32, shape ``[n]``, 16 kHz) is not kept, or return ``None``."""
    seconds = len(samples) / SAMPLE_RATE
    if seconds < SHORTEST:
        return f"shorter than {SHORTEST} s"
    if seconds > LONGEST:
        return f"longer than {LONGEST:g} s"
    if np.abs(samples).max() < SILENT:
        return "silent"
    if limits and not limits[0] <= len(text) / seconds <= limits[1]:
        return "too fast or too slow for its text"
    return None


def _faithful(item: Item) -> bool:
    """Tell whether the English text may be the translation: same order of length, nothing in brackets."""
    if not item.translation or text_problem(item.translation):
        return False
    short, long = sorted((len(item.text), len(item.translation)))
    return long - short <= MUCH_MORE or long <= 2 * short


def skipped(corpus: Corpus) -> str | None:
    """Say why a corpus is only fetched when asked for by name, or return ``None``."""
    if corpus.hub:
        return f"it is the data set {corpus.hub} on the Hugging Face hub and large"
    built = all((folder_of(corpus, language) / "about.json").is_file() for language in corpus.languages)
    if corpus.noncommercial and not built and not noncommercial_accepted():
        return f"its licence ({', '.join(dict.fromkeys(corpus.licences.values()))}) allows no commercial use"
    return None


def noncommercial_accepted() -> bool:
    """Tell whether the environment accepts licences that forbid commercial use."""
    return os.environ.get(CONSENT) == "1"


def folder_of(corpus: Corpus, language: str) -> Path:
    """Return where a language of a corpus is cached."""
    return cache_folder() / "corpora" / corpus.name / language


def _clips_of(corpus: Corpus, language: str) -> Path:
    return folder_of(corpus, language) / "clips.parquet"


def code(corpus: Corpus) -> list[str]:
    """Return hashes of the code that decides the clips: after any change of it, the cached corpus is built again.

    That is this file, the file of the corpus, what the two import from this folder, and the reading of audio; another
    corpus, or whatever else this folder holds, decides nothing here.
    """
    here = Path(__file__).parent
    module = sys.modules.get(corpus.items.__module__)  # a corpus of the hub has its items from parquet.py
    own = [here / f"{corpus.name}.py", Path(getattr(module, "__file__", None) or __file__)]
    return hashes((Path(__file__), *(path for path in own if path.is_file())))


@functools.cache
def hashes(files: tuple[Path, ...]) -> list[str]:
    """Return the SHA-256 of ``audio.py``, of these files and of all they import from their own folders."""
    waiting, found = list(files), {Path(__file__).parent.with_name("audio.py")}
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path)
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)]


def _imported(path: Path) -> list[Path]:
    """Return the modules that a module imports from its own folder (``from . import x``, ``from .x import y``)."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            names += [node.module] if node.module else [alias.name for alias in node.names]
    return [file for name in names if (file := path.with_name(f"{name}.py")).is_file()]


def stored(corpus: Corpus, language: str, *, accept_noncommercial: bool = False) -> dict:
    """Return what is kept beside the clips (``clips``, ``dropped``, ``fingerprint``), building them first if needed.

    Raises:
        CorpusError: the corpus is for non-commercial use, is not built yet, and that was not accepted.
    """
    folder = folder_of(corpus, language)
    recipe = digest([code(corpus), corpus.version, corpus.settings()])
    about = folder / "about.json"
    if about.is_file():
        found = json.loads(about.read_text(encoding="utf-8"))
        if found["recipe"] == recipe:
            return found
        log.info("%s %s was built by another version; it is built again", corpus.name, language)
    if corpus.noncommercial and not (accept_noncommercial or noncommercial_accepted()):
        raise CorpusError(
            f"corpus {corpus.name!r} is licensed for non-commercial use only ({corpus.licences[language]}): its "
            "recordings may be used and passed on free of charge, with credit and under the same licence. If that "
            f"suits your use, run `speechmerge fetch corpora {corpus.name} --accept-noncommercial` once, or set "
            f"{CONSENT}=1 (in Python: accept_noncommercial=True)."
        )
    clips, dropped = build(corpus, language)
    found = {"recipe": recipe, "fingerprint": fingerprint(clips), "clips": len(clips), "dropped": dropped}
    with atomic_folder(folder, overwrite=True) as temporary:
        _write(clips, temporary / "clips.parquet")
        (temporary / about.name).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return found


def _write(clips: list[Clip], path: Path) -> None:
    """Write clips in row groups, so that a part of a large corpus is read without the rest."""
    with pq.ParquetWriter(path, COLUMNS, compression="none") as file:
        for start in range(0, len(clips), ROW_GROUP):
            rows = []
            for clip in clips[start : start + ROW_GROUP]:
                rows.append({name: getattr(clip, name) for name in COLUMNS.names if name != "audio"})
                rows[-1]["audio"] = {"bytes": clip.flac, "path": f"{clip.id}.flac"}
            file.write_table(pa.Table.from_pylist(rows, schema=COLUMNS))


def domains(corpus: Corpus, language: str, *, accept_noncommercial: bool = False) -> list[str]:
    """Return the domains that can be loaded apart: those declared, or else all that the stored clips name.

    Raises:
        CorpusError, SourceError: as :func:`stored`.
    """
    if corpus.domains:
        return list(corpus.domains)
    stored(corpus, language, accept_noncommercial=accept_noncommercial)
    return sorted(set(pq.read_table(_clips_of(corpus, language), columns=["domain"])["domain"].to_pylist()))


def read(corpus: Corpus, language: str, *, domain: str | None = None, accept_noncommercial: bool = False) -> list[Clip]:
    """Load the stored clips of one language in order of id, building them on first use.

    Args:
        corpus: the declaration.
        language: Whisper's code.
        domain: only the clips of this domain.
        accept_noncommercial: as in :func:`stored`.

    Raises:
        CorpusError: the stored file is damaged or does not hold what was built.
        SourceError: the packages cannot be had.
    """
    about = stored(corpus, language, accept_noncommercial=accept_noncommercial)
    path = _clips_of(corpus, language)
    again = f"delete {path.parent} and fetch the corpus again"
    try:
        found = pq.ParquetFile(path).metadata.num_rows
        rows = pq.read_table(path, filters=[("domain", "==", domain)] if domain else None).to_pylist()
        clips = [Clip(flac=row.pop("audio")["bytes"], **row) for row in rows]
    except (OSError, pa.ArrowException, TypeError, KeyError) as error:
        raise CorpusError(f"{path}: not readable as clips ({error}); {again}.") from error
    if found != about["clips"]:
        raise CorpusError(f"{path}: holds {found} clips, expected {about['clips']}; {again}.")
    return clips
