"""Corpora in parquet files (CoVoST 2, CAMÕES), on small folders of the layout the hub has; nothing is downloaded."""

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from corpus_trees import sound

from speechmerge import corpora, hub
from speechmerge.audio import SAMPLE_RATE
from speechmerge.corpora import camoes, covost2, open_asr, parquet
from speechmerge.errors import CorpusError, SourceError

SPLITS = {"train": 24, "validation": 10, "test": 10}


@cache
def mp3(hertz, seconds=1.0):
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(hertz, seconds), SAMPLE_RATE, format="MP3")
    return buffer.getvalue()


def write(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = pa.array(columns["audio"], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table(columns | {"audio": audio}), path, row_group_size=4)


def covost_rows(split, start, count):
    numbers = range(start, start + count)
    return {
        "client_id": [f"voice{number % 3}" for number in numbers],
        "file": [f"{number}.mp3" for number in numbers],
        "audio": [
            {"bytes": mp3(200 + 7 * number + 400 * list(SPLITS).index(split)), "path": f"{number}.mp3"}
            for number in numbers
        ],
        "sentence": [f"Frase {split} {number}." for number in numbers],
        "translation": [f"Sentence {split} {number}." if number % 5 else "" for number in numbers],
        "id": [f"{split}{number}" for number in numbers],
    }


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A folder of data sets with the Catalan and Swedish configurations of CoVoST 2, each split in two files."""
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(parquet.FOLDER, str(tmp_path / "data"))
    for config in ("ca_en", "sv-SE_en"):
        for split, count in SPLITS.items():
            for part in (0, 1):
                rows = covost_rows(split, part * count // 2, count // 2)
                write(tmp_path / f"data/fixie-ai/covost2/{config}/{split}-0000{part}-of-00002.parquet", rows)
    return tmp_path / "data/fixie-ai/covost2"


def test_columns_and_splits_become_clips(local):
    clips = corpora.load("covost2", "ca")
    assert {split: sum(c.split == split for c in clips) for split in corpora.SPLITS} == {
        "train": 24,
        "dev": 10,
        "test": 10,
    }
    clip = next(clip for clip in clips if clip.id == "ca_en/validation-0000007")
    assert (clip.text, clip.translation) == ("Frase validation 7.", "Sentence validation 7.")
    assert (clip.speaker, clip.split, clip.domain, clip.licence) == ("voice1", "dev", "ca_en", "CC0-1.0")
    spectrum = np.abs(np.fft.rfft(clip.samples()[4000:12000]))
    assert np.argmax(spectrum) * SAMPLE_RATE / 8000 == pytest.approx(200 + 49 + 400, abs=4), "another row's sound"
    assert clips[0].translation is None, "an empty translation is none"


def test_swedish_has_another_code(local):
    assert {clip.domain for clip in corpora.load("covost2", "sv", "test")} == {"sv-SE_en"}


def test_a_draw_is_seeded_and_reaches_its_hours(local):
    dataset = replace(covost2.DATASET, hours=lambda language: {"train": 5.5 / 3600})
    first = [item for item in parquet.items(dataset, "ca") if item.split == "train"]
    assert len(first) == 6, "clips of one second until 5.5 s are reached"
    assert [i.id for i in first] != sorted(i.id for i in first), "not simply the first ones"
    assert [i.id for i in parquet.items(dataset, "ca") if i.split == "train"] == [i.id for i in first]
    more = replace(covost2.DATASET, hours=lambda language: {"train": 8 / 3600})
    assert {i.id for i in first} <= {i.id for i in parquet.items(more, "ca")}, "a larger draw keeps the smaller one"
    assert len([i for i in parquet.items(dataset, "ca") if i.split == "dev"]) == 10, "no number takes all"


def test_the_papers_draws():
    assert covost2.DATASET.hours("de") == {"train": 5.0, "dev": 1.0, "test": 1.0}
    assert covost2.DATASET.hours("nl") == {"train": 1.0, "dev": 1.0, "test": 1.0}
    assert corpora.find("covost2").languages == ("ca", "de", "es", "fr", "it", "id", "nl", "pt", "ru", "sv")


def test_a_sentence_of_test_is_left_out_elsewhere(local):
    path = local / "ca_en/train-00000-of-00002.parquet"
    rows = covost_rows("train", 0, 12)
    rows["sentence"][3], rows["sentence"][4] = "FRASE test 2", "frase validation 1!"
    write(path, rows)
    clips = corpora.load("covost2", "ca")
    corpora.check(clips)
    assert len([clip for clip in clips if clip.split == "train"]) == 22
    assert corpora.stored(covost2.CORPUS, "ca")["dropped"] == {"sentence of another split": 2}


@pytest.fixture
def portuguese(tmp_path, monkeypatch):
    """CAMÕES with invented column names, in folders named for the splits."""
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(parquet.FOLDER, str(tmp_path / "data"))
    for number, split in enumerate(SPLITS):
        rows = {
            "audio": [{"bytes": mp3(300 + 50 * number), "path": None}],
            "transcricao": [f"Frase de {split}."],
            "fonte": ["news"],
        }
        write(tmp_path / f"data/inesc-id/camoes_asr/data/{split}/0000.parquet", rows)
    return tmp_path / "data/inesc-id/camoes_asr/data"


def test_unknown_columns_name_what_was_found_and_how_to_map_it(portuguese, monkeypatch):
    with pytest.raises(CorpusError, match=r"found the columns audio, transcricao, fonte; expected domain, text too"):
        corpora.load("camoes", "pt")
    monkeypatch.setenv(parquet.RENAMED, "camoes.text=transcricao camoes.domain=fonte covost2.text=other")
    clips = corpora.load("camoes", "pt")
    assert [(c.split, c.text, c.domain) for c in clips] == [
        ("test", "Frase de test.", "news"),
        ("train", "Frase de train.", "news"),
        ("dev", "Frase de validation.", "news"),
    ]
    assert [c.text for c in corpora.load("camoes/news", "pt", "test")] == ["Frase de test."]
    with pytest.raises(CorpusError, match=r"Corpus 'camoes' has no domain 'telephone'\. Known: news\."):
        corpora.load("camoes/telephone", "pt")
    monkeypatch.setenv(parquet.RENAMED, "camoes.text=fonte camoes.domain=")
    assert {c.text for c in corpora.load("camoes", "pt")} == {"news"}, "other columns build the corpus again"


@pytest.mark.parametrize("entry", ["camoes.text", "text=transcricao", "camoes.language=x"])
def test_a_malformed_map_is_refused(portuguese, monkeypatch, entry):
    monkeypatch.setenv(parquet.RENAMED, entry)
    with pytest.raises(CorpusError, match=r"SPEECHMERGE_COLUMNS: found .* expected CORPUS\.FIELD=COLUMN"):
        parquet.columns(camoes.DATASET)


def test_missing_pieces_are_sentences(local, monkeypatch):
    with pytest.raises(SourceError, match=r"de_en does not exist; SPEECHMERGE_DATASETS is"):
        corpora.load("covost2", "de")
    for path in (local / "ca_en").glob("test-*"):
        path.unlink()
    with pytest.raises(CorpusError, match=r"no parquet file of split 'test'; found train-00000"):
        corpora.load("covost2", "ca")
    damaged = local / "sv-SE_en/test-00000-of-00002.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(
        CorpusError, match=r"test-00000-of-00002\.parquet: not readable as parquet .* download it again"
    ):
        corpora.load("covost2", "sv")


def test_a_row_without_sound_is_a_sentence(local):
    rows = covost_rows("test", 0, 5)
    rows["audio"][2] = {"bytes": None, "path": "2.mp3"}
    write(local / "ca_en/test-00000-of-00002.parquet", rows)
    with pytest.raises(CorpusError, match="row 2: the audio column holds no bytes"):
        corpora.load("covost2", "ca")


def test_without_the_hub_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path))
    monkeypatch.delenv(parquet.FOLDER, raising=False)
    hub.reachable.cache_clear()
    with pytest.raises(
        SourceError, match=r"fixie-ai/covost2 on the Hugging Face hub, which does not answer; set SPEECH"
    ):
        corpora.load("covost2", "ca")


def test_the_hub_is_asked_for_one_configuration(local, monkeypatch):
    asked = []

    def download(repository, **named):
        asked.append(named | {"repository": repository})
        return str(local)

    monkeypatch.delenv(parquet.FOLDER)
    monkeypatch.setattr(parquet.hub, "reachable", lambda *args, **named: True)
    monkeypatch.setattr(parquet, "snapshot_download", download)
    assert len(corpora.load("covost2", "ca", "test")) == 10
    assert [one.pop("allow_patterns") for one in asked] == [
        [f"ca_en/*{split}*.parquet"] for split in ("test", "validation", "train")
    ]
    assert asked[0] == {"repository": "fixie-ai/covost2", "repo_type": "dataset", "revision": None}


def test_fleurs_and_the_english_sets_are_for_tests(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(parquet.FOLDER, str(tmp_path / "data"))
    for number, split in enumerate(("test", "validation")):
        row = {"audio": [{"bytes": mp3(300 + 90 * number), "path": None}], "raw_transcription": [f"Frase {split}."]}
        write(tmp_path / f"data/google/fleurs/pt_br/fleurs-{split}.parquet", row)
    assert [(c.split, c.text, c.domain) for c in corpora.load("fleurs", "pt")] == [
        ("test", "Frase test.", "pt_br"),
        ("dev", "Frase validation.", "pt_br"),
    ]
    for number, config in enumerate(open_asr.CONFIGS):
        name = "test.clean-00000-of-00001" if config == "librispeech" else "test-00000-of-00001"
        row = {"audio": [{"bytes": mp3(600 + 60 * number), "path": None}], "text": [f"words of {config}"]}
        write(tmp_path / f"data/{open_asr.DATASET.repository}/{config}/{name}.parquet", row)
    clips = corpora.load("open_asr", "en")
    assert {clip.domain for clip in clips} == set(open_asr.CONFIGS)
    assert corpora.load("open_asr", "en", domain="tedlium")[0].text == "words of tedlium"
