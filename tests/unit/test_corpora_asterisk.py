"""Asterisk: the join of prompts and scripts, what is mended and what is left out."""

import numpy as np
import pytest
from corpus_trees import ENGLISH, asterisk_tree

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE
from speechmerge.corpora import asterisk
from speechmerge.errors import CorpusError


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
