"""Corpora published as parquet files with audio inside, as data sets on the Hugging Face hub are.

Files lie as ``REPOSITORY/CONFIG/SPLIT-00000-of-00008.parquet`` or ``REPOSITORY/CONFIG/SPLIT/0000.parquet``, on the
hub or, in the same layout, in the folder that the environment variable ``SPEECHMERGE_DATASETS`` names.
"""

import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from huggingface_hub import snapshot_download

from .. import hub
from ..errors import CorpusError, SourceError
from .base import SPLITS, Corpus, Item, transcript_key

FOLDER = "SPEECHMERGE_DATASETS"  # environment variable: a folder that holds data sets by their name on the hub
RENAMED = "SPEECHMERGE_COLUMNS"  # environment variable: "camoes.text=transcript camoes.speaker=", see columns()
NEEDED = ("audio", "text")
OPTIONAL = ("translation", "speaker", "domain")
SEED = 2502  # of the draw
MEAN_SECONDS = (
    2.0  # rows of a draw are read in portions that should reach its hours at once: CoVoST has 4 to 7 s a clip
)


@dataclass(frozen=True)
class Dataset:
    """Where a corpus lies and how its columns are called.

    Attributes:
        name: of the corpus.
        repository: name on the hub.
        configs: ``configs(language)`` gives the folders inside the repository; ``""`` is the repository itself.
        columns: their column for each of ``audio, text`` and, where there are such, ``translation, speaker, domain``.
        splits: their name of each split; a split may be missing.
        revision: branch on the hub, where it is not the main one.
        hours: ``hours(language)`` gives how much speech to draw of a split; a split without a number is taken whole.
    """

    name: str
    repository: str
    configs: Callable[[str], list[str]]
    columns: Mapping[str, str]
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"})
    revision: str | None = None
    hours: Callable[[str], Mapping[str, float]] = lambda language: {}


def corpus(dataset: Dataset, **description: Any) -> Corpus:
    """Return the declaration of a corpus that is a data set; ``description`` holds the other fields of a corpus."""
    return Corpus(
        name=dataset.name,
        items=lambda language, folders: items(dataset, language),
        hub=dataset.repository,
        settings=lambda: [columns(dataset)],
        **description,
    )


def columns(dataset: Dataset) -> dict[str, str]:
    """Return the data set's columns by field, with what ``SPEECHMERGE_COLUMNS`` changes for this corpus.

    The variable holds entries ``CORPUS.FIELD=COLUMN`` separated by spaces; an empty column drops an optional field.

    Raises:
        CorpusError: an entry has another form or names an unknown field.
    """
    mapped = dict(dataset.columns)
    for entry in os.environ.get(RENAMED, "").split():
        where, equals, column = entry.partition("=")
        corpus, dot, name = where.partition(".")
        if not equals or not dot or name not in (*NEEDED, *OPTIONAL):
            raise CorpusError(
                f"{RENAMED}: found {entry!r}, expected CORPUS.FIELD=COLUMN with one of the fields "
                f"{', '.join((*NEEDED, *OPTIONAL))}."
            )
        if corpus == dataset.name:
            mapped[name] = column
    return {name: column for name, column in mapped.items() if column}


def folder_of(dataset: Dataset, config: str, split: str) -> Path:
    """Return the folder of a configuration with the files of a split: local, or downloaded if no folder is set.

    Raises:
        SourceError: it is not there, the hub does not answer, or the download fails.
    """
    local = os.environ.get(FOLDER)
    if local:
        folder = Path(local).expanduser() / dataset.repository / config
        if not folder.is_dir():
            raise SourceError(
                f"{folder} does not exist; {FOLDER} is {local!r}, which must hold the parquet files of "
                f"{dataset.repository} in folders as on the hub."
            )
        return folder
    if not hub.reachable(dataset.repository, "README.md", kind="dataset"):
        raise SourceError(
            f"corpus {dataset.name!r} is the data set {dataset.repository} on the Hugging Face hub, which does not "
            f"answer; set {FOLDER} to a folder that holds {dataset.repository}/{config or '*.parquet'}, or use the "
            "'speech' profile, whose corpora come as Debian packages."
        )
    pattern = f"{config}/*{split}*.parquet" if config else f"*{split}*.parquet"
    wanted = {"repo_type": "dataset", "revision": dataset.revision, "allow_patterns": [pattern]}
    try:
        return Path(snapshot_download(dataset.repository, **wanted)) / config
    except Exception as error:  # the client's own kinds of transport error, which depend on its version
        raise SourceError(
            f"{dataset.repository}: the download of {pattern} failed ({error}); try again, or accept the data set's "
            "conditions on the hub if it asks for that."
        ) from error


def split_files(folder: Path, split: str) -> list[Path]:
    """Return the parquet files of a split below ``folder``, in order of name."""
    files = sorted(folder.rglob("*.parquet"))
    # such as train-00000-of-00002, fleurs-test, test.clean-00000-of-00001
    named = re.compile(rf"(^|-){re.escape(split)}([-.]|$)")
    found = [path for path in files if named.search(path.stem) or named.match(path.parent.name)]
    if not found:
        raise CorpusError(
            f"{folder}: no parquet file of split {split!r}; found {', '.join(f.name for f in files[:4]) or 'none'}, "
            f"expected {split}-00000-of-00001.parquet or {split}/0000.parquet."
        )
    return found


def opened(path: Path) -> pq.ParquetFile:
    """Open a parquet file, or say which one is damaged."""
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path}: not readable as parquet ({error}); download it again.") from error


def rows(files: list[Path], wanted: Mapping[str, str], chosen: set[int] | None) -> Iterator[tuple[int, dict]]:
    """Yield number and fields of the chosen rows (``None``: all), counted over all files.

    Raises:
        CorpusError: a file lacks a column or is damaged.
    """
    number = 0
    for path in files:
        file = opened(path)
        missing = sorted(set(wanted.values()) - set(file.schema_arrow.names))
        if missing:
            raise CorpusError(
                f"{path}: found the columns {', '.join(file.schema_arrow.names)}; expected {', '.join(missing)} "
                f"too. Name the right ones in {RENAMED}, for example CORPUS.text=COLUMN."
            )
        for batch in file.iter_batches(batch_size=128, columns=list(dict.fromkeys(wanted.values()))):
            for index in range(batch.num_rows):
                if chosen is None or number in chosen:
                    yield number, {name: batch.column(column)[index].as_py() for name, column in wanted.items()}
                number += 1


def sound(value: object, where: str) -> bytes:
    """Return the bytes of an audio cell, which is a struct ``{bytes, path}`` or plain bytes."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise CorpusError(f"{where}: the audio column holds no bytes; expected an encoded sound in every row.")
    return data


def draw(files: list[Path], wanted: Mapping[str, str], hours: float) -> Iterator[tuple[int, dict]]:
    """Draw rows at random, always the same, until they hold ``hours`` of speech; all rows if there is less."""
    total = sum(opened(path).metadata.num_rows for path in files)
    order = np.random.default_rng(SEED).permutation(total).tolist()
    chunk, seconds = math.ceil(3600 * hours / MEAN_SECONDS), 0.0
    for start in range(0, total, chunk):
        part = order[start : start + chunk]
        found = dict(rows(files, wanted, set(part)))
        for number in part:
            if seconds >= 3600 * hours:
                return
            data = sound(found[number]["audio"], f"{files[0].parent}, row {number}")
            seconds += soundfile.info(io.BytesIO(data)).duration
            yield number, found[number]


def items(dataset: Dataset, language: str) -> Iterator[Item]:
    """Yield the drawn clips of a language; a sentence of test stands in no other split, one of dev not in train."""
    wanted, hours = columns(dataset), dataset.hours(language)
    taken: dict[str, str] = {}
    for split in reversed([name for name in SPLITS if name in dataset.splits]):
        theirs = dataset.splits[split]
        for config in dataset.configs(language):
            files = split_files(folder_of(dataset, config, theirs), theirs)
            drawn = draw(files, wanted, hours[split]) if split in hours else rows(files, wanted, None)
            for number, row in drawn:
                name = "/".join(part for part in (config, f"{theirs}-{number:07d}") if part)
                text = " ".join((row["text"] or "").split())
                own = taken.setdefault(transcript_key(text), split)
                yield Item(
                    id=name,
                    audio=sound(row["audio"], f"{dataset.repository} {name}"),
                    text=text,
                    translation=row.get("translation") or None,
                    domain=str(row.get("domain") or config or dataset.name),
                    speaker=str(row.get("speaker") or "unknown"),
                    split=split,
                    drop=None if own == split else "sentence of another split",
                )
