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
BESIDES = ("language", "segments")  # of a transcript of a recording, beside the fields of a prediction


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

    What transcripts of recordings say besides, their language and segments, is left out.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rows = [json.loads(line) for line in data.decode().split("\n") if line]
        return [Prediction(**{key: value for key, value in row.items() if key not in BESIDES}) for row in rows]
    except FileNotFoundError:
        raise ScoringError(f"{path}: there are no predictions; decode first.") from None
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
        raise ScoringError(
            f"{path}: not a predictions file ({error}); expected JSON lines with id and text."
        ) from error
