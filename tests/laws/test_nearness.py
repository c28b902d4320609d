"""Laws of splits by nearness: no near pair on two sides, whatever the order; sizes; what a new corpus moves."""

import itertools
import random
from dataclasses import replace

import pytest
from rapidfuzz import fuzz

from speechmerge.corpora import Clip, nearness
from speechmerge.errors import CorpusError

WORDS = [
    "river",
    "stone",
    "lamp",
    "seven",
    "cloud",
    "window",
    "paper",
    "garden",
    "silver",
    "horse",
    "winter",
    "bridge",
    "market",
    "candle",
    "orange",
    "mirror",
]


def clip(number, text, *, source="made", language="es", translation=None, domain="d"):
    return Clip(f"c{number:04d}", b"", text, translation, language, domain, "s", 1.0, "train", source, "CC0-1.0")


def sentences(count, seed=1, **more):
    """Sentences of which many differ in one letter or one word from another."""
    rng, texts = random.Random(seed), []
    while len(texts) < count:
        text = " ".join(rng.sample(WORDS, 6))
        texts += [text, text + "s", text.replace("a", "e", 1)] if rng.random() < 0.2 else [text]
    return [clip(i, text, **more) for i, text in enumerate(texts[:count])]


@pytest.fixture(scope="module")
def drawn():
    return nearness.assign(sentences(500))


def test_no_near_pair_stands_on_two_sides(drawn):
    pairs = [
        (a.text, b.text)
        for a, b in itertools.combinations(drawn, 2)
        if a.split != b.split and fuzz.ratio(a.text, b.text) >= 100 * nearness.THRESHOLD
    ]
    near = [1 for a, b in itertools.combinations(drawn, 2) if fuzz.ratio(a.text, b.text) >= 100 * nearness.THRESHOLD]
    assert not pairs and len(near) > 50


def test_near_translations_stand_together_in_all_languages_and_corpora():
    texts = [" ".join(random.Random(i).sample(WORDS, 6)) for i in range(300)]
    clips = [clip(i, f"{i} " + text[::-1], translation=text) for i, text in enumerate(texts)]
    clips += [clip(i, text + "!", source="other", language="en") for i, text in enumerate(texts)]
    split = {(c.source, c.id): c.split for c in nearness.assign(clips)}
    assert all(split["made", f"c{i:04d}"] == split["other", f"c{i:04d}"] for i in range(300))
    assert len(set(split.values())) == 3


def test_the_order_of_clips_does_not_matter(drawn):
    shuffled = sentences(500)
    random.Random(7).shuffle(shuffled)
    assert nearness.assign(shuffled) == drawn


def test_dev_and_test_get_their_share_and_train_the_rest(drawn):
    sizes = nearness.sizes(drawn)["made", "es", ""]
    wanted = max(nearness.FEWEST, round(nearness.SHARE * 500))
    assert all(wanted <= sizes[split] <= wanted + nearness.LARGEST * wanted for split in ("dev", "test"))


def test_a_component_too_large_for_test_goes_to_train():
    template = [clip(i, f"the sign for the letter {'abcdefghijklmnopqrstuvwxyz'[i]}") for i in range(26)]
    others = [replace(c, id=f"other {c.id}") for c in sentences(300, seed=3)]
    found = {c.id: c.split for c in nearness.assign(template + others)}
    assert {found[c.id] for c in template} == {"train"}


def test_each_held_out_text_knows_the_nearest_training_text(drawn):
    found = nearness.similarities(drawn)
    train = [c.text for c in drawn if c.split == "train"]
    some = next(c for c in drawn if c.split == "test")
    assert found[some.text] == pytest.approx(max(fuzz.ratio(some.text, text) for text in train) / 100, abs=1e-4)
    assert max(found.values()) < nearness.THRESHOLD and set(found) == {c.text for c in drawn if c.split != "train"}


def test_a_table_gives_back_what_was_assigned_and_tells_what_a_new_corpus_moves(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(nearness, "TABLE", tmp_path / "splits.csv")
    nearness.write_table(drawn)
    nearness.table.cache_clear()
    again = nearness.applied([replace(c, split="train") for c in drawn])
    assert [c.split for c in again] == [c.split for c in drawn]
    held = next(c for c in drawn if c.split == "test")
    more = [clip(900 + i, held.text + "s" * i, source="new") for i in range(1, 30)]
    moved, new = nearness.changes(nearness.assign([*drawn, *more]))
    nearness.table.cache_clear()
    assert held.id in {c.id for c, before in moved if before == "test"} and {c.source for c in new} == {"new"}


def test_a_clip_of_another_version_of_a_corpus_is_refused():
    with pytest.raises(CorpusError, match=r"1 clips of made es are not in splits.csv .first: 'c0001'"):
        nearness.applied([clip(1, "a sentence that no corpus ever had, as far as we know")])


def test_the_committed_table_keeps_near_sentences_apart():
    rows = nearness.table()
    assert len(rows) > 10_000 and {split for split, _ in rows.values()} == {"train", "dev", "test"}
    assert max(similarity for split, similarity in rows.values() if split != "train") < nearness.THRESHOLD
    assert all(similarity is None for split, similarity in rows.values() if split == "train")
