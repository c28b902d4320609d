"""Where results live: a folder for each experiment of a profile, with its rows, comparisons, choices and transcripts.

``results/PROFILE/EXPERIMENT/KIND.parquet``; a table of another kind than rows is called ``EXPERIMENT.KIND`` here.
"""

import json
import operator
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import pandas as pd

from speechmerge.errors import ScoringError, StudyError, nearest
from speechmerge.evaluation.predictions import Prediction
from speechmerge.files import digest

from . import table_files

ROW_FIELDS = (
    "experiment", "profile", "system", "variant", "method", "params", "experts", "base", "base_fingerprint", "task",
    "language", "domain", "split", "n_utterances", "n_reference_words", "wer", "cer", "bleu", "chrf", "ci_low",
    "ci_high", "substitutions", "deletions", "insertions", "runaway", "normaliser", "signature", "decoding", "training",
    "seed", "corpus_fingerprint", "library", "hardware", "seconds", "merge_seconds", "date",
)  # fmt: skip
STAMP = ("library", "hardware", "date")  # where and when a row was made
IDENTITY = ("experiment", "system", "variant", "task", "language", "domain", "split", "seed")
SPOKEN = ("system", "variant", "task", "cell", "seed")  # what tells one model's transcripts of a cell from others

Spoken = tuple[str, str, str, str, int]


def project_root() -> Path:
    """Return the folder that holds ``experiments/``: ``$SPEECHMERGE_HOME``, or the nearest above here or this file."""
    places = [os.environ.get("SPEECHMERGE_HOME"), Path.cwd(), Path(__file__)]
    for place in (Path(p) for p in places if p):
        for folder in (place, *place.parents):
            if (folder / "experiments" / "profiles.yaml").is_file():
                return folder
    raise StudyError(
        "there is no experiments/profiles.yaml above here; run inside a clone of the book, or set SPEECHMERGE_HOME."
    )


def results_folder(profile: str = "", results: Path | None = None) -> Path:
    """Results of a profile, or of all: below a folder, or the committed ones; ``$SPEECHMERGE_RESULTS`` moves these."""
    return Path(results or os.environ.get("SPEECHMERGE_RESULTS") or project_root() / "results") / profile


def table_path(profile: str, name: str, results: Path | None = None) -> Path:
    """Where a table is: ``EXPERIMENT.KIND``, or ``EXPERIMENT`` alone for statistics that are not about test sets."""
    experiment, _, kind = name.partition(".")
    return results_folder(profile, results) / experiment / f"{kind or 'statistics'}.parquet"


def append_rows(profile: str, rows: Iterable[dict]) -> None:
    """Add rows to those of their experiments; a row of the same identity is replaced.

    A row that says the same as before keeps its old date, machine and library version: nothing was measured anew.

    Raises:
        StudyError: a row lacks a field, has an unknown one, or holds a number that is not finite; nothing is written.
    """
    new = {identity(row): {field: row.get(field) for field in ROW_FIELDS} for row in map(_checked, rows)}
    for experiment, own in groupby(sorted(new.items()), key=lambda pair: pair[0][0]):
        path = table_path(profile, f"{experiment}.rows")
        old = table_files.read(path)
        kept = {identity(row): row for row in old} | dict(own)
        _write(path, [row for _, row in sorted(kept.items())], old)


def _checked(row: dict) -> dict:
    """Return a row that may be stored."""
    if wrong := set(row) ^ set(ROW_FIELDS):
        raise StudyError(
            f"a row of {row.get('experiment')!r} has missing or unknown fields: {', '.join(sorted(wrong))}."
        )
    if bad := [field for field, value in row.items() if not _is_finite(value)]:
        raise StudyError(f"row {identity(row)}: {', '.join(bad)} is not finite; it is not stored.")
    return row


def identity(row: dict) -> tuple[str, ...]:
    """Return what tells a row apart from all others."""
    return tuple(str(row[field]) for field in IDENTITY)


def _is_finite(value: object) -> bool:
    """Whether all numbers in a value are, in lists and dicts too."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _write(path: Path, found: list[dict], old: list[dict]) -> None:
    """Write rows; those that an old row equals in all but its stamp keep the old stamp."""
    known = {_said(row): row for row in old}
    table_files.write(path, [known.get(_said(row), row) for row in found])


def _said(row: dict) -> str:
    """Hash what a row says, whatever its stamp; a field without a value is like one that is not there."""
    told = {field: value for field, value in row.items() if field not in STAMP and value is not None}
    return digest({field: float(v) if type(v) is int else v for field, v in told.items()})


def measured(profile: str, experiment: str, results: Path | None = None) -> list[dict]:
    """Return the committed rows of one experiment; none where it was not measured."""
    return table_files.read(table_path(profile, f"{experiment}.rows", results))


def rows(profile: str, experiment: str) -> pd.DataFrame:
    """Return the committed rows of one experiment, one line a (system, variant, task, language, seed).

    Raises:
        StudyError: there are none; the nearest experiment that has rows is named.
    """
    table = pd.DataFrame(measured(profile, experiment), columns=list(ROW_FIELDS))
    if table.empty:
        known = sorted(path.parent.name for path in results_folder(profile).glob("*/rows.parquet"))
        raise StudyError(
            f"profile {profile!r} has no rows of experiment {experiment!r}.{nearest(experiment, known)} "
            f"Run `speechmerge study run --profile {profile} --experiment {experiment}`."
        )
    return table


def statistics(profile: str, name: str) -> pd.DataFrame:
    """Return a committed table other than rows (:func:`table_path`), e.g. ``task_vectors`` or ``table1.paired``.

    Raises:
        StudyError: it has no rows.
    """
    path, experiment = table_path(profile, name), name.partition(".")[0]
    found = table_files.read(path)
    if not found:
        raise StudyError(
            f"{path} holds no rows; run `speechmerge study run --profile {profile} --experiment {experiment}`."
        )
    return pd.DataFrame(found)


def choices(profile: str, experiment: str) -> dict[str, list[dict]]:
    """Return what was tried on dev by each committed choice of an experiment; nothing where it was not measured."""
    return {row["step"]: row["tried"] for row in lines(profile, f"{experiment}.chosen")}


def lines(profile: str, name: str, columns: Collection[str] | None = None) -> list[dict]:
    """Return the rows of a committed table, of all its columns or some; none where it was not measured."""
    return table_files.read(table_path(profile, name), columns)


def unlike(profile: str, name: str, found: Iterable[dict]) -> list[dict]:
    """Return the rows that the committed table does not hold so, whatever their stamps."""
    known = {_said(row) for row in lines(profile, name)}
    return [row for row in found if _said(row) not in known]


def write_statistics(profile: str, name: str, found: Iterable[dict], *, identity: tuple[str, ...] = ()) -> None:
    """Write a table of statistics; rows that say the same as before keep their old stamp.

    Args:
        profile: whose results.
        name: of the table.
        found: the rows.
        identity: fields that tell rows apart; old rows that no new one replaces are kept, after the new ones. None: all
            are replaced.
    """
    path = table_path(profile, name)
    old = table_files.read(path)
    if identity:
        place, found = operator.itemgetter(*identity), list(found)
        new = {place(row) for row in found}
        found += [row for row in old if place(row) not in new]
    _write(path, list(found), old)


def predictions(profile: str, experiment: str, results: Path | None = None) -> dict[Spoken, list[Prediction]]:
    """Return the transcripts behind an experiment's rows, if there are any; references stay in the corpora."""
    found: dict[Spoken, list[Prediction]] = {}
    for row in table_files.read(table_path(profile, f"{experiment}.predictions", results)):
        place = tuple(row.pop(name) for name in SPOKEN)
        found.setdefault(place, []).append(Prediction(**row))
    return found


def keep_predictions(profile: str, experiment: str, said: Mapping[Spoken, Iterable[Prediction]]) -> None:
    """Add transcripts to those of an experiment; those of the same model and cell are replaced."""
    kept = sorted((predictions(profile, experiment) | dict(said)).items())
    rows = [dict(zip(SPOKEN, place, strict=True)) | asdict(one) for place, own in kept for one in own]
    table_files.write(table_path(profile, f"{experiment}.predictions"), rows)


def spoken(known: Mapping[Spoken, list[Prediction]], place: Spoken, path: Path) -> list[Prediction]:
    """Return one model's transcripts of a cell.

    Raises:
        ScoringError: there are none in the table at ``path``.
    """
    if place not in known:
        told = " ".join(str(word) for word in place if word != "")
        raise ScoringError(f"{path}: there are no transcripts of {told}; run the experiment again.")
    return known[place]


def slug(name: str) -> str:
    """Return a name as it stands in names of files."""
    return re.sub(r"[^a-z0-9+]+", "-", name.lower()).strip("-")
