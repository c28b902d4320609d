"""Stamps: the join of recordings and descriptions."""

import pytest

from speechmerge import corpora
from speechmerge.corpora import stamps


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
