"""Clips on a page: marks that follow the count of errors, escaped text, sound where its licence allows it."""

import base64
import re
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup

from speechbook.pages import licences, listening
from speechbook.tables import heard
from speechmerge import corpora
from speechmerge.audio import decode_flac
from speechmerge.evaluation.predictions import Prediction


@pytest.fixture
def clip(make_clip):
    return make_clip("a<b>", "Marque el uno, por favor.", source="tones")


def shown(clip, **said):
    found = heard.beside([clip], {system: [Prediction(clip.id, text)] for system, text in said.items()})
    return BeautifulSoup(listening.show(found)._repr_html_(), "html.parser")


def texts(reference, hypothesis, language="es"):
    return [(kind, text) for kind, text in listening.compared(reference, hypothesis, language)]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("Uno, dos.", "uno dos", [("", "uno"), ("", "dos")]),
        ("uno dos", "Uno tres.", [("", "Uno"), ("mark", "tres.")]),
        ("uno dos tres", "uno tres", [("", "uno"), ("del", "dos"), ("", "tres")]),
        ("uno", "uno — dos", [("", "uno"), ("", "—"), ("ins", "dos")]),
        ("uno dos", "uno", [("", "uno"), ("del", "dos")]),
        ("uno dos", "", [("del", "uno"), ("del", "dos")]),
        ("…", "uno", [("ins", "uno")]),
        ("uno dos", "uno-dos", [("", "uno-dos")]),  # one piece, two words
        ("twenty one", "21", [("", "21")]),
        ("", "", []),
    ],
)
def test_words_are_compared_as_counted_and_shown_as_written(reference, hypothesis, expected):
    assert texts(reference, hypothesis, "en" if reference.startswith("tw") else "es") == expected


def test_what_only_the_whole_normalises_to_is_shown_as_compared():
    found = listening.compared("it costs twenty one pounds", "it costs twenty two pounds", "en")
    assert [kind for kind, _ in found].count("mark") == 1
    assert listening.compared("你好", "你们", "zh") == [("", "你"), ("mark", "们")]


@pytest.mark.parametrize("hypothesis", ["uno dos", "x y z w", "tres tres dos uno uno", "uno", "dos dos"])
def test_the_marks_are_as_many_as_the_errors_that_are_counted(make_clip, hypothesis):
    clip = make_clip("a", "uno dos tres")
    [one] = heard.beside([clip], {"x": [Prediction("a", hypothesis)]})
    kinds = [kind for kind, _ in listening.compared(clip.text, hypothesis, "es") if kind]
    assert len(kinds) == one.errors["x"]


def test_text_is_escaped_and_carries_its_language_and_direction(clip):
    page = shown(replace(clip, text="<script>alert(1)</script> & uno"), x='<img src="x" onerror=alert(1)> uno')
    assert not page.find("script") and not page.find("img")
    cells = page.select("td[dir=auto][lang=es]")
    assert cells[0].get_text() == "<script>alert(1)</script> & uno"
    assert "a<b>" in page.find("code").get_text() and "a<b>" in page.find("audio")["aria-label"]


def test_the_sound_is_the_clip_that_the_models_heard(clip):
    sound = shown(clip, x="uno").find("audio")
    kind, _, data = sound["src"].partition(",")
    assert kind == "data:audio/flac;base64" and sound.has_attr("controls")
    assert (decode_flac(base64.b64decode(data)) == clip.samples()).all()


def test_systems_that_wrote_the_same_share_a_line_and_errors_are_counted(clip):
    page = shown(clip, one="marque uno", two="Marque el uno por favor", three="marque uno", four="")
    rows = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in page.tbody.find_all("tr")]
    assert rows[0] == ["Reference", clip.text, "5 words"]
    assert [(row[0], row[2]) for row in rows[1:]] == [("one, three", "3"), ("two", "0"), ("four", "5")]
    assert [tag.get_text() for tag in page.tbody.find_all("del")][:2] == ["el", "por favor"]


def test_a_runaway_text_is_folded_away(clip):
    page = shown(clip, x="no " * 200)
    folded = page.find("details")
    assert len(folded.find_previous("td").get_text().split()) > 40
    assert int(re.match(r"\d+", folded.summary.get_text()).group()) + listening.MOST == len(
        listening.compared(clip.text, "no " * 200, "es")
    )


@pytest.mark.parametrize("licence", ["CC-BY-NC-SA-2.5", "LicenseRef-open-asr", "unknown", ""])
def test_a_clip_that_may_not_be_passed_on_is_not_embedded(clip, licence):
    page = shown(replace(clip, licence=licence), x="uno")
    assert not page.find("audio") and "audio/flac" not in str(page)
    assert "does not let it be passed on" in page.get_text()


def test_every_corpus_that_forbids_commercial_use_or_has_terms_of_its_own_is_kept_back():
    for corpus in corpora.registry().values():
        for licence in corpus.licences.values():
            free = not corpus.noncommercial and not licence.startswith("LicenseRef")
            assert (licence in licences.PASSED_ON) == free, f"{corpus.name}: {licence}"


def test_the_credit_names_maker_voice_origin_and_licence(make_clip):
    told = licences.credit(make_clip("a", source="asterisk", licence="CC-BY-SA-3.0", language="fr"))
    page = BeautifulSoup(told, "html.parser")
    assert page.a["href"] == "https://creativecommons.org/licenses/by-sa/3.0/"
    for part in ("Asterisk project", "June Wallack", "asterisk-core-sounds-fr-g722", "16 kHz", "CC BY-SA 3.0"):
        assert part in page.get_text()
    assert {voice for corpus, voice in licences.VOICES if corpus == "asterisk"} == set(
        corpora.find("asterisk").languages
    )


def test_no_clips_are_said_to_be_none_and_every_mark_is_explained(clip):
    assert "no such clip" in listening.show([])._repr_html_()
    assert {tag.name for tag in shown(clip, x="uno").p.find_all()} == {"mark", "ins", "del"}
