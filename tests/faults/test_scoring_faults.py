"""Fault 23: predictions and references that do not belong together are refused, and so are damaged predictions."""

import dataclasses
import gzip
import json

import pytest

from speechmerge.errors import ScoringError
from speechmerge.evaluation.predictions import Prediction, read_predictions, write_predictions
from speechmerge.evaluation.resampling import compare
from speechmerge.evaluation.scoring import count, translation


@pytest.fixture
def clips(make_clip):
    return [make_clip("a", "uno dos"), make_clip("b", "tres"), make_clip("c", "cuatro")]


def said(*names):
    return [Prediction(name, "uno") for name in names]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), r"2 predictions, 3 references, 1 missing \(for example 'c'\)"),
        ((), r"0 predictions, 3 references, 3 missing \(for example 'a'\)"),
        (("a", "b", "c", "d"), r"4 predictions, 3 references, 1 unknown \(for example 'd'\)"),
        (("a", "b", "x"), r"3 predictions, 3 references, 1 missing \(for example 'c'\)"),
        (("a", "b", "c", "c"), "an id stands twice: 4 predictions, 3 references, 3 ids"),
    ],
)
@pytest.mark.parametrize("score", [lambda p, c: count(p, c, "es"), translation], ids=["count", "translation"])
def test_ids_that_do_not_match(clips, names, message, score):
    with pytest.raises(ScoringError, match=message):
        score(said(*names), clips)


@pytest.mark.parametrize(
    ("language", "meant"),
    [("chinese", "zh"), ("Mandarin", "zh"), ("zh-CN", "zh"), ("th_th", "th"), ("JA", "ja"), ("cmn", "es"), ("", "es")],
)
def test_a_language_that_is_no_code_of_whispers(clips, language, meant):
    with pytest.raises(ScoringError, match=f"the language is '{language}', .* such as '{meant}'"):
        count(said("a", "b", "c"), clips, language)


def test_references_that_stand_twice(clips):
    with pytest.raises(ScoringError, match="an id stands twice: 3 predictions, 4 references, 3 ids"):
        count(said("a", "b", "c"), [*clips, clips[0]], "es")


def test_no_references_at_all():
    with pytest.raises(ScoringError, match="no references for 0 predictions; choose another split"):
        count([], [], "es")


def test_systems_scored_with_other_normalisers_are_not_compared(clips):
    counts = count(said("a", "b", "c"), clips, "es")
    other = dataclasses.replace(counts, normaliser="whisper (transformers 3.0)")
    with pytest.raises(ScoringError, match=r"not scored alike.*transformers 5.*'whisper \(transformers 3\.0\)'"):
        compare([counts], [other])


def test_systems_scored_on_other_utterances_are_not_compared(clips):
    counts = count(said("a", "b", "c"), clips, "es")
    fewer = count(said("a", "b"), clips[:2], "es")
    with pytest.raises(ScoringError, match="not scored alike: 3 and 2 utterances"):
        compare([counts], [fewer])
    turned = count(said("a", "b", "c"), clips[::-1], "es")
    with pytest.raises(ScoringError, match="not scored alike: 3 and 3 utterances"):
        compare([counts], [turned])
    with pytest.raises(ScoringError, match="on 2 and 1 languages"):
        compare([counts, counts], [counts])


def test_a_clip_without_translation(clips):
    clips = [dataclasses.replace(clips[0], translation="one two"), *clips[1:]]
    with pytest.raises(ScoringError, match="clip b has no translation; take a corpus with English text"):
        translation(said("a", "b", "c"), clips)


@pytest.fixture
def kept(tmp_path):
    write_predictions(said("a", "b", "c"), tmp_path / "p.jsonl.gz")
    return tmp_path / "p.jsonl.gz"


@pytest.mark.parametrize("text", [None, 123, ["uno"]])
def test_a_text_that_is_none_is_named_with_its_line(tmp_path, text):
    rows = [{"id": "a", "text": "uno"}, {"id": "b", "text": text}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ScoringError, match=r"p\.jsonl, line 2: text is .*; expected a string"):
        read_predictions(tmp_path / "p.jsonl")


def test_predictions_of_other_programs_are_read(tmp_path):
    lines = ['{"id": "a", "text": "uno", "duration": 3.5}', "", '{"id": "b", "text": ""}', ""]
    (tmp_path / "p.jsonl").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert read_predictions(tmp_path / "p.jsonl") == [Prediction("a", "uno"), Prediction("b", "")]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-9],
        lambda data: data[:4],
        lambda data: data[:20] + bytes([data[20] ^ 0xFF]) + data[21:],
        lambda data: b'{"id": "a", "text": "uno"}\n',
        lambda data: gzip.compress(b'{"id": "a", "text": "uno"}\n{"id": "b", '),
        lambda data: gzip.compress(b'{"id": "a", "hypothesis": "uno"}\n'),
        lambda data: gzip.compress(b'["a", "uno"]\n'),
        lambda data: gzip.compress(b"\xff\xfe"),
    ],
    ids=["cut", "head only", "flipped bit", "not packed", "half a line", "other fields", "a list", "no text"],
)
def test_damaged_predictions_are_named(kept, damage):
    kept.write_bytes(damage(kept.read_bytes()))
    with pytest.raises(ScoringError, match=r"p\.jsonl\.gz(, line \d)?: (not a prediction|id is|text is).*expected"):
        read_predictions(kept)


def test_predictions_that_are_not_there(tmp_path):
    with pytest.raises(ScoringError, match=r"none\.jsonl\.gz: there are no predictions; decode first"):
        read_predictions(tmp_path / "none.jsonl.gz")
