"""Joins, filters, splits and storage of the corpora, on small package trees made here."""

import gzip
import random
from dataclasses import replace

import av
import numpy as np
import pytest
import soundfile

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE
from speechmerge.corpora import asterisk, building, stamps, tones
from speechmerge.errors import CorpusError


def sound(hertz, seconds=1.0, rate=SAMPLE_RATE):
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def write_g722(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="g722") as file:
        stream = file.add_stream("g722", rate=SAMPLE_RATE, layout="mono")
        pcm = (samples * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Package trees under tmp_path/debian instead of downloaded ones, and an empty cache."""
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    asked = []

    def fake(names):
        asked.append(names)
        return {name: tmp_path / "debian" / name for name in names}

    monkeypatch.setattr(building, "debian_packages", fake)
    fake.root, fake.asked = tmp_path / "debian", asked
    return fake


def asterisk_tree(root, language, script, sounds, encoding="utf-8"):
    name = f"asterisk-core-sounds-{language}"
    doc = root / name / f"usr/share/doc/{name}/core-sounds-{language}.txt.gz"
    doc.parent.mkdir(parents=True, exist_ok=True)
    doc.write_bytes(gzip.compress(script.encode(encoding)))
    folder = root / f"{name}-g722/usr/share/asterisk/sounds/voice_f_Test"
    for number, sound_id in enumerate(sounds):
        write_g722(folder / f"{sound_id}.g722", sound(300 + 40 * number, seconds=1.4))


ENGLISH = "; comment: not a prompt\nhello: Hello there.\ndigits/1: one\nletters/at: at [@]\nbeep: [a beep]\n"


@pytest.fixture
def spanish(packages):
    sounds = {
        "hello": "hello: Hola a todos.",
        "digits/1": "uno",
        "digits/0": "cero\ndigits/0: diez",
        "letters/at": "arroba [@]",
        "letters/b": "b",
        "beep": "[tono simple]",
        "number": "El numero de su extension, esta.",
        "later": "...y mas tarde",
        "silence/1": "(un segundo)",
        "star": "marque * ahora",
    }
    script = "; Sounds: a comment\n\n" + "".join(f"{name}: {text}\n" for name, text in sounds.items())
    asterisk_tree(packages.root, "en", ENGLISH, [])
    asterisk_tree(packages.root, "es", script, [*sounds, "untold"])
    return packages


def test_asterisk_joins_by_id_and_counts_what_it_leaves_out(spanish):
    clips = {clip.id: clip for clip in corpora.load("asterisk", "es")}
    assert {name: clip.text for name, clip in clips.items()} == {
        "hello": "Hola a todos.",
        "digits/1": "uno",
        "letters/at": "arroba",
        "number": "El número de su extensión, esta.",
        "later": "y más tarde",
    }
    assert clips["hello"].translation == "Hello there."
    assert clips["letters/at"].translation == "at"
    assert clips["later"].translation is None
    assert clips["hello"].speaker == "voice_f_Test"
    assert clips["hello"].licence == "CC-BY-SA-3.0"
    assert corpora.stored(asterisk.CORPUS, "es")["dropped"] == {
        "name of a single letter": 1,
        "no transcript": 1,
        "symbol that is read as a word": 1,
        "text in brackets": 1,
        "two texts for one id": 1,
    }


def test_g722_is_decoded_at_16_khz(spanish):
    clip = next(clip for clip in corpora.load("asterisk", "es") if clip.id == "hello")
    samples = clip.samples()
    spectrum = np.abs(np.fft.rfft(samples[4000:12000]))
    assert clip.seconds == pytest.approx(1.4, abs=0.01)
    assert np.argmax(spectrum) * SAMPLE_RATE / 8000 == pytest.approx(300, abs=4)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.05)


def test_english_has_no_translation_into_itself(packages):
    asterisk_tree(packages.root, "en", ENGLISH, ["hello", "digits/1"])
    assert [clip.translation for clip in corpora.load("asterisk", "en")] == [None, None]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_scripts_in_three_encodings(packages, encoding):
    asterisk_tree(packages.root, "en", ENGLISH, [])
    asterisk_tree(packages.root, "fr", "hello: Bonjour à tous, c'est décidé.\n", ["hello"], encoding)
    assert [clip.text for clip in corpora.load("asterisk", "fr")] == ["Bonjour à tous, c'est décidé."]


def test_lost_italian_accents_are_left_out_and_questions_kept(packages):
    script = "full: La conferenza ? piena.\nwhich: In quale cartella? Prego.\nlater: riprova pi? tardi\n"
    asterisk_tree(packages.root, "en", ENGLISH, [])
    asterisk_tree(packages.root, "it", script, ["full", "which", "later"])
    assert [clip.id for clip in corpora.load("asterisk", "it")] == ["which"]
    assert corpora.stored(asterisk.CORPUS, "it")["dropped"] == {"damaged characters": 2}


@pytest.mark.parametrize(
    ("language", "name", "text", "reason"),
    [
        ("es", "vm-delete", "Marque 7 para borrar el mensaje.", "recording differs from the script"),
        ("es", "vm-reachoper", "Marque 0 para hablar con la operadora.", None),
        ("it", "conf-muted", "Ora sei muto", "recording differs from the script"),
        ("es", "conf-muted", "Esta usted en modo mudo.", None),
        ("it", "vm-removed", "È stato eliminato vm-then-pound: poi premere", "text of another prompt follows"),
        ("fr", "vm-youhave", "Vous avez ces options: appuyez sur 1.", None),
        ("ru", "letters/b", "б", "name of a single letter"),
        ("ru", "phonetic/b_p", "Браво", None),
        ("en", "vm-login", "Comedian Mail. Mailbox?", None),
    ],
)
def test_prompts_that_are_not_what_the_script_says(language, name, text, reason):
    assert asterisk.problem(name, {text}, language) == reason


@pytest.mark.parametrize(
    ("language", "written", "meant"),
    [
        ("es", "Contrasena incorrecta. Mas tarde, esta sera", "Contraseña incorrecta. Más tarde, esta será"),
        ("fr", "desole, le numero a ete enleve", "désolé, le numéro a été enlevé"),
        ("it", "Perpiacere riprova. E' in uso.", "Per piacere riprova. È in uso."),
        ("ru", "Что бы выйти, нажмите то бы", "Чтобы выйти, нажмите то бы"),
        ("en", "numero", "numero"),
    ],
)
def test_spelling_of_a_script_is_mended(language, written, meant):
    assert asterisk.spell(written, language) == meant


def test_missing_script_is_a_sentence(packages):
    asterisk_tree(packages.root, "en", ENGLISH, [])
    asterisk_tree(packages.root, "ru", "hello: Привет\n", ["hello"])
    (packages.root / "asterisk-core-sounds-ru/usr/share/doc/asterisk-core-sounds-ru/core-sounds-ru.txt.gz").unlink()
    with pytest.raises(CorpusError, match=r"core-sounds-ru\.txt\.gz: the transcripts cannot be read"):
        corpora.load("asterisk", "ru")


def stamp(root, name, lines, recordings):
    folder = root / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    script = folder / f"{name}.txt"
    script.parent.mkdir(parents=True, exist_ok=True)
    if lines:
        script.write_text("\n".join(lines), encoding="utf-8")
    for language, samples in recordings.items():
        soundfile.write(folder / f"{name}_desc_{language}.ogg", samples, 22_050, format="OGG", subtype="VORBIS")


@pytest.fixture
def pictures(packages):
    root = packages.root
    stamp(root, "animals/frog", ["A frog.", "ca.utf8=Una granota.", "es=Una rana."], {"ca": sound(300, rate=22_050)})
    stamp(
        root, "animals/cat", ["A cat.", "ca@valencia.utf8=Un gat.", "es.utf8=Un gato."], {"ca": sound(340, rate=22_050)}
    )
    long = "Un text molt llarg que ningú no ha pogut llegir en tan poc temps com dura."
    stamp(root, "town/house", ["A house.", f"ca.utf8={long}"], {"ca": sound(380, rate=22_050)})
    stamp(root, "town/wall", None, {"ca": sound(420, rate=22_050)})
    english = "Roast turkey is traditionally eaten on Thanksgiving in the United States."
    stamp(root, "food/turkey", [english, "ca.utf8=Un gall dindi."], {"ca": sound(460, rate=22_050)})
    stamp(root, "food/plum", ["A plum.", "ca.utf8=Una pruna."], {"ca": sound(500, rate=22_050)})
    stamp(root, "food/plums", ["A plum again.", "ca.utf8=Una pruna!"], {"ca": sound(500, rate=22_050)})
    stamp(root, "food/pear", ["A pear.", "ca.utf8=Una pera."], {"ca": sound(540, rate=22_050)})
    stamp(root, "food/apple", ["An apple.", "ca.utf8=Una poma."], {"ca": sound(540, rate=22_050)})
    return packages


def test_stamps_joins_beside_the_recording(pictures):
    clips = {clip.id: clip for clip in corpora.load("stamps", "ca")}
    assert {name: clip.text for name, clip in clips.items()} == {
        "animals/frog": "Una granota.",
        "food/turkey": "Un gall dindi.",
        "food/plum": "Una pruna.",
    }
    assert clips["animals/frog"].translation == "A frog."
    assert clips["food/turkey"].translation is None, "English that says much more is no translation"
    assert clips["animals/frog"].seconds == pytest.approx(1.0, abs=0.02)
    assert corpora.stored(stamps.CORPUS, "ca")["dropped"] == {
        "no transcript": 2,
        "one recording under several texts": 2,
        "too fast or too slow for its text": 1,
        "repeated recording": 1,
    }


def test_order_of_files_does_not_matter(pictures, monkeypatch):
    first = corpora.fingerprint(corpora.load("stamps", "ca"))
    shuffled = replace(
        stamps.CORPUS, items=lambda *a: iter(random.Random(1).sample(found := list(stamps.items(*a)), len(found)))
    )
    clips, _ = building.build(shuffled, "ca")
    assert corpora.fingerprint(clips) == first
    assert [clip.id for clip in clips] == sorted(clip.id for clip in clips)


def test_second_load_needs_no_package_and_is_equal(pictures):
    first = corpora.load("stamps", "ca")
    asked = len(pictures.asked)
    assert corpora.load("stamps", "ca") == first
    assert len(pictures.asked) == asked


def test_a_new_revision_is_built_again(pictures):
    building.read(stamps.CORPUS, "ca")
    building.read(replace(stamps.CORPUS, revision=99), "ca")
    assert len(pictures.asked) == 2


def test_damaged_store_is_a_sentence(pictures):
    corpora.load("stamps", "ca")
    path = building.folder_of(stamps.CORPUS, "ca") / "clips.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CorpusError, match=r"clips\.parquet: not readable as clips .* fetch the corpus again"):
        corpora.load("stamps", "ca")


def test_nothing_half_built_stays_behind(pictures, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(building.pq, "write_table", full)
    with pytest.raises(OSError, match="disk full"):
        corpora.load("stamps", "ca")
    assert list(building.folder_of(stamps.CORPUS, "ca").parent.iterdir()) == []


def test_noncommercial_is_refused_once(pictures):
    guarded = replace(stamps.CORPUS, noncommercial=True)
    with pytest.raises(CorpusError, match="--accept-noncommercial"):
        building.read(guarded, "ca")
    accepted = building.read(guarded, "ca", accept_noncommercial=True)
    assert building.read(guarded, "ca") == accepted


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("asterix", "es"), "There is no corpus 'asterix'. Did you mean 'asterisk'?"),
        (("asterisk", "de"), "Corpus 'asterisk' has no language 'de'; it has en, es, fr, it, ru."),
        (("tones", "es", "tset"), "There is no split 'tset'. Did you mean 'test'?"),
    ],
)
def test_unknown_names(call, message):
    with pytest.raises(CorpusError) as error:
        corpora.load(*call)
    assert str(error.value) == message


def test_registry_is_consistent():
    for name, corpus in corpora.registry().items():
        assert corpus.name == name
        assert corpus.languages
        assert corpus.citation.endswith(".")


def test_corpora_of_a_language_share_no_sentence_across_splits(spanish, pictures):
    """Both corpora hold the same Spanish sentences; each must fall into one split."""
    words = ["rojo", "azul", "verde", "negro", "gris", "claro", "alto", "bajo"]
    script = "".join(f"p{number}: Un gato {word}.\n" for number, word in enumerate(words))
    asterisk_tree(spanish.root, "es", script, [f"p{number}" for number in range(len(words))])
    for number, word in enumerate(words):
        samples = sound(1000 + 50 * number, rate=22_050)
        stamp(pictures.root, f"more/{word}", ["A cat.", f"es.utf8=Un gato {word}"], {"es": samples})
    both = [clip for corpus in ("asterisk", "stamps") for clip in corpora.load(corpus, "es")]
    assert len(both) == 2 * len(words)
    corpora.check(both)
    assert len({clip.split for clip in both}) > 1, "the law would hold trivially within one split"


def test_fingerprint_sees_every_field_that_matters_and_no_order():
    clips = corpora.load("tones", "es")
    first = corpora.fingerprint(clips)
    assert corpora.fingerprint(reversed(clips)) == first
    for change in ({"text": "x"}, {"translation": None}, {"split": "dev"}, {"flac": b"x"}, {"id": "x"}):
        assert corpora.fingerprint([replace(clips[0], **change), *clips[1:]]) != first


def test_tones_are_the_same_sounds_under_different_words(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path))
    es, it = corpora.load("tones", "es"), corpora.load("tones", "it")
    assert [clip.flac for clip in es] == [clip.flac for clip in it]
    assert not set(" ".join(c.text for c in es).split()) & set(" ".join(c.text for c in it).split())
    assert [clip.translation for clip in es] == [clip.translation for clip in it]
    assert {split: len(corpora.load("tones", "es", split)) for split in corpora.SPLITS} == tones.SIZES
    assert all(0.6 <= clip.seconds <= 2.0 and clip.speaker == "synthetic" for clip in es)
    again, _ = building.build(tones.CORPUS, "es")
    assert again == es
