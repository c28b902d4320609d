"""Data cards: numbers come from the clips, stale ones are found, and each card has its sections."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from speechbook.pages import cards
from speechmerge import corpora
from speechmerge.errors import BookError, CorpusError

CARDS = Path(__file__).parents[2] / "data_cards"
SECTIONS = [
    "## Summary",
    "## Languages",
    "## Structure",
    "## Splits",
    "## Source and how text joins audio",
    "## Numbers",
    "## Personal and sensitive information",
    "## Licence and limits",
    "## Citation",
]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "tones.md"
    path.write_text(f"# Tones\n\nBefore.\n\n{cards.BEGIN}\n{cards.END}\n\nAfter.\n", encoding="utf-8")
    return path


def test_statistics_count_the_clips():
    rows = cards.statistics("tones")
    assert [(row["language"], row["split"]) for row in rows] == [(la, s) for la in ("es", "it") for s in corpora.SPLITS]
    train = corpora.load("tones", "es", "train")
    assert rows[0]["clips"] == rows[0]["transcripts"] == rows[0]["translated"] == 40
    assert rows[0]["minutes"] == pytest.approx(sum(len(clip.samples()) for clip in train) / 16_000 / 60, rel=1e-3)
    assert rows[0]["words"] == sum(len(clip.text.split()) for clip in train)
    assert rows[0]["mean_seconds"] == pytest.approx(60 * rows[0]["minutes"] / 40)


def test_update_writes_only_between_the_marks_and_then_the_card_passes(card):
    with pytest.raises(BookError, match="stale numbers"):
        cards.check_card(card)
    assert cards.update_card(card)
    cards.check_card(card)
    assert not cards.update_card(card), "nothing to do the second time"
    text = card.read_text(encoding="utf-8")
    assert text.startswith("# Tones\n\nBefore.\n\n")
    assert text.endswith("\n\nAfter.\n")
    assert "| es | train | 40 |" in text
    assert corpora.fingerprint(corpora.load("tones", "it"))[:16] in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "| es | train | 40 |",
            "| es | train | 41 |",
            r"found '\| es \| train \| 41 \|.*expected '\| es \| train \| 40 \|",
        ),
        (cards.END, "| one | row | more |\n" + cards.END, "no longer comes from the data"),
    ],
)
def test_a_changed_number_is_found(card, old, new, message):
    cards.update_card(card)
    card.write_text(card.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(BookError, match=message):
        cards.check_card(card)


def test_missing_card_and_missing_marks(card, tmp_path):
    with pytest.raises(BookError, match="there is no such data card"):
        cards.check_card(tmp_path / "nothing.md")
    card.write_text(f"# Tones\n{cards.BEGIN}\n", encoding="utf-8")
    with pytest.raises(BookError, match="once each, in this order"):
        cards.update_card(card)


def test_a_card_of_no_corpus(card):
    with pytest.raises(CorpusError, match="Did you mean 'tones'"):
        cards.update_card(card.rename(card.with_name("tone.md")))


@pytest.mark.parametrize("name", sorted(corpora.registry()))
def test_each_corpus_has_a_card_with_all_sections(name):
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    declared = corpora.registry()[name]
    matter = yaml.safe_load(front)
    assert matter["language"] == list(declared.languages)
    assert sorted(matter["license"]) == sorted({licence.lower() for licence in declared.licences.values()})
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert headings == [headings[0], *SECTIONS]
    assert headings[0].startswith("# ")
    assert body.count(cards.BEGIN) == body.count(cards.END) == 1
    assert (cards.NOT_COUNTED if declared.hub else "| language | split | clips |") in body
    assert all(domain in body for domain in declared.domains)


def test_domains_have_a_table_of_their_own(monkeypatch):
    tones = corpora.find("tones")
    declared = replace(tones, domains=("tones", "other"), licences={"es": "CC0-1.0"}, name="varied")
    monkeypatch.setattr(corpora, "registry", lambda: {"varied": declared})
    text = cards.render("varied")
    assert "| domain | train clips | minutes | dev clips | minutes | test clips | minutes | words in test |" in text
    assert "| tones | 40 | " in text
    assert "| other | 0 | 0.0 | 0 | 0.0 | 0 | 0.0 | 0 |" in text


@pytest.mark.parametrize("name", [name for name, corpus in corpora.registry().items() if corpus.hub])
def test_cards_of_hub_corpora_need_no_hub(name):
    cards.check_card(CARDS / f"{name}.md")


def test_the_tone_card_is_fresh():
    cards.check_card(CARDS / "tones.md")
