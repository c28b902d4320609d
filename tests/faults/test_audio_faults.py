"""Fault 21: audio missing, empty, corrupt, wrong rate, stereo, too long; duplicate ids; train/test overlap."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE, decode, decode_flac, encode_flac
from speechmerge.corpora import Corpus, Item, building
from speechmerge.errors import CorpusError


def sine(seconds, rate=SAMPLE_RATE, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def corpus_of(*items):
    """A corpus that is not on disk: its items are given."""
    return Corpus("made", "made here", {"es": "CC0-1.0"}, "None.", lambda language, folders: iter(items))


def item(name="a", audio=None, text="hola mundo"):
    return Item(name, sine(1.0) if audio is None else audio, text, None, "test", "nobody")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


def test_missing_file(tmp_path):
    with pytest.raises(CorpusError, match=r"gone\.wav: the audio file does not exist"):
        building.build(corpus_of(item(audio=tmp_path / "gone.wav")), "es")


@pytest.mark.parametrize(
    "content", [b"", b"RIFF\x00\x00", b"this is a text, not speech" * 40], ids=["empty", "cut", "text"]
)
@pytest.mark.parametrize("suffix", [".wav", ".ogg", ".flac"])
def test_empty_and_corrupt_files(tmp_path, content, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=rf"broken\{suffix}: (not readable as audio|the file holds no audio)"):
        building.build(corpus_of(item(audio=path)), "es")


def test_empty_g722(tmp_path):
    path = tmp_path / "empty.g722"
    path.touch()
    with pytest.raises(CorpusError, match=r"empty\.g722: .*no audio"):
        decode(path)


def test_header_without_samples(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), SAMPLE_RATE)
    with pytest.raises(CorpusError, match=r"none\.wav: .*no audio"):
        decode(tmp_path / "none.wav")


def test_values_that_are_not_finite(tmp_path):
    samples = sine(1.0)
    samples[77] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(CorpusError, match=r"nan\.wav: sample 77 is not finite"):
        decode(tmp_path / "nan.wav")


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(tmp_path, rate):
    soundfile.write(tmp_path / "rate.wav", sine(1.5, rate), rate)
    samples = decode(tmp_path / "rate.wav")
    assert len(samples) == pytest.approx(1.5 * SAMPLE_RATE, abs=64)
    assert np.argmax(np.abs(np.fft.rfft(samples[:16_000]))) == pytest.approx(440, abs=2)


def test_stereo_is_averaged_and_not_made_louder(tmp_path):
    left, right = sine(1.0), 0.3 * sine(1.0, hertz=1000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode(tmp_path / "stereo.wav"), (left + right) / 2, atol=1e-4)
    kept = building.build(corpus_of(item(audio=tmp_path / "stereo.wav")), "es")[0][0].samples()
    np.testing.assert_allclose(kept, (left + right) / 2, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2])
def test_too_loud_is_turned_down_and_not_clipped(tmp_path, channels):
    loud = np.stack([2.8 * sine(1.0)] * channels, axis=1)  # peak 1.4
    soundfile.write(tmp_path / "loud.wav", loud, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode(tmp_path / "loud.wav"), 2 * sine(1.0), atol=1e-3)


def test_bytes_and_file_decode_alike(tmp_path):
    soundfile.write(tmp_path / "a.flac", sine(1.0), SAMPLE_RATE)
    np.testing.assert_array_equal(decode(tmp_path / "a.flac"), decode((tmp_path / "a.flac").read_bytes()))


@pytest.mark.parametrize(
    ("seconds", "reason"), [(0.3, "shorter than 0.4 s"), (28.5, "longer than 28 s"), (31.0, "longer than 28 s")]
)
def test_length_outside_the_window_is_left_out_and_counted(seconds, reason):
    clips, dropped = building.build(corpus_of(item("a"), item("b", sine(seconds))), "es")
    assert [clip.id for clip in clips] == ["a"]
    assert dropped == {reason: 1}


def test_silence_is_left_out_and_counted():
    clips, dropped = building.build(corpus_of(item("a"), item("b", np.zeros(SAMPLE_RATE, np.float32))), "es")
    assert [clip.id for clip in clips] == ["a"]
    assert dropped == {"silent": 1}


@pytest.mark.parametrize("text", ["", "  ", "...", "[beep]", "marque (1)", "Qu\ufffd tal"])
def test_no_usable_transcript_is_left_out_and_counted(text):
    clips, dropped = building.build(corpus_of(item("a"), item("b", sine(1, hertz=500), text)), "es")
    assert [clip.id for clip in clips] == ["a"]
    assert sum(dropped.values()) == 1


def test_duplicate_ids_are_refused():
    with pytest.raises(CorpusError, match=r"1 ids stand for more than one recording \(first: 'a'\)"):
        building.build(corpus_of(item("a"), item("a", sine(1.0, hertz=500))), "es")


def test_repeated_recording_is_kept_once_and_contradicting_texts_never():
    same = [item("a"), item("b"), item("c", sine(1, hertz=500), "uno"), item("d", sine(1, hertz=500), "dos")]
    clips, dropped = building.build(corpus_of(*same), "es")
    assert [clip.id for clip in clips] == ["a"]
    assert dropped == {"one recording under several texts": 2, "repeated recording": 1}


def test_a_source_split_that_overlaps_is_refused():
    overlapping = [
        replace(item("a"), split="train"),
        replace(item("b", sine(1, hertz=500), "¡Hola, mundo!"), split="test"),
    ]
    with pytest.raises(CorpusError, match=r"'b' .*\(test\) has the same transcript as 'a' .*\(train\)"):
        building.build(corpus_of(*overlapping), "es")


@pytest.fixture
def clips():
    return building.build(corpus_of(item("a"), item("b", sine(1, hertz=500), "adiós")), "es")[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "a"}, "clip 'a' of made es occurs twice"),
        ({"text": " "}, "clip 'b' of made es has no transcript"),
        ({"split": "valid"}, "has split 'valid'; expected one of train, dev, test"),
        ({"seconds": 31.0}, "lasts 31.00 s; expected 0.4 to 28 s"),
    ],
)
def test_mixtures_are_checked(clips, change, message):
    corpora.check(clips)
    with pytest.raises(CorpusError, match=message):
        corpora.check([clips[0], replace(clips[1], **change)])


def test_overlap_between_mixed_corpora_is_refused(clips):
    other = next(split for split in corpora.SPLITS if split != clips[0].split)
    with pytest.raises(CorpusError, match="a sentence may stand in one split only"):
        corpora.check([*clips, replace(clips[0], source="elsewhere", split=other)])


def test_stored_audio_of_another_form_is_refused(tmp_path):
    np.testing.assert_allclose(decode_flac(encode_flac(sine(1.0))), sine(1.0), atol=1e-4)
    soundfile.write(tmp_path / "stereo.flac", np.zeros((800, 2)), SAMPLE_RATE)
    soundfile.write(tmp_path / "slow.flac", np.zeros(800), 8_000)
    for name in ("stereo", "slow"):
        with pytest.raises(CorpusError, match="expected mono 16000"):
            decode_flac((tmp_path / f"{name}.flac").read_bytes())
