"""Where results live: committed rows, statistics and predictions in the repository."""

import json
import operator
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from speechmerge.errors import StudyError, nearest
from speechmerge.files import atomic_file, digest

ROW_FIELDS = (
    "experiment", "profile", "system", "variant", "method", "params", "experts", "base", "base_fingerprint", "task",
    "language", "domain", "split", "n_utterances", "n_reference_words", "wer", "cer", "bleu", "chrf", "ci_low",
    "ci_high", "substitutions", "deletions", "insertions", "runaway", "normaliser", "signature", "decoding", "training",
    "seed", "corpus_fingerprint", "library", "hardware", "seconds", "merge_seconds", "date",
)  # fmt: skip
STAMP = ("library", "hardware", "date")  # where and when a row was made
IDENTITY = ("experiment", "system", "variant", "task", "language", "domain", "split", "seed")


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


def results_folder(profile: str, results: Path | None = None) -> Path:
    """Results of a profile: below a folder, or the committed ones; ``$SPEECHMERGE_RESULTS`` moves these."""
    return Path(results or os.environ.get("SPEECHMERGE_RESULTS") or project_root() / "results") / profile


def append_rows(profile: str, rows: Iterable[dict]) -> None:
    """Add rows to ``rows.jsonl``; a row of the same identity is replaced, so that a repeated run changes nothing else.

    A row that says the same as before keeps its old date, machine and library version: nothing was measured anew.

    Raises:
        StudyError: a row lacks a field, has an unknown one, or holds a number that is not finite.
    """
    path, old = results_folder(profile) / "rows.jsonl", committed(profile)
    kept = {identity(row): row for row in old}
    for row in rows:
        wrong = set(row) ^ set(ROW_FIELDS)
        if wrong:
            raise StudyError(
                f"a row of {row.get('experiment')!r} has missing or unknown fields: {', '.join(sorted(wrong))}."
            )
        bad = [field for field, value in row.items() if not _is_finite(value)]
        if bad:
            raise StudyError(f"row {identity(row)}: {', '.join(bad)} is not finite; it is not stored.")
        kept[identity(row)] = {field: row[field] for field in ROW_FIELDS}
    _write(path, [row for _, row in sorted(kept.items())], old)


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


def _read(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text().split("\n") if line]
    except ValueError as error:
        raise StudyError(f"{path} is damaged ({error}); restore the committed file, or delete it and rerun.") from error


def _write(path: Path, found: list[dict], old: list[dict]) -> None:
    """Write rows; those that an old row equals in all but its stamp keep the old stamp."""
    known = {_said(row): row for row in old}
    lines = (json.dumps(known.get(_said(row), row), ensure_ascii=False) + "\n" for row in found)
    with atomic_file(path) as file:
        file.write_text("".join(lines))


def _said(row: dict) -> str:
    return digest({field: value for field, value in row.items() if field not in STAMP})


def committed(profile: str, results: Path | None = None) -> list[dict]:
    """Return all rows of a profile as they stand in its file: the committed ones, or those in a folder of results."""
    return _read(results_folder(profile, results) / "rows.jsonl")


def rows(profile: str, experiment: str) -> pd.DataFrame:
    """Return the committed rows of one experiment, one line a (system, variant, task, language, seed).

    Raises:
        StudyError: there are none; the nearest experiment that has rows is named.
    """
    found = committed(profile)
    table = pd.DataFrame([row for row in found if row["experiment"] == experiment], columns=list(ROW_FIELDS))
    if table.empty:
        known = sorted({row["experiment"] for row in found})
        raise StudyError(
            f"profile {profile!r} has no rows of experiment {experiment!r}.{nearest(experiment, known)} "
            f"Run `speechmerge study run --profile {profile} --experiment {experiment}`."
        )
    return table


def statistics(profile: str, name: str) -> pd.DataFrame:
    """Return a committed table that is not about test sets, e.g. ``task_vectors``: ``results/PROFILE/NAME.jsonl``."""
    path = results_folder(profile) / f"{name}.jsonl"
    found = _read(path)
    if not found:
        raise StudyError(f"{path} holds no rows; run `speechmerge study run --profile {profile} --experiment {name}`.")
    return pd.DataFrame(found)


def choices(profile: str, experiment: str) -> dict[str, list[dict]]:
    """Return what was tried on dev by each committed choice of an experiment; nothing where it was not measured."""
    return {row["step"]: row["tried"] for row in lines(profile, f"{experiment}.chosen")}


def lines(profile: str, name: str) -> list[dict]:
    """Return the rows of a committed table as they stand in its file; none where it was not measured."""
    return _read(results_folder(profile) / f"{name}.jsonl")


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
    path = results_folder(profile) / f"{name}.jsonl"
    old = _read(path)
    if identity:
        place, found = operator.itemgetter(*identity), list(found)
        new = {place(row) for row in found}
        found += [row for row in old if place(row) not in new]
    _write(path, list(found), old)


def predictions_path(
    profile: str, experiment: str, system: str, task: str, cell: str, seed: int, variant: str = ""
) -> Path:
    """Where the hypotheses behind a row are kept (ids and hypotheses only; the sentences stay in the corpora)."""
    name = f"{slug(f'{system} {variant}')}.{task}.{cell}.{seed}.jsonl.gz"
    return results_folder(profile) / "predictions" / experiment / name


def slug(name: str) -> str:
    """Return a name as it stands in names of files."""
    return re.sub(r"[^a-z0-9+]+", "-", name.lower()).strip("-")
