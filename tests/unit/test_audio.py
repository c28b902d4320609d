"""Reading audio: rates, channels, containers, and the lossless form in which clips are kept."""

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


@pytest.mark.parametrize(("suffix", "least"), [(".wav", 0.999), (".flac", 0.999), (".ogg", 0.98)])
def test_containers(tmp_path, suffix, least):
    soundfile.write(tmp_path / f"a{suffix}", chirp(0.5), audio.SAMPLE_RATE)
    samples = audio.decode(tmp_path / f"a{suffix}")
    assert np.corrcoef(samples, chirp(0.5)[: len(samples)])[0, 1] > least


def test_opposite_channels_cancel(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([chirp(0.5), -chirp(0.5)], axis=1), audio.SAMPLE_RATE, subtype="FLOAT")
    assert np.abs(audio.decode(tmp_path / "a.wav")).max() < 1e-6
