"""Splits of speech of one's own: the source's, or those of its sentences; none stands on two sides."""

import random
from dataclasses import replace

import own_speech
import pytest
from own_speech import many, recordings, write

from speechmerge import corpora, speech
from speechmerge.corpora import own
from speechmerge.finetuning import training_recipe


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


def unsplit(root, some):
    """An audio folder that names no splits."""
    for one in some:
        write(root / f"{one.name}.flac", one.samples)
    rows = [{"file_name": f"{one.name}.flac", "text": one.text} for one in some]
    own_speech.table(root / "metadata.csv", rows)
    return root


def test_without_splits_of_its_own_a_sentence_decides_and_stands_in_one(tmp_path):
    texts = [f"Esta es la frase {number}" for number in range(60)]
    some = many([*texts, *(text.upper() + "!" for text in texts)])
    found = own.read(unsplit(tmp_path / "speech", some), "es")
    assert not found.splits_given
    assert len(found.clips) == len(some)
    for clip in found.clips:
        assert clip.split == corpora.assign_split(clip.text, "es")
    assert {clip.split for clip in found.clips} == set(corpora.SPLITS)
    corpora.check(found.clips)


def test_the_order_of_rows_decides_nothing(tmp_path):
    some = many([f"Frase {number % 9}" for number in range(24)])
    some[5] = replace(some[5], samples=some[6].samples, text=some[6].text)
    some[7] = replace(some[7], samples=some[8].samples)
    where = unsplit(tmp_path / "speech", some)
    first = own.read(where, "es")
    assert len(first.dropped) == 3
    for seed in (1, 2):
        head, *rows = (where / "metadata.csv").read_text().splitlines()
        random.Random(seed).shuffle(rows)
        (where / "metadata.csv").write_text("\n".join([head, *rows]))
        again = own.read(where, "es")
        assert (again.clips, again.dropped) == (first.clips, first.dropped)


def test_a_sentence_that_the_source_has_in_two_splits_is_held_out_once(tmp_path):
    some = recordings()
    held = next(one for one in some if one.split == "test")
    dev = next(one for one in some if one.split == "dev")
    some[0], some[1] = replace(some[0], text=held.text.upper()), replace(some[1], text=dev.text)
    found = own.read(own_speech.audiofolder(tmp_path / "speech", some), "es")
    assert {(one.id, one.reason) for one in found.dropped} == {
        (some[0].name, "sentence of another split: test"),
        (some[1].name, "sentence of another split: dev"),
    }
    corpora.check(found.clips)


def test_train_alone_is_no_split(tmp_path):
    some = [replace(one, split="train") for one in many([f"Frase {number}" for number in range(40)])]
    found = own.read(own_speech.audiofolder(tmp_path / "speech", some), "es")
    assert not found.splits_given
    assert {clip.split for clip in found.clips} == set(corpora.SPLITS)
    assert any("train alone" in note for note in found.notes)


def test_a_split_that_is_missing_is_drawn_from_train_and_test_stays(tmp_path):
    some = many([f"Frase {number}" for number in range(60)])
    some = [replace(one, split="test" if number < 10 else "train") for number, one in enumerate(some)]
    found = own.read(own_speech.audiofolder(tmp_path / "speech", some), "es")
    assert found.splits_given
    assert {clip.id for clip in found.clips if clip.split == "test"} == {one.name for one in some[:10]}
    drawn = {clip.id for clip in found.clips if clip.split == "dev"}
    assert drawn == {one.name for one in some[10:] if corpora.assign_split(one.text, "es") == "dev"} != set()


def test_test_alone_stays_test(tmp_path):
    some = [replace(one, split="test") for one in recordings()]
    found = own.read(own_speech.audiofolder(tmp_path / "speech", some), "es")
    assert {clip.split for clip in found.clips} == {"test"}


@pytest.mark.parametrize("given", [False, True])
def test_near_equal_sentences_are_kept_apart_when_asked(tmp_path, given):
    draw = random.Random(4)
    texts = ["".join(draw.choices("aeioulmnrst", k=24)) for _ in range(40)]
    some = many([near for text in texts for near in (text, f"{text} ya")])
    splits = [("train", "dev", "test")[number % 3] for number in range(len(some))]
    some = [replace(one, split=split) for one, split in zip(some, splits, strict=True)]
    where = (own_speech.audiofolder if given else unsplit)(tmp_path / "speech", some)
    found = own.read(where, "es", kept_apart="near")
    sides = {clip.id: clip.split for clip in found.clips}
    pairs = [(some[i].name, some[i + 1].name) for i in range(0, len(some), 2)]
    both = [pair for pair in pairs if set(pair) <= set(sides)]
    assert all(sides[a] == sides[b] for a, b in both)
    if given:
        assert {one.kind for one in found.dropped} == {"near a sentence of another split"}
    else:
        assert len(both) == len(pairs)
        assert corpora.load(str(where), "es", kept_apart="near") == found.clips


def test_folders_of_equal_names_are_told_apart_and_no_sentence_of_dev_is_trained_on(tmp_path):
    some = recordings()
    turned = [
        replace(one, samples=one.samples[::-1], split=other.split) for one, other in zip(some, some[::-1], strict=True)
    ]
    places = [
        str(own_speech.audiofolder(tmp_path / who / "es" / "clips", own_some))
        for who, own_some in (("alice", some), ("bob", turned))
    ]
    pooled = speech.pooled_clips(places, "es", split="test")
    assert len({clip.id for clip in pooled}) == len(pooled) == 6
    recipe = training_recipe.Recipe("smoke", tuple(training_recipe.Source(place, "es") for place in places))
    [(train, _, _)], [(dev, _, _)] = training_recipe.load(recipe)
    said = [{clip.text for clip in part} for part in (train, dev)]
    assert said[0].isdisjoint(said[1]) and len(dev) == 6 and 0 < len(train) < 16
    assert len({clip.id for clip in train}) == len(train)
