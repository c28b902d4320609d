"""Reading audio: rates, channels, containers, and the lossless form in which clips are kept."""

import io

import numpy as np
import pytest
import soundfile

from speechmerge import audio


def chirp(seconds: float, rate: int = audio.SAMPLE_RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time)).astype(np.float32)


def test_units_agree_with_whispers_front_end():
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor()
    assert (extractor.sampling_rate, extractor.hop_length) == (audio.SAMPLE_RATE, audio.HOP)
    assert extractor.n_samples == audio.WINDOW_SAMPLES
    assert extractor.nb_max_frames / 2 * audio.ENCODER_FRAME_SECONDS == audio.WINDOW_SECONDS  # 1500 positions


def test_flac_keeps_sixteen_bits_and_is_the_same_bytes_again():
    samples = chirp(0.7)
    kept = audio.encode_flac(samples)
    assert np.abs(audio.decode_flac(kept) - samples).max() <= 1 / 2**15
    assert audio.encode_flac(audio.decode_flac(kept)) == kept
    np.testing.assert_array_equal(audio.decode(kept), audio.decode_flac(kept))


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100])
def test_another_rate_gives_the_same_sound(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", chirp(1.0, rate), rate, subtype="FLOAT")
    samples, wanted = audio.decode(tmp_path / "a.wav"), chirp(1.0)
    assert samples.dtype == np.float32 and abs(len(samples) - len(wanted)) <= 32
    middle = slice(1_000, 15_000)  # a resampler's filter rings at the ends
    assert np.corrcoef(samples[middle], wanted[middle])[0, 1] > 0.999


@pytest.mark.parametrize(("suffix", "least"), [(".wav", 0.999), (".flac", 0.999), (".ogg", 0.98), (".mp3", 0.98)])
def test_containers(tmp_path, suffix, least):
    soundfile.write(tmp_path / f"a{suffix}", chirp(0.5), audio.SAMPLE_RATE)
    samples = audio.decode(tmp_path / f"a{suffix}")
    assert np.corrcoef(samples, chirp(0.5)[: len(samples)])[0, 1] > least


def _mp3(samples: np.ndarray, *, tag: bool) -> bytes:
    """An MP3 of variable bit rate, with the tag that says how long it is or, as from a stream, without."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, audio.SAMPLE_RATE, format="MP3", bitrate_mode="VARIABLE")
    data = buffer.getvalue()
    return data if tag else data[data.index(data[:2], 4) :]


@pytest.mark.parametrize("quiet_first", [False, True])
def test_an_mp3_that_does_not_say_how_long_it_is_is_read_whole(tmp_path, quiet_first):
    parts = [np.random.default_rng(0).normal(0, 0.1, 64_000).astype(np.float32), np.zeros(64_000, np.float32), chirp(2)]
    samples = np.concatenate(parts[::-1] if quiet_first else parts)
    (tmp_path / "a.mp3").write_bytes(_mp3(samples, tag=False))
    read = audio.decode(tmp_path / "a.mp3")
    assert abs(len(read) - len(samples)) < 0.2 * audio.SAMPLE_RATE
    part = audio.decode(tmp_path / "a.mp3", start=6, seconds=1.5)
    np.testing.assert_array_equal(part, read[96_000:120_000])


@pytest.mark.parametrize("kind", ["mp3", "vorbis", "opus"])
def test_joined_recordings_are_read_to_the_end_of_the_last(kind):
    first, second = chirp(1.0), chirp(2.0)[::-1]
    joined = b""
    for samples in (first, second):
        if kind == "mp3":
            joined += _mp3(samples, tag=True)
        else:
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, audio.SAMPLE_RATE, format="OGG", subtype=kind.upper())
            joined += buffer.getvalue()
    assert abs(len(audio.decode(joined)) - 3 * audio.SAMPLE_RATE) < 0.2 * audio.SAMPLE_RATE  # a codec pads


def test_opposite_channels_cancel(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([chirp(0.5), -chirp(0.5)], axis=1), audio.SAMPLE_RATE, subtype="FLOAT")
    assert np.abs(audio.decode(tmp_path / "a.wav")).max() < 1e-6
