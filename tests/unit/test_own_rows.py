"""Rows of speech of one's own: languages, tables, ids, places, parts of files, and texts that can be said."""

import json
import math
import unicodedata

import numpy as np
import own_speech
import pytest
import soundfile
from own_speech import many, recordings, sound, write

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE, decode
from speechmerge.corpora import own
from speechmerge.corpora.own import judging, languages
from speechmerge.finetuning.training import Source


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


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


def test_cells_of_other_types_are_read_as_they_were_meant(tmp_path):
    texts = {"nan": math.nan, "true": True, "list": ["a"], "number": 11.0, "text": "nan"}
    rows = [
        {"audio": str(write(tmp_path / f"{n}.flac", sound(300 + 9 * i))), "text": t}
        for i, (n, t) in enumerate(texts.items())
    ]
    (tmp_path / "speech.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = own.read(tmp_path / "speech.jsonl", "es")
    assert {clip.id: clip.text for clip in found.clips} == {"number": "11", "text": "nan"}
    assert {one.id: one.kind for one in found.dropped}.keys() == {"nan", "true", "list"}


def test_a_name_is_found_however_its_accents_are_stored(tmp_path):
    write(tmp_path / unicodedata.normalize("NFD", "Müller.flac"), sound(300))
    table = own_speech.table(
        tmp_path / "speech.csv", [{"path": unicodedata.normalize("NFC", "Müller.flac"), "text": "uno"}]
    )
    assert [clip.text for clip in own.read(table, "es").clips] == ["uno"]


@pytest.mark.parametrize("name", ["speech.PARQUET", "Metadata.CSV"])
def test_endings_in_capitals_are_endings(tmp_path, name):
    if name.endswith("PARQUET"):
        own_speech.parquet(tmp_path / "a", recordings()).rename(tmp_path / "b")
        [file, *_] = sorted((tmp_path / "b").rglob("*.parquet"))
        place = file.rename(tmp_path / name)
    else:
        place = own_speech.audiofolder(tmp_path / "a", recordings())
        (place / "metadata.csv").rename(place / name)
    assert own.read(place, "es").clips


def test_a_sign_that_parts_lines_elsewhere_stays_in_its_text(tmp_path):
    rows = [{"path": write(tmp_path / f"{n}.flac", sound(300 + 50 * n)), "text": f"uno\u2028dos {n}"} for n in range(3)]
    for where in (
        own_speech.table(tmp_path / "a.csv", rows),
        own_speech.table(tmp_path / "b.tsv", rows, "\t"),
        own_speech.lines(tmp_path / "c.jsonl", [row | {"path": str(row["path"])} for row in rows]),
    ):
        assert [clip.text for clip in own.read(where, "es").clips] == ["uno dos 0", "uno dos 1", "uno dos 2"]


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


def test_labels_of_a_saved_data_set_are_read_by_their_names(tmp_path):
    from datasets import ClassLabel

    parts = own_speech.data_sets(recordings())
    for name, part in parts.items():
        numbers = [number % 2 for number in range(len(part))]
        parts[name] = part.add_column("language", numbers).cast_column("language", ClassLabel(names=["es", "fr"]))
    parts.save_to_disk(str(tmp_path / "speech"))
    found = own.read(tmp_path / "speech", None)
    assert {clip.language for clip in found.clips} == {"es", "fr"}


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


def test_a_path_may_hold_colons_if_it_exists_and_commas(tmp_path):
    folder = tmp_path / "8:30:es"
    own_speech.audiofolder(folder, recordings())
    assert Source.parse(f"{folder}:es") == Source(str(folder), "es")
    assert own.parse(str(folder)) == (str(folder), None)
    assert own.parse(f"{folder}:es") == (str(folder), "es")
    assert Source.parse_all("./a,b:es:st, tones:it") == (Source("./a,b", "es", "st"), Source("tones", "it"))


def test_only_a_corpus_of_the_registry_has_a_domain():
    assert Source("uqm/pkunk", "en").domain == "pkunk"
    assert Source("./clips/es", "es").domain == Source("data/es", "es").domain == ""


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
