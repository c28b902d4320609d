"""Recordings: found, read in pieces, transcribed whatever their length, and written in the forms players read."""

import json

import av
import numpy as np
import pytest
import soundfile

from speechmerge import audio, corpora
from speechmerge.audio import SAMPLE_RATE
from speechmerge.errors import CheckpointError, CorpusError, ScoringError
from speechmerge.evaluation import recordings, transcription, transcripts
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.evaluation.predictions import Prediction, read_predictions
from speechmerge.evaluation.recordings import Recording
from speechmerge.evaluation.transcription import Segment, Transcript
from speechmerge.whisper import models


@pytest.fixture(scope="module")
def decoder():
    return Decoder(models.base_model("smoke"), Decoding(precision="fp32", tokens_per_second=2.0))


def tone(seconds, rate=SAMPLE_RATE):
    return (0.1 * np.sin(np.arange(round(seconds * rate)) * 0.1)).astype(np.float32)


def whole(path):
    """Read a recording in small pieces."""
    recording, found = Recording(path), []
    while not recording.ended:
        found.append(recording.more(1000))
    return np.concatenate(found)


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
def test_a_recording_in_pieces_is_the_recording(tmp_path, rate):
    samples = np.stack([tone(2.5, rate), 0.5 * tone(2.5, rate)], 1)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    found, wanted = whole(tmp_path / "a.wav"), audio.decode(tmp_path / "a.wav")
    assert abs(len(found) - 2.5 * SAMPLE_RATE) <= 1 and np.abs(found - wanted).max() < 1e-4
    assert Recording(tmp_path / "a.wav").seconds == pytest.approx(2.5)
    recording = Recording(tmp_path / "a.wav")
    assert not recording.ended and len(recording.more(100)) >= 100 and not recording.ended
    assert len(recording.more(10**9)) > 0 and recording.ended and len(recording.more(10)) == 0


def test_the_sound_of_a_video_is_a_recording(tmp_path):
    with av.open(str(tmp_path / "film.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    assert list(recordings.find([tmp_path])) == ["film.mp4"]
    assert len(whole(tmp_path / "film.mp4")) == pytest.approx(SAMPLE_RATE, rel=0.15)


def test_recordings_are_named_by_their_place(tmp_path):
    for name in ("b.wav", "a.FLAC", "deep/er/c.ogg", ".hidden/d.wav", "deep/.e.wav", "text.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = recordings.find([tmp_path])
    assert list(found) == ["a.FLAC", "b.wav", "deep/er/c.ogg"] and found["b.wav"] == tmp_path / "b.wav"
    assert list(recordings.find([tmp_path / "text.txt", tmp_path / "deep"])) == ["text.txt", "er/c.ogg"]
    with pytest.raises(CorpusError, match=r"b\.wav and .*b\.wav would both be called 'b\.wav'"):
        recordings.find([tmp_path, tmp_path / "b.wav"])
    with pytest.raises(CorpusError, match="does not exist; expected an audio file"):
        recordings.find([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"empty holds no audio file \(\.wav"):
        recordings.find([tmp_path / "empty"])


@pytest.mark.parametrize("content", [b"", b"no sound", b"RIFF\x00\x00\x00\x00WAVE"])
def test_what_is_no_recording_is_refused(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(CorpusError, match=r"a\.wav: (not readable as audio|the file holds no audio samples)"):
        Recording(tmp_path / "a.wav")


def test_damaged_numbers_are_refused(tmp_path):
    samples = tone(1.0)
    samples[8000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(CorpusError, match="a sample is not finite"):
        whole(tmp_path / "a.wav")


def test_short_recordings_are_heard_as_clips_of_a_test_set_are(decoder, tmp_path):
    clips = corpora.load("tones", "es", "test")[:3]
    files = {}
    for clip in clips:
        files[clip.id] = tmp_path / f"{clip.id.replace('/', '-')}.flac"
        files[clip.id].write_bytes(clip.flac)
    found = list(transcription.transcribe(decoder, files, "es", progress=False))
    assert [one.prediction for one in found] == decoder.decode(clips, "es", "asr", progress=False)
    assert all(one.language == "es" and one.segments is None for one in found)


def test_a_long_recording_has_segments_within_it(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(transcription, "MAX_TOKENS", 12)
    soundfile.write(tmp_path / "long.wav", tone(65.0), SAMPLE_RATE)
    soundfile.write(tmp_path / "short.wav", tone(3.0), SAMPLE_RATE)
    files = {"long": tmp_path / "long.wav", "short": tmp_path / "short.wav"}
    long, short = transcription.transcribe(decoder, files, "it", "st", segments=True, progress=False)
    assert long.prediction.id == "long" and short.prediction.id == "short"
    for one, seconds in ((long, 65.0), (short, 3.0)):
        assert all(0 <= segment.start <= segment.end <= seconds for segment in one.segments)
        assert one.prediction.text == " ".join(segment.text for segment in one.segments)
    again, _ = transcription.transcribe(decoder, files, "it", "st", segments=True, progress=False)
    assert again == long


def said(start, end):
    return Segment(start, end, f"{start:g}")


def test_parts_join_where_a_segment_ends_and_nothing_is_said_twice(decoder, tmp_path, monkeypatch):
    """Sentences of 7 s, of which the search hears those that lie in what it is given, and a torn one at the end."""
    monkeypatch.setattr(transcription, "PART_SECONDS", 60)
    heard = []

    def search(decoder, key, samples, language, task, show):
        began, seconds = sum(heard), len(samples) / SAMPLE_RATE
        first = -(-began // 7) * 7
        starts = np.arange(first, began + seconds, 7)
        found = [said(float(start - began), float(min(start + 7 - began, seconds))) for start in starts]
        kept = [segment.end for segment in found if segment.start < 30]
        heard.append(max([30.0, *kept[-1:]]))
        return found

    monkeypatch.setattr(transcription, "_segments", search)
    soundfile.write(tmp_path / "a.wav", tone(150.0), SAMPLE_RATE)
    [found] = transcription.transcribe(decoder, {"a": tmp_path / "a.wav"}, "es", progress=False)
    assert [segment.start for segment in found.segments] == [7.0 * i for i in range(22)]
    assert [segment.end for segment in found.segments[:-1]] == [7.0 * i for i in range(1, 22)]
    assert found.segments[-1].end == 150.0 and len(heard) == 4


def test_only_a_loop_within_a_segment_is_a_runaway(decoder, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(40.0), SAMPLE_RATE)
    for texts, ran_away in ((["la misma frase"] * 40, False), (["uno", "la " * 60], True)):
        found = [Segment(float(i), i + 1.0, text) for i, text in enumerate(texts)]
        monkeypatch.setattr(transcription, "_segments", lambda *_, found=found: found)
        [one] = transcription.transcribe(decoder, {"a": tmp_path / "a.wav"}, "es", progress=False)
        assert one.prediction.runaway is ran_away and one.prediction.long
        transcripts.write([one], tmp_path / "a.jsonl", "jsonl")
        assert read_predictions(tmp_path / "a.jsonl") == [one.prediction]


def test_long_silence_is_passed_over(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(transcription, "PART_SECONDS", 60)
    lengths = []
    monkeypatch.setattr(transcription, "_segments", lambda d, k, samples, *_: lengths.append(len(samples)) or [])
    soundfile.write(tmp_path / "a.wav", tone(130.0), SAMPLE_RATE)
    [found] = transcription.transcribe(decoder, {"a": tmp_path / "a.wav"}, "es", progress=False)
    assert found.segments == () and found.prediction.text == ""
    assert [round(n / SAMPLE_RATE) for n in lengths] == [60, 60, 60, 40]


def test_languages_are_detected_one_by_one(decoder, tmp_path, monkeypatch):
    for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 31.0)):
        soundfile.write(tmp_path / f"{name}.wav", tone(seconds), SAMPLE_RATE)
    files = recordings.find([tmp_path])
    known = set(decoder.model.generation_config.lang_to_id)
    assert f"<|{transcription.detect(decoder, tone(1.0))}|>" in known
    by_length = {1: "es", 2: "it"}
    monkeypatch.setattr(transcription, "detect", lambda _, x: by_length.get(round(len(x) / SAMPLE_RATE), "fr"))
    monkeypatch.setattr(transcription, "_segments", lambda *_: [said(0.0, 2.0)])
    asked, decode = [], decoder.decode
    monkeypatch.setattr(decoder, "decode", lambda c, x, *_, **__: asked.extend(x) or decode(c, x, *_, **__))
    found = list(transcription.transcribe(decoder, files, progress=False))
    assert [(one.prediction.id, one.language) for one in found] == [("a.wav", "es"), ("b.wav", "it"), ("c.wav", "fr")]
    assert asked == ["es", "it"]


def test_languages_the_model_does_not_know_are_refused(decoder, monkeypatch):
    with pytest.raises(CheckpointError, match="knows no language 'spanish'"):
        transcription.check_language(decoder, "spanish", "asr")
    transcription.check_language(decoder, "auto", "st")
    monkeypatch.setattr(decoder, "multilingual", False)
    transcription.check_language(decoder, "auto", "asr")
    assert transcription.detect(decoder, tone(1.0)) == "en"
    with pytest.raises(CheckpointError, match="English-only"):
        transcription.check_language(decoder, "es", "asr")


LONG = Transcript(
    Prediction("a/talk.wav", "Hola. a --> b"),
    "es",
    (Segment(0.0, 2.48, "Hola."), Segment(59.9996, 3661.25, "a\t--> b")),
)
SHORT = Transcript(Prediction("b.wav", "Sí.", True), "es")


def test_forms_are_those_that_players_read():
    assert transcripts.text(LONG, "srt") == (
        "1\n00:00:00,000 --> 00:00:02,480\nHola.\n\n2\n00:01:00,000 --> 01:01:01,250\na\t-> b\n\n"
    )
    assert transcripts.text(LONG, "vtt") == (
        "WEBVTT\n\n00:00.000 --> 00:02.480\nHola.\n\n01:00.000 --> 01:01:01.250\na\t-> b\n\n"
    )
    assert transcripts.text(LONG, "tsv") == "start\tend\ttext\n0\t2480\tHola.\n60000\t3661250\ta --> b\n"
    assert transcripts.text(LONG, "txt") == "Hola.\na\t--> b\n" and transcripts.text(SHORT, "txt") == "Sí.\n"


def test_json_lines_are_predictions_with_more(tmp_path):
    for name in ("all.jsonl", "all.jsonl.gz"):
        assert transcripts.write([LONG, SHORT], tmp_path / name, "jsonl") == 2
        assert read_predictions(tmp_path / name) == [LONG.prediction, SHORT.prediction]
    first, second = map(json.loads, (tmp_path / "all.jsonl").read_text().splitlines())
    assert first["segments"][0] == {"start": 0.0, "end": 2.48, "text": "Hola."} and first["language"] == "es"
    assert "segments" not in second and second["cut"] is True


def test_every_recording_has_a_file_of_its_own_in_a_folder(tmp_path):
    files = transcripts.names(["a/talk.wav", "b.wav"], "txt")
    assert files == {"a/talk.wav": "a/talk.txt", "b.wav": "b.txt"}
    assert transcripts.write([LONG, SHORT], tmp_path / "out", "txt", files) == 2
    assert (tmp_path / "out" / "a" / "talk.txt").read_text() == "Hola.\na\t--> b\n"
    with pytest.raises(ScoringError, match=r"a\.wav and a\.mp3 would both be written as a\.srt"):
        transcripts.names(["a.wav", "a.mp3"], "srt")

    def broken():
        yield LONG
        raise CorpusError("no sound")

    for form, given in (("txt", files), ("jsonl", None)):
        with pytest.raises(CorpusError):
            transcripts.write(broken(), tmp_path / "new", form, given)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "asked", "form"),
    [
        ("a.srt", None, "srt"),
        ("a.jsonl.gz", None, "jsonl"),
        ("a", "vtt", "vtt"),
        ("a.TSV", None, "tsv"),
        ("a.b", "txt", "txt"),
    ],
)
def test_the_form_is_told_by_the_name_or_asked_for(tmp_path, name, asked, form):
    assert transcripts.format_of(tmp_path / name, asked) == form


def test_an_unclear_form_is_refused(tmp_path):
    with pytest.raises(ScoringError, match=r"Did you mean 'srt'\? End the name with one of \.jsonl, \.tsv"):
        transcripts.format_of(tmp_path / "a.str", None)
    with pytest.raises(ScoringError, match=r"ends in \.srt, but the form asked for is vtt"):
        transcripts.format_of(tmp_path / "a.srt", "vtt")
