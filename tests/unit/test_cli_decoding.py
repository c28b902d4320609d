"""The commands decode and score on test sets, recordings and files of texts: forms, and mistakes as one sentence."""

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_calls import Caller

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE
from speechmerge.errors import CorpusError, ScoringError
from speechmerge.evaluation import references, transcription
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.predictions import Prediction, read_predictions, write_predictions
from speechmerge.evaluation.recordings import Recording
from speechmerge.evaluation.transcription import Segment


@pytest.fixture
def run(monkeypatch, capsys):
    return Caller(monkeypatch, capsys)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Hypotheses of a random model are as long as they may be."""
    monkeypatch.setattr("speechmerge.evaluation.decoding_settings.MAX_TOKENS", 6)
    monkeypatch.setattr(transcription, "_segments", lambda *_: [Segment(0.0, 1.5, "uno"), Segment(1.5, 2.0, "dos")])


@pytest.fixture
def talks(tmp_path):
    """A folder with two short recordings."""
    for name, seconds in (("a.wav", 1.0), ("sub/b.flac", 2.0)):
        (tmp_path / "talks" / name).parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * np.sin(np.arange(round(seconds * SAMPLE_RATE)) * 0.1)
        soundfile.write(tmp_path / "talks" / name, samples, SAMPLE_RATE)
    return tmp_path / "talks"


def test_a_recording_becomes_a_file_of_the_form_its_name_says(run, talks, tmp_path):
    for form, start in (("srt", "1\n00:00:00,000"), ("vtt", "WEBVTT\n"), ("tsv", "start\tend"), ("txt", "")):
        output = tmp_path / f"out.{form}"
        code, out, err = run("decode", "smoke", output, talks / "a.wav", "--no-guard")
        assert (code, out) == (0, f"{output}: 1 recording\n") and output.read_text().startswith(start)
        assert "language detected: " in err and "(a.wav)" in err
    code, _, err = run("decode", "smoke", tmp_path / "it.srt", talks / "a.wav", "--language", "it", "--task", "st")
    assert code == 0 and "detected" not in err


def test_what_is_there_or_read_is_not_replaced(run, talks, tmp_path):
    said = [Prediction("a", "uno", False)]
    write_predictions(said, tmp_path / "said.jsonl")
    (tmp_path / "texts.csv").write_text("id,text\na,uno\n")
    words = ("score", tmp_path / "said.jsonl", "--references", tmp_path / "texts.csv", "--language", "es", "--clips")
    for output in ("said.jsonl", "texts.csv"):
        code, _, err = run(*words, tmp_path / output, "--overwrite")
        assert code == 1 and "is read here, so it is not written" in err
    assert read_predictions(tmp_path / "said.jsonl") == said
    (tmp_path / "mine.tsv").write_text("mine")
    (tmp_path / "link.tsv").symlink_to(tmp_path / "mine.tsv")
    assert "already exists; choose another output or pass --overwrite" in run(*words, tmp_path / "link.tsv")[2]
    assert (tmp_path / "mine.tsv").read_text() == "mine"
    assert run(*words, tmp_path / "link.tsv", "--overwrite")[0] == 0
    assert (tmp_path / "link.tsv").is_symlink() and (tmp_path / "mine.tsv").read_text().startswith("id\t")
    for words in ((talks / "a.wav", "--no-guard"), ("--corpus", "tones", "--language", "es")):
        code, _, err = run("decode", "smoke", tmp_path / "said.jsonl", *words)
        assert code == 1 and "already exists" in err
    assert read_predictions(tmp_path / "said.jsonl") == said
    os.mkfifo(tmp_path / "pipe.jsonl")
    code, _, err = run("decode", "smoke", tmp_path / "pipe.jsonl", talks / "a.wav", "--overwrite")
    assert code == 1 and "neither a file nor a folder" in err


def test_a_folder_becomes_json_lines_or_a_folder(run, talks, tmp_path):
    words = (talks, "--language", "es", "--no-guard")
    assert run("decode", "smoke", tmp_path / "all.jsonl.gz", *words)[:2] == (
        0,
        f"{tmp_path / 'all.jsonl.gz'}: 2 recordings\n",
    )
    rows = [
        json.loads(line) for line in gzip.decompress((tmp_path / "all.jsonl.gz").read_bytes()).decode().splitlines()
    ]
    assert [row["id"] for row in rows] == ["a.wav", "sub/b.flac"] and not any("segments" in row for row in rows)
    assert run("decode", "smoke", tmp_path / "timed.jsonl", *words, "--segments")[0] == 0
    row = json.loads((tmp_path / "timed.jsonl").read_text().splitlines()[0])
    assert row["segments"][1] == {"start": 1.5, "end": 2.0, "text": "dos"} and row["text"] == "uno dos"
    assert run("decode", "smoke", tmp_path / "out", *words, "--format", "srt")[0] == 0
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")) == [
        "a.srt",
        "sub/b.srt",
    ]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"id": name, "text": "uno dos"}) + "\n" for name in ("sub/b.flac", "a.wav")))
    code, out, _ = run("score", tmp_path / "timed.jsonl", "--references", texts, "--language", "es")
    assert code == 0 and out.startswith("WER 0.00%") and "2 clips, 4 words" in out


@pytest.mark.parametrize("form", ["jsonl", "srt"])
def test_a_recording_that_breaks_off_is_named_and_the_others_are_kept(run, talks, tmp_path, monkeypatch, form):
    def breaks(self, frames):
        if self.path.name == "b.flac":
            raise CorpusError(f"{self.path}: a sample is not finite; the file is damaged.")
        return resampled(self, frames)

    resampled = Recording._resampled
    monkeypatch.setattr(Recording, "_resampled", breaks)
    monkeypatch.setattr("speechmerge.evaluation.recordings.check", lambda found: None)  # what lies further in
    output = tmp_path / ("all.jsonl" if form == "jsonl" else "out")
    words = ("decode", "smoke", output, talks, "--language", "es", "--no-guard", "--format", form)
    code, out, err = run(*words)
    assert code == 1 and out == f"{output}: 1 recording\n"
    assert "1 of 2 recordings are not transcribed" in err and "b.flac: a sample is not finite" in " ".join(err.split())
    kept = [json.loads(line)["id"] for line in output.read_text().splitlines()] if form == "jsonl" else output.iterdir()
    assert [Path(one).stem for one in kept] == ["a"]


def test_the_guard_stands_for_recordings_and_not_for_test_sets(run, talks, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Decoder, "_guarded", lambda _, found, *__: asked.append(1) or found)
    words = ("decode", "smoke", tmp_path / "a.jsonl", talks / "a.wav", "--language", "es", "--overwrite")
    for more, guarded in (((), 1), (("--no-guard",), 0), (("--guard",), 1)):
        assert run(*words, *more)[0] == 0 and len(asked) == guarded
        asked.clear()
    words = (
        "decode",
        "smoke",
        tmp_path / "es.jsonl.gz",
        "--corpus",
        "tones",
        "--language",
        "es",
        "--split",
        "dev",
        "--overwrite",
    )
    assert run(*words)[0] == 0 and not asked
    assert run(*words, "--guard")[0] == 0 and asked


WRONG = [
    (["out.srt"], "name what to decode: either RECORDINGS or a test set"),
    (["out.srt", "talks", "--corpus", "tones", "--language", "es"], "name what to decode: either"),
    (["out.srt", "nowhere.wav"], "nowhere.wav does not exist; expected an audio file"),
    (["out.srt", "talks"], "each recording has its own .srt: name a folder as OUTPUT, and --format srt."),
    (["out.str", "talks/a.wav"], "the form of the transcripts is not clear. Did you mean 'srt'?"),
    (["out", "talks/a.wav"], "End the name with one of .jsonl, .tsv, .srt, .vtt, .txt, or give --format."),
    (["out.srt", "talks/a.wav", "--format", "tsv"], "ends in .srt, but the form asked for is tsv"),
    (["talks", "talks", "--format", "srt"], "OUTPUT talks is there already; name another."),
    (["talks/a.wav", "talks/a.wav", "--format", "txt"], "is read here, so it is not written; name another output."),
    (["out.srt", "talks/a.wav", "--language", "spanish"], "knows no language 'spanish'. Did you mean 'es'?"),
    (["out.srt", "broken.wav"], "broken.wav: not readable as audio"),
    (["new/out.jsonl", "talks", "broken.wav"], "broken.wav: not readable as audio"),
    (["out", "talks", "broken.wav", "--format", "txt"], "broken.wav: not readable as audio"),
    (["x.jsonl.gz", "--corpus", "tones"], "a test set is of one language; give its code"),
    (["x.jsonl.gz", "--corpus", "tones", "--language", "auto"], "a test set is of one language; give its code"),
    (["x.srt", "--corpus", "tones", "--language", "es"], "of a test set are JSON lines without times"),
    (["x.jsonl", "--corpus", "tones", "--language", "es", "--segments"], "of a test set are JSON lines without times"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_in_decoding_is_a_sentence_and_leaves_nothing(run, talks, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    monkeypatch.setattr(Decoder, "decode", None)  # nothing is decoded before all is checked
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    code, out, err = run("decode", "smoke", *words)
    assert code != 0 and out == "" and message in " ".join(err.split()) and "Traceback" not in err
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


@pytest.fixture
def heard(tmp_path):
    write_predictions([Prediction("a", "uno dos"), Prediction("b", "tres")], tmp_path / "heard.jsonl")
    return tmp_path / "heard.jsonl"


FORMS = {
    "texts.jsonl": '{"id": "b", "text": "tres"}\n{"id": "a", "text": "uno dos, \\"tres\\"", "more": 1}\n',
    "texts.csv": '\ufeffid,text\nb,tres\na,"uno dos, ""tres"""\n',
    "texts.tsv": 'id\ttext\tx\nb\ttres\t\na\tuno dos, "tres"\t\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_hypotheses_are_scored_against_a_file_of_texts(run, heard, tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    words = ("score", heard, "--references", tmp_path / name, "--language", "es", "--clips", tmp_path / "clips.tsv")
    code, out, _ = run(*words)
    assert code == 0 and out.startswith("WER 25.00%") and "2 clips, 4 words, 0 runaway" in out
    table = (tmp_path / "clips.tsv").read_text().splitlines()
    assert table == [
        "id\terrors\twords\treference\thypothesis",
        "b\t0\t1\ttres\ttres",
        'a\t1\t3\tuno dos, "tres"\tuno dos',
    ]


def test_translations_are_scored_against_a_file_of_texts(run, heard, tmp_path):
    write_predictions([Prediction("a", "one two three four"), Prediction("b", "tres")], heard)
    (tmp_path / "texts.csv").write_text("id,text,translation\na,x,one two three four\nb,y,cuatro\n")
    words = ("score", heard, "--references", tmp_path / "texts.csv", "--language", "es", "--task", "st")
    code, out, _ = run(*words, "--clips", tmp_path / "clips.tsv")
    assert code == 0 and out.startswith("BLEU ") and "2 clips" in out
    table = [line.split("\t") for line in (tmp_path / "clips.tsv").read_text().splitlines()]
    assert table[0] == ["id", "bleu", "reference", "hypothesis"] and table[2][2:] == ["cuatro", "tres"]
    assert [row[0] for row in table[1:]] == ["a", "b"] and [row[1] for row in table[1:]] == ["100.00", "0.00"]


def test_a_test_set_has_a_table_too(run, tmp_path):
    clips = corpora.load("tones", "es", "dev")
    write_predictions([Prediction(clip.id, clip.text) for clip in clips], tmp_path / "es.jsonl.gz")
    words = ("score", tmp_path / "es.jsonl.gz", "--corpus", "tones", "--language", "es", "--split", "dev")
    code, out, _ = run(*words, "--clips", tmp_path / "clips.tsv")
    assert (
        code == 0
        and out.startswith("WER 0.00%")
        and len((tmp_path / "clips.tsv").read_text().splitlines()) == 1 + len(clips)
    )


TEXTS = [
    ("texts.csv", "id,text\na,uno\n", "1 references, 1 unknown (for example 'b')"),
    ("texts.csv", "id,text\na,uno\nb,x\nc,y\n", "3 references, 1 missing (for example 'c')"),
    ("texts.csv", "id,text\na,uno\nb,x\nb,y\n", "an id stands twice"),
    ("texts.csv", "id,sentence\na,uno\n", "reference 1 has no 'text' as text. Known: id, sentence."),
    ("texts.csv", "id,txt\na,uno\n", "reference 1 has no 'text' as text. Did you mean 'txt'?"),
    ("texts.CSV", "ID ; Text\na;uno\nb;x\nc;y\n", "3 references, 1 missing (for example 'c')"),
    ("texts.csv", "id,text\n", "there are no references in it"),
    ("texts.jsonl", '{"id": "a", "text": 3}\n', "reference 1 has no 'text' as text"),
    ("texts.jsonl", "[1]\n", "reference 1 has no 'id' as text."),
    ("texts.jsonl", "uno\n", "not readable as references ("),
    ("texts.stm", "a\n", "references are read from .jsonl, .csv, .tsv, not from .stm."),
]


@pytest.mark.parametrize(("name", "content", "message"), TEXTS)
def test_texts_that_do_not_fit_are_refused(run, heard, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    words = ("score", heard, "--references", tmp_path / name, "--language", "es", "--clips", tmp_path / "clips.tsv")
    code, out, err = run(*words)
    assert code == 1 and out == "" and message in " ".join(err.split()) and not (tmp_path / "clips.tsv").exists()


def test_what_was_decoded_is_named_once(run, heard, tmp_path):
    for more in ((), ("--corpus", "tones", "--references", tmp_path / "x.csv")):
        code, _, err = run("score", heard, "--language", "es", *more)
        assert code == 2 and "name what was decoded: a test set, --corpus WHERE, or a file of texts" in " ".join(
            err.split()
        )
    with pytest.raises(ScoringError, match=r"x\.csv: not readable as references \(No such file"):
        references.read(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_bytes(b"id,text\na,\xff\n")
    with pytest.raises(ScoringError, match="in UTF-8"):
        references.read(tmp_path / "x.csv")


def test_a_plain_name_is_written_plain_and_read_again(run, tmp_path):
    words = ("decode", "smoke", tmp_path / "es.jsonl", "--corpus", "tones", "--language", "es", "--split", "dev")
    assert run(*words)[0] == 0
    first = json.loads((tmp_path / "es.jsonl").read_text().splitlines()[0])
    assert first.keys() == {"id", "text", "cut"}
    assert len(read_predictions(tmp_path / "es.jsonl")) == len(corpora.load("tones", "es", "dev"))


def test_an_adapter_is_decoded_with_its_base(run, talks, tmp_path, monkeypatch):
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    words = ("decode", adapter, tmp_path / "a.txt", talks / "a.wav", "--language", "es", "--no-guard")
    code, _, err = run(*words)
    assert code == 2 and "is a LoRA adapter; name its base model with --base." in " ".join(err.split())
    made = []
    monkeypatch.setattr("speechmerge.merging.given.whole", lambda folder, base: made.append(folder) or base)
    assert run(*words, "--base", "smoke")[0] == 0 and made == [adapter]
    shutil.rmtree(adapter)
