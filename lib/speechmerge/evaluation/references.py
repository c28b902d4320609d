"""References of one's own: a file with ids and texts, and the table that shows each clip's errors beside them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..corpora.own import table
from ..errors import CorpusError, ScoringError, nearest
from ..files import atomic_file
from .predictions import Prediction
from .scoring import Errors, Scores, bleu, match

SUFFIXES = (".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class Reference:
    """What is said in a recording, and the same in English where that is what is scored."""

    id: str
    text: str
    translation: str | None = None


def read(path: Path, task: str = "asr") -> list[Reference]:
    """Read references: JSON lines, CSV or TSV with ``id`` and ``text``, and for translation ``translation``.

    Raises:
        ScoringError: the file is not there or not in that form, holds nothing, or lacks a field; line and field are
            named.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ScoringError(f"{path}: references are read from {', '.join(SUFFIXES)}, not from {path.suffix or 'this'}.")
    try:
        rows = _lines(path) if suffix == ".jsonl" else _table(path)
    except (OSError, CorpusError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ScoringError(f"{path}: not readable as references ({reason}); expected id and text in UTF-8.") from error
    if not rows:
        raise ScoringError(f"{path}: there are no references in it; expected a line for each recording.")
    wanted = ("id", "translation") if task == "st" else ("id", "text")
    for number, row in enumerate(rows, 1):
        for key in wanted:
            if not isinstance(row, dict) or not isinstance(row.get(key), str):
                near = nearest(key, [str(name) for name in row]) if isinstance(row, dict) else ""
                raise ScoringError(f"{path}: reference {number} has no {key!r} as text.{near}")
    return [Reference(row["id"], row.get("text") or "", row.get("translation")) for row in rows]


def _lines(path: Path) -> list:
    return [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]


def _table(path: Path) -> list[dict[str, str]]:
    """Read a table as speech of one's own is read, whatever parts its columns."""
    names, lines = table.delimited(path, quoted=False)
    known = [name.strip().lower() for name in names]
    return [dict(zip(known, cells, strict=False)) for _, cells in lines]


def write_table(
    scores: Scores, predictions: Sequence[Prediction], references: Sequence[Reference], task: str, path: Path
) -> None:
    """Write a TSV with a line for each clip: its errors and words (or BLEU), reference and hypothesis.

    Args:
        scores: of these predictions and references.
        predictions: by id.
        references: in the order of the scores; clips of a corpus will do.
        task: ``"asr"`` or ``"st"``.
        path: of the table.
    """
    heard = match(predictions, references)
    if isinstance(scores, Errors):
        head, numbers = ("errors", "words"), list(zip(scores.errors.tolist(), scores.words.tolist(), strict=True))
    else:
        head, numbers = ("bleu",), [(f"{bleu(row):.2f}",) for row in scores.statistics]
    said = [one.translation if task == "st" else one.text for one in references]
    lines = ["\t".join(("id", *head, "reference", "hypothesis"))]
    for reference, text, hypothesis, own in zip(references, said, heard, numbers, strict=True):
        lines.append("\t".join(" ".join(str(x).split()) for x in (reference.id, *own, text, hypothesis.text)))
    with atomic_file(path) as file:
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
