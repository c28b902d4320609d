"""Laws of the splits: a function of the sentence alone, the same in every language, in the declared shares."""

import os
import random
import subprocess
import sys

import pytest

from speechmerge.corpora import SPLITS, assign_split, base, transcript_key

TEXTS = [f"sentence number {number}" for number in range(4000)]


@pytest.mark.parametrize(
    "other",
    [
        "la conferencia, está llena",
        "LA  CONFERENCIA ESTA LLENA!",
        "“La conferencia” – está llena…",
        "La conferencia esta\u0301 llena",
        "\ufeffＬa conferencia está llena",
    ],
)
def test_spelling_and_punctuation_do_not_move_a_sentence(other):
    assert transcript_key(other) == "la conferencia esta llena"
    assert assign_split(other, "es") == assign_split("La conferencia está llena.", "es")


@pytest.mark.parametrize("language", ["en", "ca", "es", "da"])
def test_shares_are_the_declared_ones(language):
    splits = [assign_split(text, language) for text in TEXTS]
    held_out = base.held_out(language)
    assert splits.count("test") / len(TEXTS) == pytest.approx(held_out, abs=0.02)
    assert splits.count("dev") / len(TEXTS) == pytest.approx(held_out, abs=0.02)
    assert set(splits) == set(SPLITS)


def test_a_wider_share_takes_from_train_only(monkeypatch):
    before = [assign_split(text, "en") for text in TEXTS]
    monkeypatch.setitem(base.WIDER, "en", 0.3)
    after = [assign_split(text, "en") for text in TEXTS]
    moved = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
    assert moved == {("train", "dev"), ("train", "test")}


@pytest.mark.parametrize("share", [0.24, 0.45, 0.58])
def test_a_share_of_its_own_only_moves_sentences_out_of_train(share):
    before = [assign_split(text, "en") for text in TEXTS]
    after = [assign_split(text, "en", share) for text in TEXTS]
    moved = {(a, b) for a, b in zip(before, after, strict=True) if a != b}
    assert moved <= {("train", "dev"), ("train", "test")}
    assert after.count("test") / len(TEXTS) == pytest.approx(share, abs=0.02)
    assert after.count("dev") / len(TEXTS) == pytest.approx(min(share, 1 - share), abs=0.02)


def test_a_sentence_known_in_english_lies_in_one_split_in_every_language():
    english = [assign_split(text, "en") for text in TEXTS]
    for language in ("fr", "it"):
        there = [assign_split(f"{language} {text}", language, english=text) for text in TEXTS]
        assert there == english


def test_languages_are_drawn_apart():
    assert [assign_split(text, "fr") for text in TEXTS] != [assign_split(text, "it") for text in TEXTS]


def test_order_and_hash_seed_do_not_matter():
    shuffled = random.Random(3).sample(TEXTS[:200], 200)
    here = {text: assign_split(text, "ru") for text in shuffled}
    code = (
        "import sys; from speechmerge.corpora import assign_split; print([assign_split(t, 'ru') for t in sys.argv[1:]])"
    )
    there = subprocess.run(
        [sys.executable, "-c", code, *TEXTS[:200]],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == str([here[text] for text in TEXTS[:200]])
