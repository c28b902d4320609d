"""Hypotheses, and the files that keep them, so that scoring never decodes again."""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import ScoringError
from ..files import atomic_file

COMPRESSION_LIMIT = 2.4  # Whisper's own threshold for a repetitive hypothesis


@dataclass(frozen=True)
class Prediction:
    """One hypothesis: the clip's id, the decoded text, whether the token limit cut it off, and at what temperature.

    A ``long`` one was found window by window: how well the whole compresses then says nothing, and ``cut`` says whether
    a segment of it ran away.
    """

    id: str
    text: str
    cut: bool = False
    temperature: float = 0.0
    long: bool = False

    @property
    def runaway(self) -> bool:
        """Whether it ran away into repetition: it compresses too well, or the token limit had to cut it off."""
        data = self.text.encode()
        return self.cut or (not self.long and len(data) > COMPRESSION_LIMIT * len(zlib.compress(data)))


FIELDS = tuple(Prediction.__dataclass_fields__)


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write predictions as JSON lines, the same bytes for the same ones; gzipped if the name ends in ``.gz``."""
    write_lines([fields(prediction) for prediction in predictions], path)


def fields(prediction: Prediction) -> dict[str, object]:
    """Return what a line of a predictions file says of one."""
    return {key: value for key, value in asdict(prediction).items() if value or key not in ("temperature", "long")}


def write_lines(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Write JSON lines, gzipped where the name ends in ``.gz``."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    with atomic_file(path) as file:
        file.write_bytes(gzip.compress(data, mtime=0) if Path(path).suffix == ".gz" else data)


def read_predictions(path: Path) -> list[Prediction]:
    """Read what :func:`write_predictions` wrote (gzipped, or plain if the name does not end in ``.gz``).

    What a line says besides, such as language and segments of a transcript, is left out.

    Raises:
        ScoringError: the file is not there or not in that form; the line is named.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = data.decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise ScoringError(f"{path}: there are no predictions; decode first.") from None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ScoringError(
            f"{path}: not a predictions file ({error}); expected JSON lines with id and text."
        ) from error
    return [_prediction(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _prediction(line: str, where: str) -> Prediction:
    """Read one line."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ScoringError(f"{where}: not a prediction ({error}); expected a JSON object with id and text.") from error
    for field in ("id", "text"):
        value = row.get(field) if isinstance(row, dict) else row
        if not isinstance(value, str):
            raise ScoringError(f"{where}: {field} is {value!r}; expected a string, empty where nothing was heard.")
    return Prediction(**{field: row[field] for field in FIELDS if field in row})
