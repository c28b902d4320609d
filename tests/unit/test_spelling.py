"""Numbers in words on both sides, so that how a number is written is no error."""

import numpy as np
import pytest

from speechmerge.evaluation.predictions import Prediction
from speechmerge.evaluation.scoring import count, spelled
from speechmerge.spelling import ORDINALS, procedure, spell
from speechmerge.text import normalise

ALIKE = [
    ("it", "13 anni nel 1984", "tredici anni nel millenovecentottantaquattro"),
    ("it", "3,14", "tre virgola uno quattro"),
    ("it", "il 2º di 20.000", "il secondo di ventimila"),
    ("es", "9º, 0.5 y 12.500,50", "noveno cero punto cinco y doce mil quinientos punto cinco"),
    ("fr", "le 1er, le 13ème, 100 000", "le premier, le treizième, cent mille"),
    ("fr", "n°1. 3D UB-26", "n un trois D UB vingt-six"),
    ("ca", "el 1r i el 3r", "el primer i el tercer"),
    ("nl", "de 2e van de 21", "de tweede van de eenentwintig"),
    ("ro", "al 9-lea 5", "al nouălea cinci"),
    ("ru", "9-й и 21", "девятый и двадцать один"),
    ("cs", "8. kapitola", "osm kapitola"),
    ("fr", "007", "zéro zéro sept"),
    ("es", "1" * 13, " ".join(["uno"] * 13)),
    ("it", "1.", "uno"),
    ("en", "13th, 42", "13th, 42"),  # the normaliser's digits
    ("bg", "13", "13"),
    ("el", "13", "13"),
]


@pytest.mark.parametrize(("language", "digits", "words"), ALIKE)
def test_numerals_become_these_words(language, digits, words):
    assert normalise(spell(digits, language), language) == normalise(words, language)


@pytest.mark.parametrize("language", ORDINALS)
def test_every_number_has_words_and_other_text_stays(language):
    for number in [*range(101), 1000, 1984, 123456, 10**11, "0,05", "3.5", "00", "1e"]:
        assert not any(c.isdigit() for c in spell(f"x {number} y", language))
    assert spell("sin números, así", language) == "sin números, así"


def test_only_utterances_with_numerals_are_counted_again(make_clip):
    clips = [make_clip("a", "ho tredici anni", language="it"), make_clip("b", "il numero 7 qui", language="it")]
    said = [Prediction("b", "il numero sette qua"), Prediction("a", "ho 13 anni")]
    plain = count(said, clips, "it")
    found = spelled(plain, said, clips, "it")
    assert plain.errors.tolist() == [1, 2] and found.errors.tolist() == [0, 1]
    assert found.ids == plain.ids and np.array_equal(found.words, plain.words)
    assert found.normaliser.startswith(f"{plain.normaliser}, numbers in words (num2words ")


def test_it_is_said_where_digits_stay(make_clip):
    clips, said = [make_clip("a", "тринадесет", language="bg")], [Prediction("a", "13")]
    found = spelled(count(said, clips, "bg"), said, clips, "bg")
    assert found.errors.tolist() == [1] and found.normaliser.endswith("digits as they stand")
    assert procedure("en") == "numbers in digits"
