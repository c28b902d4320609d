"""Clips beside transcripts, and the rules that choose some of them."""

from types import SimpleNamespace

import pytest

from speechbook.tables import heard
from speechmerge.errors import ScoringError
from speechmerge.evaluation.predictions import Prediction


@pytest.fixture
def some(make_clip):
    """Two languages; ``a`` gains, ``b`` loses, ``c`` stays, ``d`` runs away in the base."""
    texts = {"a": "uno dos tres", "b": "uno dos", "c": "uno", "d": "dos"}
    base = {"a": "x y z", "b": "uno dos", "c": "uno", "d": "dos " * 60}
    merge = {"a": "uno dos z", "b": "uno", "c": "Uno.", "d": "dos"}
    found = []
    for language in ("es", "it"):
        clips = [make_clip(f"{name}-{language}", text, language=language) for name, text in texts.items()]
        said = {
            system: [Prediction(clip.id, own[clip.id[0]]) for clip in clips]
            for system, own in (("Pretrained", base), ("merge", merge))
        }
        found += heard.beside(clips, said)
    return found


def ids(found):
    return [one.clip.id for one in found]


def test_errors_are_those_of_the_score_and_gains_are_capped(some):
    by_id = {one.clip.id: one for one in some}
    assert by_id["a-es"].errors == {"Pretrained": 3, "merge": 1} and by_id["a-es"].words == 3
    assert by_id["d-es"].errors["Pretrained"] == 59
    assert by_id["d-es"].gain("merge") == 1 and by_id["b-es"].gain("merge") == -1


def test_the_rules_find_extremes_of_each_language(some):
    assert ids(heard.gains(some, "merge")) == ["a-es", "a-it"]
    assert ids(heard.losses(some, "merge")) == ["b-es", "b-it"]
    assert ids(heard.gains(some, "Pretrained", against="merge")) == ["b-es", "b-it"]
    assert ids(heard.runaways(some, 5)) == ["d-es", "d-it"] and ids(heard.runaways(some, 1)) == ["d-es"]


def test_a_language_without_a_gain_shows_none(some):
    only = [one for one in some if one.clip.id[0] == "c"]
    assert heard.gains(only, "merge") == heard.losses(only, "merge") == heard.runaways(only, 5) == []


def test_the_order_of_the_clips_decides_nothing(some):
    backwards = some[::-1]
    assert set(ids(heard.gains(some, "merge"))) == set(ids(heard.gains(backwards, "merge")))
    alike = [one for one in some if one.clip.id[0] in "ad"]  # ties are broken by the id
    tied = [SimpleNamespace(clip=one.clip, gain=lambda *a: 1) for one in alike]
    assert set(ids(heard.gains(tied, "merge"))) == set(ids(heard.gains(tied[::-1], "merge"))) == {"a-es", "a-it"}


def test_the_same_clips_are_drawn_again_and_others_with_another_seed(some):
    first = ids(heard.at_random(some, 2, 0))
    assert first == ids(heard.at_random(some, 2, 0)) and len(set(first)) == 4
    assert any(ids(heard.at_random(some, 2, seed)) != first for seed in range(1, 6))
    assert len(heard.at_random(some, 9, 0)) == 8


def test_changes_count_every_clip_once(some):
    table = heard.changes(some, "merge")
    assert table.loc["Spanish"].to_dict() == {"clips": 4, "fewer errors": 2, "as many": 1, "more errors": 1}
    assert (table["clips"] == table[["fewer errors", "as many", "more errors"]].sum(axis=1)).all()
    assert heard.changes([], "merge")["clips"].sum() == 0


def test_committed_transcripts_are_read_with_their_clips(made_up_results):
    found = heard.read("smoke", "table1")
    assert {one.clip.language for one in found} == {"es", "it"} and len(found) == 12
    assert all(one.clip.split == "test" and len(one.said) == 8 for one in found)
    assert heard.runaways(found, 3)


def test_transcripts_of_other_clips_are_refused(make_clip):
    with pytest.raises(ScoringError, match="missing"):
        heard.beside([make_clip("a"), make_clip("b")], {"Pretrained": [Prediction("a", "x"), Prediction("c", "x")]})
