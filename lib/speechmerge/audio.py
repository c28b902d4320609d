"""Units of Whisper's audio front end, written once, and reading of audio into them."""

import io
from pathlib import Path

import av
import numpy as np
import soundfile

from .errors import CorpusError

SAMPLE_RATE = 16_000  # samples a second; everything is mono at this rate
WINDOW_SECONDS = 30.0  # Whisper's fixed input window; shortening it destroys the model
WINDOW_SAMPLES = int(WINDOW_SECONDS * SAMPLE_RATE)
HOP = 160  # samples between mel frames (10 ms)
ENCODER_FRAME_SECONDS = 2 * HOP / SAMPLE_RATE  # one encoder position covers 20 ms


def decode(data: bytes | Path) -> np.ndarray:
    """Read audio of any common container as mono float32 at 16 kHz.

    Args:
        data: the file's bytes, or its path (raw G.722 is recognised by the ``.g722`` suffix).

    Returns:
        Samples, shape ``[n]``, in [-1, 1]; stereo is averaged, other rates are resampled.

    Raises:
        CorpusError: the file is missing, empty, corrupt, or holds a value that is not finite.
    """
    where = data if isinstance(data, Path) else "audio bytes"
    if isinstance(data, Path) and not data.is_file():
        raise CorpusError(f"{where}: the audio file does not exist; fetch the corpus again.")
    source = str(data) if isinstance(data, Path) else io.BytesIO(data)
    container = "g722" if isinstance(data, Path) and data.suffix == ".g722" else None
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
    try:
        with av.open(source, format=container) as file:
            frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise CorpusError(f"{where}: not readable as audio ({error}); expected wav, flac, ogg or g722 speech.") from error
    if not frames:
        raise CorpusError(f"{where}: the file holds no audio samples; expected speech at any rate.")
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    if not np.isfinite(samples).all():
        raise CorpusError(f"{where}: sample {int(np.argmin(np.isfinite(samples)))} is not finite; the file is damaged.")
    return np.clip(samples, -1.0, 1.0)


def encode_flac(samples: np.ndarray) -> bytes:
    """Encode mono float samples at 16 kHz as 16-bit FLAC (lossless from then on)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def decode_flac(data: bytes) -> np.ndarray:
    """Decode what :func:`encode_flac` wrote, much faster than :func:`decode`."""
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise CorpusError(f"stored clip has rate {rate} and {samples.ndim} channels, expected mono {SAMPLE_RATE}; fetch the corpus again.")
    return samples
