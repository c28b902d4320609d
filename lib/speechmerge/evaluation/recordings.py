"""Recordings of any length: found in folders, named, and read in pieces, so that hours of sound never lie in memory."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import av
import numpy as np

from ..audio import SAMPLE_RATE, as_frame, mixed_down
from ..errors import CorpusError

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".mp4", ".webm", ".mkv", ".mka", ".wma")
SUFFIXES += (".aif", ".aiff", ".au", ".amr", ".3gp", ".g722", ".mov", ".avi", ".ts", ".caf", ".spx", ".w64")


def find(inputs: Sequence[Path]) -> dict[str, Path]:
    """Return recordings by id: a file's name, or of one in a folder that was given its path from there.

    Args:
        inputs: files, and folders that are searched for files with the usual endings.

    Raises:
        CorpusError: one does not exist or holds no recording, or two have one id.
    """
    found: dict[str, Path] = {}
    for given in map(Path, inputs):
        if not given.exists():
            raise CorpusError(f"{given} does not exist; expected an audio file, or a folder of them.")
        own = _within(given) if given.is_dir() else {given.name: given}
        if not own:
            raise CorpusError(f"{given} holds no audio file ({', '.join(SUFFIXES[:5])}, ...); name one, or its folder.")
        for name, path in own.items():
            if name in found:
                raise CorpusError(f"{found[name]} and {path} would both be called {name!r}; give them in two calls.")
            found[name] = path
    return found


def _within(folder: Path) -> dict[str, Path]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    named = {file.relative_to(folder).as_posix(): file for file in files}
    return {name: file for name, file in named.items() if not any(part.startswith(".") for part in name.split("/"))}


def check(recordings: Mapping[str, Path]) -> None:
    """Open every recording before the first is decoded; what is damaged further on only shows there.

    Raises:
        CorpusError: one is not readable as audio.
    """
    for path in recordings.values():
        Recording(path).close()


class Recording:
    """A recording that is read piece by piece as mono float32 at 16 kHz, in [-1, 1].

    Channels are averaged before resampling, as :func:`speechmerge.audio.decode` does.

    Attributes:
        path: of the file.
        seconds: duration as the container says; an estimate, ``None`` where it says none.

    Raises:
        CorpusError: the file is not readable as audio or holds none, or a value in it is not finite.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blocks = self._read()
        self.seconds: float | None = None
        self._waiting = next(self._blocks, None)
        if self._waiting is None:
            raise CorpusError(f"{path}: the file holds no audio samples; expected speech.")

    def more(self, wanted: int) -> np.ndarray:
        """Return the next ``wanted`` samples or a few more; fewer only at the end, and none after it."""
        pieces, count = [], 0
        while count < wanted and self._waiting is not None:
            pieces.append(self._waiting)
            count += len(self._waiting)
            self._waiting = next(self._blocks, None)
        return np.concatenate(pieces) if pieces else np.empty(0, np.float32)

    def close(self) -> None:
        """Let go of the file."""
        self._blocks.close()

    @property
    def ended(self) -> bool:
        """Whether all has been read."""
        return self._waiting is None

    def _read(self) -> Iterator[np.ndarray]:
        raw = "g722" if self.path.suffix.lower() == ".g722" else None
        try:
            with av.open(str(self.path), format=raw) as file:
                stream = file.streams.audio[0]
                if file.duration:
                    self.seconds = file.duration / av.time_base
                yield from self._resampled(file.decode(stream))
        except (av.FFmpegError, IndexError, ValueError) as error:
            reason = "no audio in it" if isinstance(error, IndexError) else error
            raise CorpusError(f"{self.path}: not readable as audio ({reason}); expected speech.") from error

    def _resampled(self, frames: Iterator[av.AudioFrame]) -> Iterator[np.ndarray]:
        mono, known = None, None
        for mean, rate in mixed_down(frames):
            if not np.isfinite(mean).all():
                raise CorpusError(f"{self.path}: a sample is not finite; the file is damaged.")
            if rate != known:
                if mono:
                    yield from self._pieces(mono, None)
                mono, known = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE), rate
            yield from self._pieces(mono, as_frame(mean, rate))
        if mono:
            yield from self._pieces(mono, None)

    @staticmethod
    def _pieces(resampler: av.AudioResampler, frame: av.AudioFrame | None) -> Iterator[np.ndarray]:
        for part in resampler.resample(frame):
            if part.samples:
                yield np.clip(part.to_ndarray()[0], -1.0, 1.0)
