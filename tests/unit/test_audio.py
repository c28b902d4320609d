"""Reading audio: rates, channels, containers, and the lossless form in which clips are kept."""

import io

import numpy as np
import pytest
import soundfile

from speechmerge import audio
from speechmerge.errors import CorpusError
from speechmerge.evaluation.recordings import Recording


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


@pytest.mark.parametrize("kind", ["mp3", "vorbis", "opus", "flac"])
def test_joined_recordings_are_read_to_the_end_of_the_last(kind):
    first, second = chirp(1.0), chirp(2.0)[::-1]
    joined = b""
    for samples in (first, second):
        if kind == "mp3":
            joined += _mp3(samples, tag=True)
        elif kind == "flac":
            joined += audio.encode_flac(samples)
        else:
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, audio.SAMPLE_RATE, format="OGG", subtype=kind.upper())
            joined += buffer.getvalue()
    assert abs(len(audio.decode(joined)) - 3 * audio.SAMPLE_RATE) < 0.2 * audio.SAMPLE_RATE  # a codec pads


@pytest.mark.parametrize("rates", [(44_100, 16_000), (16_000, 44_100)])
def test_recordings_of_other_rates_and_channels_that_were_joined_keep_their_speed(tmp_path, rates):
    for place, rate in enumerate(rates):
        samples = 0.4 * np.sin(2 * np.pi * 500 * np.arange(4 * rate) / rate)
        channels = np.stack([samples] * (1 + place), axis=1)
        soundfile.write(tmp_path / f"{place}.mp3", channels, rate, format="MP3")
    (tmp_path / "both.mp3").write_bytes(b"".join((tmp_path / f"{place}.mp3").read_bytes() for place in (0, 1)))
    whole, piecewise = audio.decode(tmp_path / "both.mp3"), Recording(tmp_path / "both.mp3").more(10**9)
    for read in (whole, piecewise):
        assert abs(len(read) - 8 * audio.SAMPLE_RATE) < 0.4 * audio.SAMPLE_RATE
        for start in (1, 6):  # one second of each: as many zero crossings as a tone of 500 Hz has
            second = read[start * audio.SAMPLE_RATE : (start + 1) * audio.SAMPLE_RATE]
            assert abs(np.count_nonzero(np.diff(np.sign(second))) - 1000) < 20


def test_wavs_of_telephones_and_of_recorders_that_stopped_are_read(tmp_path):
    soundfile.write(tmp_path / "gsm.wav", chirp(1.0, 8_000), 8_000, subtype="GSM610")
    soundfile.write(tmp_path / "open.wav", chirp(1.0), audio.SAMPLE_RATE, subtype="PCM_16")
    data = bytearray((tmp_path / "open.wav").read_bytes())
    place = data.index(b"data") + 4
    data[4:8] = data[place : place + 4] = bytes(4)  # the sizes that are filled in at the end
    (tmp_path / "open.wav").write_bytes(data)
    for name in ("gsm.wav", "open.wav"):
        assert abs(len(audio.decode(tmp_path / name)) - audio.SAMPLE_RATE) < 0.05 * audio.SAMPLE_RATE


def test_a_part_behind_the_end_is_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", chirp(1.0), audio.SAMPLE_RATE)
    with pytest.raises(CorpusError, match=r"a\.wav: it ends before 70\.5 s, where the clip is said to begin"):
        audio.decode(tmp_path / "a.wav", start=70.5)


def test_opposite_channels_cancel(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([chirp(0.5), -chirp(0.5)], axis=1), audio.SAMPLE_RATE, subtype="FLOAT")
    assert np.abs(audio.decode(tmp_path / "a.wav")).max() < 1e-6
