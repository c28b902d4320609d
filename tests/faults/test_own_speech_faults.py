"""Fault 21 in speech of one's own: what cannot be used is left out with its reason, or refused in one sentence."""

import io
import json
from dataclasses import replace

import numpy as np
import own_speech
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from own_speech import flac, lines, recordings, sound, table, write

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE
from speechmerge.corpora import own
from speechmerge.errors import CorpusError, SourceError, TrainingError
from speechmerge.finetuning.training import Source


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """A sound audio folder, to which rows that are not are added."""
    return own_speech.audiofolder(tmp_path / "speech", recordings())


def add(folder, name, text="hola", data=None, **columns):
    """Add a row to the metadata, and the file if there are bytes for it."""
    if data is not None:
        (folder / name).write_bytes(data)
    path = folder / "metadata.csv"
    names = path.read_text().splitlines()[0].split(",")
    cells = {"file_name": name, "transcription": f'"{text}"'} | columns
    path.write_text(path.read_text() + ",".join(cells.get(one, "") for one in names) + "\n")


def wav(samples, rate=SAMPLE_RATE, subtype="FLOAT"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


NAN = np.where(np.arange(SAMPLE_RATE) == 77, np.nan, sound(700)).astype(np.float32)
LEFT_OUT = {
    "missing": ("a.wav", "hola", None, "audio file is missing: a.wav"),
    "outside": ("../a.wav", "hola", None, "path leaves the folder: ../a.wav"),
    "absolute": ("/nowhere/a.wav", "hola", None, "audio file is missing: /nowhere/a.wav"),
    "home of nobody": ("~no-such-user/a.wav", "hola", None, "audio file is missing: ~no-such-user/a.wav"),
    "a text for a path": ("hola " * 80, "hola", None, "audio file is missing: hola hola"),
    "a point": (".", "hola", None, "audio file is missing: "),
    "no path": ("", "hola", None, "no audio named"),
    "empty file": ("a.wav", "hola", b"", "unreadable audio: "),
    "cut header": ("a.wav", "hola", b"RIFF\x00\x00", "unreadable audio: "),
    "no sound": ("a.mp3", "hola", b"this is a text, not speech" * 40, "unreadable audio: "),
    "no samples": ("a.wav", "hola", wav(np.zeros(0)), "unreadable audio: "),
    "not finite": ("a.wav", "hola", wav(NAN), "unreadable audio: "),
    "short": ("a.wav", "hola", wav(sound(700, 0.3)), "shorter than 0.4 s: 0.30 s"),
    "long": ("a.wav", "hola", wav(sound(700, 28.5)), "longer than 28 s: 28.5 s"),
    "silent": ("a.wav", "hola", wav(0.001 * sound(700)), "silent"),
    "no text": ("a.wav", "", wav(sound(700)), "empty text"),
    "points": ("a.wav", "...", wav(sound(700)), "empty text: ..."),
    "remark": ("a.wav", "[risas]", wav(sound(700)), "empty text: [risas]"),
    "damaged text": ("a.wav", "qu\ufffd", wav(sound(700)), "damaged characters: qu\ufffd"),
    "too fast": ("a.wav", "hola " * 12, wav(sound(700)), "text too long for its recording: 59 characters in 1.0 s"),
    "too slow": ("a.wav", "hola", wav(sound(700, 20.0)), "text too short for its recording: 4 characters in 20.0 s"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_recording_that_cannot_be_used_is_left_out_with_its_reason(folder, name):
    path, text, data, reason = LEFT_OUT[name]
    add(folder, path, text, data)
    found = own.read(folder, "es")
    assert len(found.clips) == len(recordings())
    [dropped] = found.dropped
    assert dropped.reason.startswith(reason)
    assert dropped.kind == reason.partition(":")[0]
    assert all(clip.text != text for clip in corpora.load(str(folder), "es"))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_any_cut_or_altered_file_is_heard_or_left_out(tmp_path, suffix):
    kinds = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
    soundfile.write(tmp_path / f"whole.{suffix}", sound(500, 1.2), SAMPLE_RATE, subtype=kinds[suffix])
    whole, draw = (tmp_path / f"whole.{suffix}").read_bytes(), np.random.default_rng(5)
    rows = [{"path": f"whole.{suffix}", "text": "entero"}]
    for number in range(24):
        data = bytearray(whole[: draw.integers(1, len(whole))] if number % 2 else whole)
        for place in draw.integers(0, len(data), size=8):
            data[place] = draw.integers(256)
        (tmp_path / f"{number}.{suffix}").write_bytes(data)
        rows.append({"path": f"{number}.{suffix}", "text": f"número {number}"})
    rows += [{"path": write(tmp_path / f"ok/{n}.flac", sound(900 + 9 * n)), "text": f"sano {n}"} for n in range(30)]
    found = own.read(table(tmp_path / "speech.csv", rows), "es")
    assert len(found.clips) + len(found.dropped) == len(rows)
    assert sum(clip.text.startswith("sano") for clip in found.clips) == 30


def test_repeats(folder):
    first, second = recordings()[:2]
    add(folder, "again.flac", first.text, flac(first.samples), split="train")
    add(folder, "other.flac", "otra cosa", flac(second.samples), split="train")
    found = own.read(folder, "es")
    several = f"one recording under several texts: {second.text} / otra cosa"
    assert {(one.id, one.reason) for one in found.dropped} == {
        ("again", f"repeated recording: as {first.name}"),
        (second.name, several),
        ("other", several),
    }


def test_an_id_that_stands_for_two_recordings_is_kept_once(tmp_path):
    root = own_speech.kaldi(tmp_path / "speech", recordings())
    name = recordings()[0].name
    with (root / "train/text").open("a") as stream:
        stream.write(f"{name} con otro texto\n")
    found = own.read(root, "es")
    assert [one.kind for one in found.dropped] == ["one recording under several texts"] * 2
    rows = [
        {"utt_id": "u0" if n in (0, 1) else f"u{n}", "path": write(tmp_path / f"{n}.flac", one.samples)}
        | {"text": one.text}
        for n, one in enumerate(recordings())
    ]
    found = own.read(table(tmp_path / "speech.csv", rows), "es")
    assert [(one.id, one.kind) for one in found.dropped] == [("u0", "repeated id")]


def test_two_files_of_one_name_are_no_repeat(tmp_path):
    audio = [{"bytes": flac(one.samples), "path": "audio.wav"} for one in recordings()]
    columns = {"audio": pa.array(audio), "text": [one.text for one in recordings()]}
    pq.write_table(pa.table(columns), tmp_path / "speech.parquet")
    found = own.read(tmp_path / "speech.parquet", "es")
    assert len({clip.id for clip in found.clips}) == len(recordings())
    assert found.dropped == []


def test_a_comma_that_is_not_quoted_is_seen(folder):
    path = folder / "metadata.csv"
    write(folder / "a.flac", sound(3000))
    path.write_text(path.read_text() + "a.flac,hola, mundo,,train\n")
    [dropped] = own.read(folder, "es").dropped
    assert dropped.reason == "line has 5 cells, expected 4: line 16 of metadata.csv"


def test_a_lone_quotation_mark_swallows_no_row(folder):
    path = folder / "metadata.csv"
    sound_text = path.read_text()
    path.write_text(sound_text + 'a.flac,"hola,,train\nb.flac,mundo,,train\n')
    with pytest.raises(CorpusError, match=r"metadata\.csv, line 1\d: not readable as CSV .*put quotation marks round"):
        own.read(folder, "es")
    path.write_text(sound_text + 'a.flac,"hola,,train\nb.flac,mundo",,train\n')
    [dropped] = own.read(folder, "es").dropped
    assert dropped.reason == "line has a cell that goes on in the next: line 17 of metadata.csv"


def test_segments_outside_their_recording(tmp_path):
    write(tmp_path / "long.flac", np.concatenate([sound(300 + 100 * n) for n in range(8)]))
    rows = [{"audio_filepath": "long.flac", "offset": n, "duration": 1.0, "text": f"uno {n}"} for n in range(8)]
    rows += [{"audio_filepath": "long.flac", "offset": 7.5, "duration": 3.0, "text": "tarde"}]
    rows += [{"audio_filepath": "long.flac", "offset": 20, "duration": 1.0, "text": "después"}]
    rows += [{"audio_filepath": "long.flac", "offset": -1, "duration": 1.0, "text": "antes"}]
    rows += [{"audio_filepath": "long.flac", "offset": "x", "duration": 1.0, "text": "nunca"}]
    rows += [{"audio_filepath": "long.flac", "offset": 1, "duration": 1.0, "text": ["una", "lista"]}]
    found = own.read(lines(tmp_path / "speech.jsonl", rows), "es")
    assert len(found.clips) == 8
    assert found.reasons == {
        "ends after its recording": 1,
        "unreadable audio": 1,
        "beginning or length cannot be": 1,
        "beginning or length is no number": 1,
        "text is no text": 1,
    }


def test_most_recordings_missing_is_an_error_that_names_the_first(folder):
    for number in range(len(recordings()) + 1):
        add(folder, f"gone{number:02d}.wav", f"texto {number}")
    with pytest.raises(CorpusError, match=r"15 of 29 rows cannot be read \(first: gone00: .*missing: gone00\.wav\)"):
        own.read(folder, "es")
    assert not list((folder.parent / "cache").rglob("rows.parquet")), "nothing half-read is kept"


def test_nothing_usable_is_an_error_with_all_reasons(tmp_path):
    some = [replace(one, text="(música)") for one in recordings()]
    some[0] = replace(some[0], samples=sound(300, 0.2), text="hola")
    with pytest.raises(
        CorpusError, match=r"none of 14 recordings can be used: 13 × empty text, 1 × shorter than 0.4 s"
    ):
        own.read(own_speech.audiofolder(tmp_path / "speech", some), "es")


def test_another_language_than_all_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CorpusError, match=r"none of 14 .*14 × another language \(first: .*another language: es\)"):
        own.read(own_speech.plain_table(tmp_path / "speech", recordings()), "fr")


REFUSED = {
    "unknown columns": (
        "a.csv",
        b"file,words\nx.wav,hola\n",
        r"found the columns file, words; expected one for the text",
    ),
    "no names": ("a.csv", b"x.wav,hola\ny.wav,mundo\n", r"found the columns x\.wav, hola; expected .* and one for the"),
    "no rows": ("a.csv", b"path,text\n", "there is not one row"),
    "empty": ("a.csv", b"", "the table is empty"),
    "other encoding": ("a.csv", "path,text\nx.wav,señor\n".encode("latin-1"), r"not UTF-8 .*save it as UTF-8"),
    "no JSON": ("a.jsonl", b'{"path": "x.wav", "text": "hola"}\n{"path":\n', r"a\.jsonl, line 2: not readable as JSON"),
    "a list": ("a.jsonl", b'["x.wav", "hola"]\n', "entry 1: found str, expected one JSON object for each"),
    "other fields": ("a.jsonl", b'{"wave": "x.wav", "text": "hola"}\n', "found the columns wave, text"),
    "no lines": ("a.jsonl", b"\n", "holds no lines"),
    "no parquet": ("a.parquet", b"PAR1 and no more", "not readable as parquet"),
    "another kind": ("a.docx", b"x", r"a file \.docx is no table or manifest"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_speech_is_refused(tmp_path, name):
    file, content, message = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        corpora.load(str(tmp_path / file), "es")


def test_parquet_that_is_damaged_inside(tmp_path):
    where = own_speech.parquet(tmp_path / "speech", recordings())
    path = where / "train-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"speech: its rows cannot be read to the end .* download it again"):
        own.read(where, "es")


def test_folders_that_are_no_speech_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"found nothing; expected one of: saved data set, audio folder"):
        own.read(tmp_path, "es")
    (tmp_path / "notes.md").touch()
    with pytest.raises(CorpusError, match=r"found notes\.md; expected one of"):
        own.read(tmp_path, "es")
    write(tmp_path / "a.flac", sound(300))
    with pytest.raises(CorpusError, match=r"found 1 sounds but no transcripts \(write metadata\.csv"):
        own.read(tmp_path, "es")


def test_shell_commands_of_kaldi_are_refused_and_never_run(tmp_path):
    root = own_speech.kaldi(tmp_path / "speech", recordings())
    scp = root / "dev/wav.scp"
    name = recordings()[0].name
    scp.write_text(scp.read_text() + f"{name} touch {tmp_path / 'run'} |\n")
    with pytest.raises(CorpusError, match=rf"1 recordings are shell commands \(first: '{name}'\), which are never run"):
        own.read(root, "es")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u rec 1.0", "expected UTTERANCE RECORDING START END"),
        ("u rec 2 1", "goes from 2 to 1; expected an end"),
    ],
)
def test_segments_of_kaldi_that_are_none(tmp_path, line, message):
    root = own_speech.kaldi(tmp_path / "speech", recordings())
    (root / "test/segments").write_text(line + "\n")
    with pytest.raises(CorpusError, match=message):
        own.read(root, "es")


def test_utterances_of_kaldi_without_a_sound_or_a_text_are_told(tmp_path):
    root = own_speech.kaldi(tmp_path / "speech", recordings())
    (root / "train/text").write_text((root / "train/text").read_text() + "nobody hola\n")
    path = write(tmp_path / "b.flac", sound(5000))
    (root / "train/wav.scp").write_text((root / "train/wav.scp").read_text() + f"mute {path}\n")
    assert {one.id: one.kind for one in own.read(root, "es").dropped} == {
        "nobody": "audio file is missing",
        "mute": "empty text",
    }


def test_a_saved_data_set_that_is_damaged(tmp_path):
    where = own_speech.saved(tmp_path / "speech", recordings())
    next(where.glob("train/*.arrow")).write_bytes(b"ARROW1")
    with pytest.raises(CorpusError, match="not readable as a saved data set"):
        own.read(where, "es")


def test_a_data_set_of_the_hub_that_cannot_be_had(tmp_path):
    with pytest.raises(SourceError, match=r"hub:nobody/nothing: the data set cannot be read .* download it and name"):
        corpora.load("hub:nobody/nothing", "es")
    with pytest.raises(SourceError, match="names no data set; expected hub:OWNER/NAME"):
        corpora.load("hub:nothing", "es")


@pytest.mark.parametrize(
    ("where", "arguments", "message"),
    [
        ("./nowhere", {}, r"\./nowhere: there is no such file or folder, and no corpus of that name"),
        ("tonez", {}, r"no corpus 'tonez'\. Did you mean 'tones'\? Speech of your own is named by the path"),
        ("{folder}", {"split": "tset"}, r"no split 'tset'\. Did you mean 'test'\?"),
        ("{folder}", {"domain": "x"}, "speech of one's own has no domains, found 'x'"),
        ("{folder}", {"kept_apart": "far"}, "There are no splits 'far'"),
    ],
)
def test_misspelt_places(folder, where, arguments, message):
    with pytest.raises(CorpusError, match=message):
        corpora.load(where.format(folder=folder), "es", **arguments)


@pytest.mark.parametrize("language", ["xx", "spanisch", "klingon"])
def test_a_language_that_is_none(folder, language):
    with pytest.raises(CorpusError, match=f"There is no language '{language}'; expected Whisper's code"):
        corpora.load(str(folder), language)


@pytest.mark.parametrize(
    "text",
    ["tones", "tones:es:sst", "tones:es:asr:more", "", ":es", "hub:es", "hub:name:es", "hub:a/b:c:d:es", "./x:Spain"],
)
def test_unclear_sources_are_refused_with_an_example(text):
    with pytest.raises(
        TrainingError, match=r"is not corpus:language\[:asr\|st\], for example asterisk:es:asr. .*\./clips:es"
    ):
        Source.parse(text)


def test_a_report_counts_every_row(folder):
    for name in ("missing", "silent", "remark"):
        path, text, data, _ = LEFT_OUT[name]
        add(folder, f"{name}-{path}", text, data)
    found = own.read(folder, "es")
    assert len(found.clips) + len(found.dropped) == len((folder / "metadata.csv").read_text().splitlines()) - 1
    assert json.dumps(found.reasons)
