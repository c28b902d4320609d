"""Speech of one's own: every layout gives the same clips, to every command, decoded once."""

import io
import os

import numpy as np
import own_speech
import pyarrow.parquet as pq
import pytest
import soundfile
from own_speech import LAYOUTS, Recording, recordings, sound, write

from speechmerge import corpora
from speechmerge.corpora import own, tones
from speechmerge.corpora.own import storing
from speechmerge.errors import CorpusError
from speechmerge.finetuning.training import Recipe, Source, train
from speechmerge.finetuning.training_recipe import load
from speechmerge.packages import cache_folder

FETCHED = cache_folder() / "corpora"  # as it is before the tests get a cache of their own
REAL = FETCHED / "stamps/es/clips.parquet"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


def named(some):
    return [pytest.param(layout, id=layout.__name__) for layout in some]


def expect(found, some):
    """The clips are these recordings, whatever they are called."""
    assert found.dropped == []
    assert found.splits_given
    by_text = {clip.text: clip for clip in found.clips}
    assert len(by_text) == len(some) == len(found.clips)
    for one in some:
        clip = by_text[one.text]
        assert (clip.split, clip.language, clip.licence) == (one.split, "es", "unknown")
        np.testing.assert_allclose(clip.samples(), one.samples, atol=1e-4)
    corpora.check(found.clips)


@pytest.mark.parametrize("layout", named(LAYOUTS))
def test_every_layout_gives_the_same_clips(layout, tmp_path):
    some = recordings()
    found = own.read(layout(tmp_path / "speech", some), "es")
    expect(found, some)
    assert {clip.source for clip in found.clips} in ({f"{tmp_path.name}/speech"}, {"speech/speech.csv"})


@pytest.mark.parametrize("layout", named(LAYOUTS))
def test_real_speech_is_the_same_in_every_layout(layout, tmp_path):
    if not REAL.is_file():
        pytest.skip("the corpus 'stamps' is not fetched; run `speechmerge fetch corpora stamps`")
    rows = {row["text"]: row for row in pq.read_table(REAL).slice(0, 40).to_pylist() if row["translation"]}
    some = []
    for number, row in enumerate(rows.values()):
        samples, _ = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        split = ("train", "dev", "test")[number % 3]
        some.append(Recording(f"7-7-{number:04d}", samples, row["text"], row["translation"], "7", split))
    expect(own.read(layout(tmp_path / "speech", some), "es"), some)


@pytest.mark.parametrize("layout", named(LAYOUTS))
def test_loading_takes_a_path_as_it_takes_a_name(layout, tmp_path):
    where = str(layout(tmp_path / "speech", recordings()))
    assert {split: len(corpora.load(where, "es", split)) for split in corpora.SPLITS} == own_speech.SPLITS
    clips = corpora.load(where, "es")
    assert [clip.id for clip in clips] == sorted({clip.id for clip in clips})
    assert clips == own.read(where, "es").clips


def test_translation_and_speaker_are_read_where_they_are(tmp_path):
    clips = own.read(own_speech.plain_table(tmp_path / "speech", recordings()), "es").clips
    told = {(clip.text, clip.translation, clip.speaker) for clip in clips}
    assert told == {(one.text, one.translation, one.speaker) for one in recordings()}
    clips = own.read(own_speech.librispeech(tmp_path / "libri", recordings()), "es").clips
    assert {clip.speaker for clip in clips} == {"0", "1", "2"}
    assert {clip.translation for clip in clips} == {None}


def test_a_data_set_of_the_hub_is_what_the_client_loads(tmp_path, monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a: asked.append(a) or own_speech.data_sets(recordings()))
    found = own.read("hub:somebody/speech:es_419", "es")
    expect(found, recordings())
    assert asked == [("somebody/speech", "es_419")]
    assert found.clips[0].source == "somebody/speech:es_419"
    own.read("hub:somebody/speech", "es")
    assert asked[1] == ("somebody/speech", None)


def test_a_local_folder_goes_the_way_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    folder = own_speech.parquet(tmp_path / "speech", recordings())
    expect(own.read(f"hub:{folder}", "es"), recordings())


def test_the_second_use_decodes_nothing_and_a_change_is_seen(tmp_path, monkeypatch):
    where = own_speech.audiofolder(tmp_path / "speech", recordings())
    first = own.read(where, "es")

    def never(*args):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(storing, "decode", never)
        assert own.read(where, "es") == first
        os.utime(where / f"{recordings()[0].name}.flac", (1, 1))
        with pytest.raises(AssertionError, match="decoded again"):
            own.read(where, "es")
    write(where / f"{recordings()[0].name}.flac", sound(2000, 2.0))
    changed = own.read(where, "es").clips[0]
    assert changed.seconds == 2.0
    (where / "metadata.csv").write_text((where / "metadata.csv").read_text().replace("Digo", "Dije"))
    assert own.read(where, "es").clips[0].text.startswith("Dije")


def test_audio_beside_the_place_that_is_named_is_watched_too(tmp_path):
    sounds = [write(tmp_path / f"far/{one.name}.flac", one.samples) for one in recordings()]
    rows = [{"path": path, "text": one.text} for path, one in zip(sounds, recordings(), strict=True)]
    table = own_speech.table(tmp_path / "near/speech.csv", rows)
    assert len(own.read(table, "es").clips) == len(rows)
    write(sounds[0], sound(2000, 2.5))
    assert 2.5 in {clip.seconds for clip in own.read(table, "es").clips}


def test_links_that_lead_in_a_circle_are_followed_once(tmp_path):
    where = own_speech.audiofolder(tmp_path / "speech", recordings())
    (where / "self").symlink_to(where)
    assert len(own.read(where, "es").clips) == len(recordings())


def test_a_damaged_cache_is_read_anew(tmp_path):
    where = own_speech.audiofolder(tmp_path / "speech", recordings())
    first = own.read(where, "es")
    [kept] = (tmp_path / "cache/own").glob("*/rows.parquet")
    for damaged in (kept, kept.with_name("about.json")):
        damaged.write_bytes(damaged.read_bytes()[:100])
        assert own.read(where, "es") == first


def test_a_name_of_the_registry_goes_before_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_speech.audiofolder(tmp_path / "tones", recordings())
    assert {clip.source for clip in corpora.load("tones", "es")} == {"tones"}
    assert {clip.source for clip in corpora.load("./tones", "es")} == {f"{tmp_path.name}/tones"}
    assert corpora.load(tmp_path / "tones", "es") == corpora.load("./tones", "es")
    own_speech.audiofolder(tmp_path / "tones/mine", recordings())
    with pytest.raises(CorpusError, match=r"has no domain 'mine'\. .* The folder of that name is \./tones/mine\."):
        corpora.load("tones/mine", "es")


def test_a_training_reads_own_speech_beside_a_corpus(tmp_path):
    where = str(own_speech.audiofolder(tmp_path / "speech", recordings()))
    sources = (Source.parse(f"{where}:es"), Source.parse("tones:es"))
    [(clips, language, task)], [(dev, *_)] = load(Recipe(base="smoke", sources=sources))
    assert (language, task) == ("es", "asr")
    assert len(clips) == own_speech.SPLITS["train"] + tones.SIZES["train"]
    assert len(dev) == own_speech.SPLITS["dev"] + tones.SIZES["dev"]


def test_a_training_on_own_speech_is_run(tmp_path):
    where = own_speech.audiofolder(tmp_path / "speech", recordings())
    log = train(Recipe(base="smoke", sources=(Source(str(where), "es"),), epochs=1), tmp_path / "expert")
    assert (tmp_path / "expert/model.safetensors").is_file()
    assert log.windows > 0
