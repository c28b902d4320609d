"""Speech of one's own: every layout gives the same clips, to every command, once decoded."""

import numpy as np
import own_speech
import pytest
from own_speech import LAYOUTS, recordings

from speechmerge import corpora
from speechmerge.corpora import own


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_same_clips(layout, tmp_path):
    some = recordings()
    found = own.read(layout(tmp_path / "speech", some), "es")
    assert found.dropped == []
    assert found.splits_given
    by_text = {clip.text: clip for clip in found.clips}
    assert len(by_text) == len(some) == len(found.clips)
    for one in some:
        clip = by_text[one.text]
        assert (clip.split, clip.language, clip.licence) == (one.split, "es", "unknown")
        assert clip.source.endswith("speech" if layout is not own_speech.plain_table else "speech.csv")
        np.testing.assert_allclose(clip.samples(), one.samples, atol=1e-4)
    corpora.check(found.clips)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_loading_takes_a_path_as_it_takes_a_name(layout, tmp_path):
    where = str(layout(tmp_path / "speech", recordings()))
    assert {split: len(corpora.load(where, "es", split)) for split in corpora.SPLITS} == own_speech.SPLITS
    clips = corpora.load(where, "es")
    assert [clip.id for clip in clips] == sorted({clip.id for clip in clips})
    assert clips == own.read(where, "es").clips
