#!/usr/bin/env bash
# libsndfile 1.2.2, as soundfile 0.14.0 ships it, reads part of a recording and calls it the whole.
# Seen 2026-12-01 with soundfile 0.14.0, libsndfile 1.2.2 and PyAV 18.1.0 (FFmpeg) on Python 3.11. Nothing is raised;
# the number of samples that `info` tells and the samples that `read` returns agree with each other:
#   1. An MP3 of variable bit rate without the tag that tells its length, as streams are stored: the length is guessed
#      from the bit rate of the first frame. Twenty seconds whose beginning is loud are read as six or seven.
#   2. Two MP3s one after the other, as podcasts are joined: reading stops where the tag of the first one says.
#   3. Two Ogg streams one after the other, which RFC 3533 allows (chaining): reading stops after the first.
#
# FFmpeg reads all of them to the end. Speech read through soundfile, or through what builds on it, ends early, and its
# transcript is counted as wrong.
# Exits with 1 if any of this has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
packages=(soundfile==0.14.0 av==18.1.0 numpy==2.4.6)
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}" 2> "$work/pip.log" ||
  { cat "$work/pip.log"; exit 1; }
"$work/venv/bin/python" - 2> /dev/null <<'PYTHON'
import io
import sys

import av
import numpy as np
import soundfile

RATE, SECONDS = 16_000, 20
print(f"Python {sys.version.split()[0]}, soundfile {soundfile.__version__}", end=", ")
print(f"libsndfile {soundfile.__libsndfile_version__}")
print(f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")
time = np.arange(RATE * SECONDS) / RATE
loud = time % 4 < 2  # two seconds of noise and tone, two of silence
noise = 0.15 * np.random.default_rng(0).normal(size=time.size)
samples = ((0.4 * np.sin(2 * np.pi * 300 * time) + noise) * loud).astype(np.float32)


def encoded(kind, subtype, **settings):
    """Return the samples in a container."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=kind, subtype=subtype, **settings)
    return buffer.getvalue()


def by_ffmpeg(data):
    """Return the seconds that FFmpeg decodes."""
    with av.open(io.BytesIO(data)) as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


mp3 = encoded("MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE")
untagged = mp3[mp3.index(mp3[:2], 4) :]  # the first frame holds the tag and no sound
vorbis, opus = (encoded("OGG", kind) for kind in ("VORBIS", "OPUS"))
cases = {  # seconds there are, and the seconds that libsndfile reads
    "MP3": (mp3, 20, (19.9, 20.1)),
    "MP3 without its tag": (untagged, 20, (6, 7)),
    "two MP3s": (mp3 + mp3, 40, (19.9, 20.1)),
    "two Ogg Vorbis streams": (vorbis + vorbis, 40, (19.9, 20.1)),
    "two Ogg Opus streams": (opus + opus, 40, (19.9, 20.1)),
}
changed = False
for name, (data, whole, (least, most)) in cases.items():
    told = soundfile.info(io.BytesIO(data)).frames / RATE
    read = len(soundfile.read(io.BytesIO(data))[0]) / RATE
    other = by_ffmpeg(data)
    print(f"{name}: {whole} s; told {told:.1f} s, read {read:.1f} s, by FFmpeg {other:.1f} s")
    changed |= not least <= read <= most or abs(told - read) > 0.1 or abs(other - whole) > 0.3
sys.exit(changed)
PYTHON
