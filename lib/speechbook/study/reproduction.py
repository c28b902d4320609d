"""Measured again: how rows and transcripts of another run, on another machine or by another version, compare."""

from collections.abc import Iterator
from pathlib import Path

from speechmerge.errors import StudyError
from speechmerge.evaluation.scoring import METRICS

from . import store

TOLERANCE = 1.0  # points of WER or BLEU of an average over languages: about half of what its interval leaves open
COUNTS = ("n_utterances", "n_reference_words", "corpus_fingerprint")


def changes(before: list[dict], after: list[dict]) -> Iterator[tuple[dict, dict, float]]:
    """Yield the rows, committed and new, that say the same thing, and by how many points their scores differ."""
    old = {store.identity(row): row for row in before}
    for row in after:
        if (was := old.get(store.identity(row))) is not None:
            metric = METRICS[row["task"]]
            yield was, row, (row[metric] - was[metric]) * (100 if metric == "wer" else 1)


def compared(profile: str, experiment: str, results: Path) -> dict:
    """Compare an experiment's rows in another folder of results with the committed ones.

    Args:
        profile: whose rows.
        experiment: whose rows.
        results: the folder that ``SPEECHMERGE_RESULTS`` named when the study was run again.

    Returns:
        One record: ``experiment, rows`` (compared), ``counts`` (whether clips, words and speech are the same in all),
        ``transcripts`` and ``same`` (how many are kept in both, and how many of these are equal), ``largest`` and
        ``average`` (largest difference of a single language and of an average, in points), ``within`` (whether
        counts are the same and no average differs by more than :data:`TOLERANCE`), ``committed_on``, and where and
        when the other rows were made.

    Raises:
        StudyError: there are no rows to compare.
    """
    own, other = store.measured(profile, experiment), store.measured(profile, experiment, results)
    pairs = list(changes(own, other))
    if not pairs:
        raise StudyError(
            f"{results}: holds no row of experiment {experiment!r} and profile {profile!r} that is committed too; "
            f"run `SPEECHMERGE_RESULTS={results} speechmerge study run --profile {profile} --experiment {experiment}`."
        )
    counts = all(was[field] == row[field] for was, row, _ in pairs for field in COUNTS)
    single = [abs(points) for _, row, points in pairs if row["domain"] != "all"]
    averages = [abs(points) for _, row, points in pairs if row["domain"] == "all"]
    texts = list(_transcripts(profile, experiment, results))
    found = {
        "experiment": experiment,
        "rows": len(pairs),
        "counts": counts,
        "transcripts": len(texts),
        "same": sum(texts),
        "largest": max(single, default=0.0),
        "average": max(averages, default=0.0),
    }
    found["within"] = counts and found["average"] <= TOLERANCE
    found["committed_on"] = ", ".join(sorted({was["hardware"] for was, _, _ in pairs}))
    return found | {field: pairs[0][1][field] for field in store.STAMP}


def keep(profile: str, found: list[dict]) -> None:
    """Add records to the table ``reproductions``; one of the same experiment and machine is replaced."""
    store.write_statistics(profile, "reproductions", found, identity=("experiment", "hardware"))


def _transcripts(profile: str, experiment: str, results: Path) -> Iterator[bool]:
    """Yield for every utterance whose transcript is kept in both folders whether both are equal."""
    here, there = (store.predictions(profile, experiment, folder) for folder in (None, results))
    for place, said in there.items():
        before = {p.id: p.text for p in here.get(place, [])}
        yield from (before.get(p.id) == p.text for p in said if before)
