"""Where results live: content-addressed artefacts in the cache, committed rows and predictions in the repository."""

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from .corpora import Clip
from .decoding import read_predictions
from .errors import StudyError, nearest
from .files import atomic_file
from .packages import cache_folder
from .scoring import Counts, count

ROW_FIELDS = (
    "experiment", "profile", "system", "method", "params", "experts", "base", "base_fingerprint", "task", "language",
    "domain", "split", "n_utterances", "n_reference_words", "wer", "cer", "bleu", "chrf", "ci_low", "ci_high",
    "substitutions", "deletions", "insertions", "runaway", "normaliser", "signature", "decoding", "training", "seed",
    "corpus_fingerprint", "library", "hardware", "seconds", "date",
)  # fmt: skip
IDENTITY = ("experiment", "system", "task", "language", "domain", "split", "seed")


def project_root() -> Path:
    """Return the folder that holds ``experiments/``: ``$SPEECHMERGE_HOME``, or the nearest one above here or this
    file."""
    places = [os.environ.get("SPEECHMERGE_HOME"), Path.cwd(), Path(__file__)]
    for place in (Path(p) for p in places if p):
        for folder in (place, *place.parents):
            if (folder / "experiments").is_dir():
                return folder
    raise StudyError("no folder named experiments/ above here; run inside a clone of the book, or set SPEECHMERGE_HOME.")


def results_folder(profile: str) -> Path:
    """Committed results of a profile; ``$SPEECHMERGE_RESULTS`` moves them (tests, trial runs)."""
    return Path(os.environ.get("SPEECHMERGE_RESULTS", project_root() / "results")) / profile


def artefact(kind: str, key: str) -> Path:
    """Return the path of an artefact of this kind and content key (it may not exist yet)."""
    return cache_folder() / "artefacts" / kind / key[:24]


def append_rows(profile: str, rows: Iterable[dict]) -> None:
    """Add rows to ``rows.jsonl``; a row of the same identity is replaced, so that a repeated run changes nothing else.

    Raises:
        StudyError: a row lacks a field, has an unknown one, or holds a number that is not finite.
    """
    path = results_folder(profile) / "rows.jsonl"
    kept = {_identity(row): row for row in _read(path)}
    for row in rows:
        wrong = set(row) ^ set(ROW_FIELDS)
        if wrong:
            raise StudyError(f"a row of {row.get('experiment')!r} has missing or unknown fields: {', '.join(sorted(wrong))}.")
        bad = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
        if bad:
            raise StudyError(f"row {_identity(row)}: {', '.join(bad)} is not finite; it is not stored.")
        kept[_identity(row)] = {field: row[field] for field in ROW_FIELDS}
    lines = (json.dumps(row, ensure_ascii=False) for _, row in sorted(kept.items()))
    with atomic_file(path) as file:
        file.write_text("".join(line + "\n" for line in lines))


def _identity(row: dict) -> tuple[str, ...]:
    return tuple(str(row[field]) for field in IDENTITY)


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def rows(profile: str, experiment: str) -> pd.DataFrame:
    """Return the committed rows of one experiment, one line a (system, language, seed).

    Raises:
        StudyError: there are none; the nearest experiment that has rows is named.
    """
    found = _read(results_folder(profile) / "rows.jsonl")
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


def write_statistics(profile: str, name: str, found: Iterable[dict]) -> None:
    """Write a whole table of statistics, replacing the old one."""
    with atomic_file(results_folder(profile) / f"{name}.jsonl") as file:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))


def predictions_path(profile: str, experiment: str, system: str, task: str, language: str, seed: int) -> Path:
    """Where the hypotheses behind a row are kept (ids and hypotheses only; the sentences stay in the corpora)."""
    slug = re.sub(r"[^a-z0-9]+", "-", system.lower()).strip("-")
    return results_folder(profile) / "predictions" / experiment / f"{slug}.{task}.{language}.{seed}.jsonl.gz"


def recount(profile: str, row: dict | pd.Series, clips: list[Clip]) -> Counts:
    """Score a row's stored hypotheses again, without decoding, against freshly fetched references."""
    path = predictions_path(profile, *(row[k] for k in ("experiment", "system", "task", "language")), int(row["seed"]))
    return count(read_predictions(path), clips, row["language"])
