"""Speech of one's own: every layout gives the same clips, to every command, decoded once."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import own_speech
import pyarrow.parquet as pq
import pytest
import soundfile
from cli_calls import Caller
from own_speech import LAYOUTS, Recording, recordings, sound, write

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE, decode
from speechmerge.corpora import building, own, stamps, tones
from speechmerge.corpora.own import judging, languages, storing
from speechmerge.finetuning.training import Recipe, Source, train
from speechmerge.finetuning.training_recipe import load
from speechmerge.packages import cache_folder

FETCHED = cache_folder() / "corpora"  # as it is before the tests get a cache of their own
REAL = FETCHED / "stamps/es/clips.parquet"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def call(monkeypatch, capsys):
    return Caller(monkeypatch, capsys)


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


# Splits


def unsplit(root, some):
    """An audio folder that names no splits."""
    for one in some:
        write(root / f"{one.name}.flac", one.samples)
    rows = [{"file_name": f"{one.name}.flac", "text": one.text} for one in some]
    own_speech.table(root / "metadata.csv", rows)
    return root


def many(texts):
    """A recording for each text, all of other heights."""
    first = recordings()[0]
    heights = [sound(200 + 13 * number, 1.0) for number in range(len(texts))]
    return [
        replace(first, name=f"clip-{number:03d}", samples=samples, text=text, translation="")
        for number, (samples, text) in enumerate(zip(heights, texts, strict=True))
    ]


def test_without_splits_of_its_own_a_sentence_decides_and_stands_in_one(tmp_path):
    texts = [f"Esta es la frase {number}" for number in range(60)]
    some = many([*texts, *(text.upper() + "!" for text in texts)])
    found = own.read(unsplit(tmp_path / "speech", some), "es")
    assert not found.splits_given
    assert len(found.clips) == len(some)
    for clip in found.clips:
        assert clip.split == corpora.assign_split(clip.text, "es")
    assert {clip.split for clip in found.clips} == set(corpora.SPLITS)
    corpora.check(found.clips)


def test_the_order_of_rows_decides_nothing(tmp_path):
    some = many([f"Frase {number % 9}" for number in range(24)])
    some[5] = replace(some[5], samples=some[6].samples, text=some[6].text)
    some[7] = replace(some[7], samples=some[8].samples)
    where = unsplit(tmp_path / "speech", some)
    first = own.read(where, "es")
    assert len(first.dropped) == 3
    for seed in (1, 2):
        head, *rows = (where / "metadata.csv").read_text().splitlines()
        random.Random(seed).shuffle(rows)
        (where / "metadata.csv").write_text("\n".join([head, *rows]))
        again = own.read(where, "es")
        assert (again.clips, again.dropped) == (first.clips, first.dropped)


def test_a_sentence_that_the_source_has_in_two_splits_is_held_out_once(tmp_path):
    some = recordings()
    held = next(one for one in some if one.split == "test")
    dev = next(one for one in some if one.split == "dev")
    some[0], some[1] = replace(some[0], text=held.text.upper()), replace(some[1], text=dev.text)
    found = own.read(own_speech.audiofolder(tmp_path / "speech", some), "es")
    assert {(one.id, one.reason) for one in found.dropped} == {
        (some[0].name, "sentence of another split: test"),
        (some[1].name, "sentence of another split: dev"),
    }
    corpora.check(found.clips)


def test_train_alone_is_no_split(tmp_path):
    some = [replace(one, split="train") for one in many([f"Frase {number}" for number in range(40)])]
    found = own.read(own_speech.audiofolder(tmp_path / "speech", some), "es")
    assert not found.splits_given
    assert {clip.split for clip in found.clips} == set(corpora.SPLITS)
    assert any("train alone" in note for note in found.notes)


def test_a_split_that_is_missing_is_drawn_from_train_and_test_stays(tmp_path):
    some = many([f"Frase {number}" for number in range(60)])
    some = [replace(one, split="test" if number < 10 else "train") for number, one in enumerate(some)]
    found = own.read(own_speech.audiofolder(tmp_path / "speech", some), "es")
    assert found.splits_given
    assert {clip.id for clip in found.clips if clip.split == "test"} == {one.name for one in some[:10]}
    drawn = {clip.id for clip in found.clips if clip.split == "dev"}
    assert drawn == {one.name for one in some[10:] if corpora.assign_split(one.text, "es") == "dev"} != set()


def test_test_alone_stays_test(tmp_path):
    some = [replace(one, split="test") for one in recordings()]
    found = own.read(own_speech.audiofolder(tmp_path / "speech", some), "es")
    assert {clip.split for clip in found.clips} == {"test"}


@pytest.mark.parametrize("given", [False, True])
def test_near_equal_sentences_are_kept_apart_when_asked(tmp_path, given):
    draw = random.Random(4)
    texts = ["".join(draw.choices("aeioulmnrst", k=24)) for _ in range(40)]
    some = many([near for text in texts for near in (text, f"{text} ya")])
    splits = [("train", "dev", "test")[number % 3] for number in range(len(some))]
    some = [replace(one, split=split) for one, split in zip(some, splits, strict=True)]
    where = (own_speech.audiofolder if given else unsplit)(tmp_path / "speech", some)
    found = own.read(where, "es", kept_apart="near")
    sides = {clip.id: clip.split for clip in found.clips}
    pairs = [(some[i].name, some[i + 1].name) for i in range(0, len(some), 2)]
    both = [pair for pair in pairs if set(pair) <= set(sides)]
    assert all(sides[a] == sides[b] for a, b in both)
    if given:
        assert {one.kind for one in found.dropped} == {"near a sentence of another split"}
    else:
        assert len(both) == len(pairs)
        assert corpora.load(str(where), "es", kept_apart="near") == found.clips


# Languages, columns, places


@pytest.mark.parametrize(
    ("written", "code"),
    [
        *(("es", "es"), ("es-ES", "es"), ("es_419", "es"), ("ES", "es"), ("Spanish", "es"), ("spanish", "es")),
        *(("zh-CN", "zh"), ("cmn_hans_cn", "zh"), ("nb-NO", "no"), ("sv-SE", "sv"), ("Castilian", "es"), ("qx", "qx")),
        ("tlh-Latn", "tlh"),
    ],
)
def test_languages_as_people_write_them(written, code):
    assert languages.code(written) == code


def test_clips_of_another_language_are_left_out(tmp_path):
    some = recordings()
    rows = [
        {"path": write(tmp_path / f"{one.name}.flac", one.samples), "text": one.text, "locale": locale}
        for one, locale in zip(some, ["es-MX", "Spanish", "", "fr-FR"] * 4, strict=False)
    ]
    table = own_speech.table(tmp_path / "speech.tsv", rows, "\t")
    found = own.read(table, "es")
    assert found.reasons == {"another language": 3}
    assert {clip.language for clip in found.clips} == {"es"}
    assert {clip.language for clip in own.read(table, "fr").clips} == {"fr"}
    assert {clip.language for clip in own.read(table, None).clips} == {"es", "fr", ""}


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("names", [("Path", "Sentence"), ("file_name", "TRANSCRIPTION"), ("\ufeffaudio path", "text")])
def test_tables_as_programs_write_them(tmp_path, mark, names):
    some = recordings()
    for one in some:
        write(tmp_path / f"{one.name}.flac", one.samples)
    texts = [f'"{one.text[:12]}", ¿no? NA' for one in some]
    rows = [dict(zip(names, (f"{r.name}.flac", text), strict=True)) for r, text in zip(some, texts, strict=True)]
    found = own.read(own_speech.table(tmp_path / "speech.csv", rows, mark), "es")
    assert sorted(clip.text for clip in found.clips) == sorted(texts)


def test_texts_and_ids_that_look_like_numbers_stay_as_they_are(tmp_path):
    rows = [{"path": write(tmp_path / "007.flac", sound(300)), "text": "007"}]
    rows += [
        {"path": write(tmp_path / f"{word}.flac", sound(900 + len(word))), "text": word} for word in ("NA", "null")
    ]
    clips = own.read(own_speech.table(tmp_path / "speech.csv", rows), "es").clips
    assert sorted(clip.text for clip in clips) == ["007", "NA", "null"]
    assert any(clip.id.endswith("007") for clip in clips)


def test_ids_of_the_source_are_taken_unless_they_are_those_of_sentences(tmp_path):
    some = many([f"Frase {number}" for number in range(30)])
    rows = [
        {"id": f"u{n}", "path": write(tmp_path / f"{one.name}.flac", one.samples), "text": one.text}
        for n, one in enumerate(some)
    ]
    assert own.read(own_speech.table(tmp_path / "a.csv", rows), "es").clips[0].id == "u0"
    shared = [row | {"id": f"{n // 3}"} for n, row in enumerate(rows)]
    found = own.read(own_speech.table(tmp_path / "b.csv", shared), "es")
    assert len(found.clips) == 30
    assert found.clips[0].id == "clip-000"
    assert any("ids are not unique" in note for note in found.notes)


def test_common_voice_without_splits_is_what_was_validated(tmp_path):
    where = own_speech.common_voice(tmp_path / "cv", recordings())
    tables = [where / f"{split}.tsv" for split in corpora.SPLITS]
    lines = [line for path in tables for line in path.read_text().splitlines()[1:]]
    (where / "validated.tsv").write_text("\n".join([tables[0].read_text().splitlines()[0], *lines]))
    assert "not read: validated.tsv" in own.read(where, "es").notes
    for path in tables:
        path.unlink()
    found = own.read(where, "es")
    assert len(found.clips) == len(recordings())
    assert not found.splits_given


def test_one_table_of_common_voice_finds_its_clips(tmp_path):
    where = own_speech.common_voice(tmp_path / "cv", recordings())
    assert {clip.split for clip in own.read(where / "test.tsv", "es").clips} == {"test"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        *(("asterisk:es", ("asterisk", "es", "asr")), ("uqm/pkunk:en:asr", ("uqm/pkunk", "en", "asr"))),
        *(("./clips_es:es:st", ("./clips_es", "es", "st")), ("/data/cv.tsv:pt", ("/data/cv.tsv", "pt", "asr"))),
        ("hub:google/fleurs:es", ("hub:google/fleurs", "es", "asr")),
        ("hub:google/fleurs:es_419:es:st", ("hub:google/fleurs:es_419", "es", "st")),
    ],
)
def test_sources_are_read_from_their_end(text, parts):
    source = Source.parse(text)
    assert (source.corpus, source.language, source.task) == parts
    assert Source.parse(str(source)) == source


def test_a_path_may_hold_colons_if_it_exists(tmp_path):
    folder = tmp_path / "8:30:es"
    own_speech.audiofolder(folder, recordings())
    assert Source.parse(f"{folder}:es") == Source(str(folder), "es")
    assert own.parse(str(folder)) == (str(folder), None)
    assert own.parse(f"{folder}:es") == (str(folder), "es")


def test_only_a_corpus_of_the_registry_has_a_domain():
    assert Source("uqm/pkunk", "en").domain == "pkunk"
    assert Source("./clips/es", "es").domain == Source("data/es", "es").domain == ""


# Audio and texts


def test_a_part_of_a_file_is_read(tmp_path):
    steps = np.repeat(np.array([0.1, 0.2, 0.3], np.float32), SAMPLE_RATE)
    soundfile.write(tmp_path / "steps.wav", steps, SAMPLE_RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode(tmp_path / "steps.wav", 1.25, 0.5), 0.2, atol=1e-4)
    assert len(decode(tmp_path / "steps.wav", 1.25, 0.5)) == SAMPLE_RATE // 2
    assert len(decode(tmp_path / "steps.wav", 2.5, 2.0)) == SAMPLE_RATE // 2


def test_a_part_of_a_file_that_only_ffmpeg_reads(tmp_path):
    import av

    samples = np.concatenate([sound(400), sound(1600), sound(400)])
    with av.open(str(tmp_path / "a.m4a"), "w") as file:
        stream = file.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    part = decode(tmp_path / "a.m4a", 1.2, 0.5)
    assert len(part) == SAMPLE_RATE // 2
    assert np.argmax(np.abs(np.fft.rfft(part))) * 2 == pytest.approx(1600, abs=4)


SPOKEN = [  # text, seconds in which it can be said
    *(("Por favor, espere un momento.", 1.6), ("sí", 0.5), ("sí", 10.0), ("1984", 2.0), ("ok", 0.4)),
    *(
        ("今天天气很好，我们去公园散步吧。", 2.4),
        ("東京は今日も雨が降っています", 2.2),
        ("오늘은 날씨가 정말 좋네요", 1.6),
    ),
    *(("Сегодня хорошая погода", 1.2), ("الطقس جميل اليوم", 1.0), ("วันนี้อากาศดีมาก", 1.2), ("नमस्ते दुनिया", 0.8)),
]


@pytest.mark.parametrize(("text", "seconds"), SPOKEN)
def test_texts_that_people_say_fit_in_any_script(text, seconds):
    shortest, longest = judging.speaking_time(text)
    assert shortest <= seconds <= longest


@pytest.mark.parametrize("text", [text for text, _ in SPOKEN if len(text) > 8])
def test_a_text_of_another_recording_fits_in_no_script(text):
    assert judging.speaking_time(text * 6)[0] > judging.speaking_time(text)[0] * 5
    assert judging.speaking_time(text * 6)[0] > 1.2


# The command, and what others need not wait for


def test_inspect_data_tells_what_is_there_and_what_is_not(call, tmp_path):
    some = recordings()
    some[3] = replace(some[3], text="[ruido]")
    some[4] = replace(some[4], samples=sound(300, 0.2))
    where = own_speech.audiofolder(tmp_path / "speech", some)
    code, out, _ = call("inspect-data", f"{where}:es")
    assert code == 0
    for part in ("audio folder with metadata", "12 clips", "2 left out", "train       6 clips", "those of the source"):
        assert part in out
    assert f"1 empty text (first: {some[3].name}: [ruido])" in out
    code, out, _ = call("inspect-data", where, "--dropped", "--json")
    told = json.loads(out)
    assert [one["id"] for one in told["dropped_clips"]] == [some[3].name, some[4].name]
    assert told["languages"][""]["splits"]["test"]["clips"] == 3
    assert sum(one["clips"] for one in told["reasons"]) + told["clips"] == len(some)


def test_inspect_data_remarks_on_capitals(call, tmp_path):
    some = [replace(one, text=one.text.upper()) for one in recordings()]
    _, out, _ = call("inspect-data", f"{own_speech.librispeech(tmp_path / 'libri', some)}:es")
    assert "all texts are in capitals" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere:es",), "nowhere: there is no such file or folder"),
        (("hub:speech:es",), "'hub:speech' names no data set; expected hub:OWNER/NAME"),
        (("{folder}:xx",), "There is no language 'xx'; expected Whisper's code"),
        (("tones:es",), "'tones' is a corpus of the registry"),
    ],
)
def test_inspect_data_refuses_in_a_sentence(call, tmp_path, words, message):
    folder = own_speech.audiofolder(tmp_path / "speech", recordings())
    code, out, err = call("inspect-data", *(word.format(folder=folder) for word in words))
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_the_command_line_does_not_wait_for_datasets():
    code = "import sys, speechmerge.cli, speechmerge.corpora; print('datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_corpus_is_keyed_by_the_code_that_decides_its_clips_alone(tmp_path, monkeypatch):
    folder = tmp_path / "speechmerge/corpora"
    shutil.copytree(Path(building.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(building.__file__).parents[1] / "audio.py", folder.parent)
    monkeypatch.setattr(building, "__file__", str(folder / "building.py"))

    def codes():
        building.hashes.cache_clear()
        return {name: tuple(building.code(corpus)) for name, corpus in corpora.registry().items()}

    def changed(*parts):
        path, before = folder.joinpath(*parts), codes()
        content = path.read_text()
        path.write_text(content + "# changed\n")
        after = codes()
        path.write_text(content)
        return {name for name in before if before[name] != after[name]}

    every = set(corpora.registry())
    assert changed("..", "audio.py") == changed("base.py") == changed("building.py") == every
    assert changed("stamps.py") == {"stamps"}
    assert changed("parquet.py") == {name for name, corpus in corpora.registry().items() if corpus.hub}
    assert changed("nearness.py") == changed("__init__.py") == changed("own", "rows.py") == set()
    building.hashes.cache_clear()


def test_every_corpus_stands_in_the_file_of_its_name():
    for module in corpora.MODULES:
        assert Path(module.__file__).stem == module.CORPUS.name
    assert len(building.code(stamps.CORPUS)) == 4  # audio, base, building, stamps
