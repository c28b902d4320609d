"""Units of Whisper's audio front end, written once, and reading of audio into them."""

import io
import math
import operator
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import av
import numpy as np
import soundfile

from .errors import CorpusError

SAMPLE_RATE = 16_000  # samples a second; everything is mono at this rate
WINDOW_SECONDS = 30.0  # Whisper's fixed input window; shortening it destroys the model
WINDOW_SAMPLES = int(WINDOW_SECONDS * SAMPLE_RATE)
HOP = 160  # samples between mel frames (10 ms)
BEGINS = {"OGG": rb"OggS\x00\x02", "FLAC": rb"fLaC[\x00\x80]\x00\x00\x22"}  # of a stream; several may be joined
ENCODER_FRAME_SECONDS = 2 * HOP / SAMPLE_RATE  # one encoder position covers 20 ms


def decode(data: bytes | Path, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """Read audio of any common container as mono float32 at 16 kHz.

    Channels are averaged before resampling, because a resampler's own down-mix makes what both carry 3 dB too loud;
    lossy files that overshoot full scale are turned down to it instead of being clipped.

    Args:
        data: the file's bytes, or its path (raw G.722 is recognised by the ``.g722`` suffix).
        start: where to begin, in seconds.
        seconds: how much to read, less if the file ends before; ``None`` reads to the end.

    Returns:
        Samples, shape ``[n]``, in [-1, 1].

    Raises:
        CorpusError: the file is missing, empty, corrupt, or holds a value that is not finite.
    """
    where = data if isinstance(data, Path) else "audio bytes"
    if isinstance(data, Path) and not data.is_file():
        raise CorpusError(f"{where}: the audio file does not exist; fetch the corpus again.")
    try:
        samples, rate = _read(data, start, seconds)
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise CorpusError(
            f"{where}: not readable as audio ({error}); expected wav, flac, ogg, mp3, m4a or g722 speech."
        ) from error
    if not len(samples) and start:
        raise CorpusError(f"{where}: it ends before {start:g} s, where the clip is said to begin; mend the beginning.")
    if not len(samples):
        raise CorpusError(f"{where}: the file holds no audio samples; expected speech at any rate.")
    if not np.isfinite(samples).all():
        raise CorpusError(f"{where}: sample {int(np.argmin(np.isfinite(samples)))} is not finite; the file is damaged.")
    samples = (samples / max(1.0, np.abs(samples).max())).astype(np.float32)
    return np.clip(_resample(samples, rate), -1.0, 1.0)


def _read(data: bytes | Path, start: float, seconds: float | None) -> tuple[np.ndarray, int]:
    """Return the channels' mean ``[n]`` and the rate: by libsndfile where it reads a file whole, else by FFmpeg."""
    try:
        with soundfile.SoundFile(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
            if _read_whole(file, data):
                if start:
                    file.seek(min(round(start * file.samplerate), file.frames))
                frames = -1 if seconds is None else round(seconds * file.samplerate)
                return file.read(frames, always_2d=True).mean(axis=1), file.samplerate
    except soundfile.LibsndfileError:
        pass
    raw = isinstance(data, Path) and data.suffix.lower() == ".g722"
    with av.open(io.BytesIO(data) if isinstance(data, bytes) else str(data), format="g722" if raw else None) as file:
        parts, read, end = [], 0.0, math.inf if seconds is None else start + seconds
        for part, rate in mixed_down(file.decode(audio=0)):
            parts.append((part, rate))
            read += len(part) / rate
            if read >= end:
                break
        rate = file.streams.audio[0].rate
    samples, rate = _at_one_rate(parts) if parts else (np.empty(0), rate)
    return samples[round(start * rate) : None if seconds is None else round(end * rate)], rate


def _read_whole(file: soundfile.SoundFile, data: bytes | Path) -> bool:
    """Tell whether libsndfile reads all of a file.

    Of an MP3 it reads as much as the bit rate at the beginning, or a tag there, lets it expect: too little of a
    variable rate, and of recordings that were joined. Of joined Ogg or FLAC streams it reads the first one, of a WAV
    whose header was never completed nothing, and of telephone formats it cannot say how long they are.
    """
    if file.format in BEGINS:
        return len(re.findall(BEGINS[file.format], data if isinstance(data, bytes) else data.read_bytes())) == 1
    return file.format not in ("MP3", "MPEG") and file.seekable() and file.frames > 0


def mixed_down(frames: Iterable[av.AudioFrame]) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the channels' mean piece by piece, each with its rate: recordings that were joined may differ in both."""
    planar, known = None, None
    for frame in frames:
        kind = (frame.sample_rate, frame.layout.name, frame.format.name)
        if kind != known:
            planar, known = av.AudioResampler(format="fltp"), kind
        for part in planar.resample(frame):
            yield part.to_ndarray().mean(axis=0), part.sample_rate


def _at_one_rate(parts: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
    """Join pieces; where their rates differ, each stretch of one rate is brought to 16 kHz."""
    stretches = [
        (np.concatenate([part for part, _ in own]), rate) for rate, own in groupby(parts, key=operator.itemgetter(1))
    ]
    if len(stretches) == 1:
        return stretches[0]
    return np.concatenate([_resample(samples.astype(np.float32), rate) for samples, rate in stretches]), SAMPLE_RATE


def _resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Resample mono float32 ``[n]`` to 16 kHz with FFmpeg's resampler."""
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
    frames = resampler.resample(as_frame(samples, rate)) + resampler.resample(None)
    return np.concatenate([part.to_ndarray()[0] for part in frames])


def as_frame(samples: np.ndarray, rate: int) -> av.AudioFrame:
    """Return mono samples ``[n]`` as FFmpeg takes them."""
    frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
    frame.sample_rate = rate
    return frame


def encode_flac(samples: np.ndarray) -> bytes:
    """Encode mono float samples at 16 kHz as 16-bit FLAC (lossless from then on)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(data: bytes) -> np.ndarray:
    """Decode what :func:`encode_flac` wrote, much faster than :func:`decode`."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise CorpusError(
            f"stored clip has rate {rate} and {samples.ndim} channels, expected mono {SAMPLE_RATE}; "
            "fetch the corpus again."
        )
    return samples
