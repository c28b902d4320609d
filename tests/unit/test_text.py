"""Normalisation before words are compared: what counts as the same word in each language."""

import pytest
from transformers import __version__

from speechmerge.text import NORMALISER, normalise


@pytest.mark.parametrize(
    ("language", "text", "normal"),
    [
        ("es", "¿Qué hora es, Señor?", "qué hora es señor"),
        ("fr", "L'ÉTÉ à Nîmes…", "l été à nîmes"),
        ("ru", "Здравствуй,  МИР!", "здравствуй мир"),
        ("el", "Καλημέρα!", "καλημέρα"),
        ("it", "perché [musica] no (ride)", "perché no"),
        ("es", "veinte 20", "veinte 20"),
        ("ca", "col·lecció", "col lecció"),
        ("es", " ... ", ""),
    ],
)
def test_other_languages_lose_case_and_punctuation_and_keep_their_letters(language, text, normal):
    assert normalise(text, language) == normal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Mr. Smith won't pay twenty dollars", "mister smith will not pay $20"),
        ("I can't, you know", "i can not you know"),
        ("Well… I think... so. It is 3.5", "well i think so it is 3.5"),
        ("hmm, seventy five", "75"),
    ],
)
def test_english_goes_through_whispers_english_normaliser(text, normal):
    assert normalise(text, "en") == normal
    assert normalise(text, "es") != normal


def test_english_spelling_does_not_depend_on_a_tokenizers_table():
    assert normalise("colour", "en") == "colour"


@pytest.mark.parametrize("language", ["en", "fr", "ru"])
def test_normalising_twice_changes_nothing(language):
    once = normalise("Ça va? Qu'est-ce QUE c'est — 3,5 km!", language)
    assert normalise(once, language) == once


def test_the_version_that_rows_carry_names_the_package_that_decides():
    assert __version__ in NORMALISER
