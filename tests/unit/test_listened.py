"""What a clip costs with models that are merged while they listen, and how often the right one heard it."""

import pandas as pd
import pytest

from speechbook.tables import listened


def test_a_clip_costs_what_all_its_languages_took_and_averages_do_not_count():
    rows = [
        ("One", "es", "stamps", 10.0, 100), ("One", "it", "stamps", 2.0, 20), ("One", "pooled", "all", 12.0, 120),
        ("Five", "es", "stamps", 50.0, 100), ("Five", "it", "stamps", 4.0, 20), ("Five", "macro", "all", 54.0, 120),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["system", "language", "domain", "seconds", "n_utterances"])
    found = listened.costs(table, "One").set_index("system")
    assert found.loc["One"].to_dict() == pytest.approx({"seconds": 0.1, "times": 1.0})
    assert found.loc["Five"].to_dict() == pytest.approx({"seconds": 0.45, "times": 4.5})


def test_equal_transcripts_are_counted_by_clip(monkeypatch):
    said = {"Routing": ["a", "b", "c", "d"], "Finetuned": ["a", "x", "c", "d"], "Pretrained": ["?"] * 4}
    places = [("es", "one"), ("es", "two"), ("es", "three"), ("it", "one")]
    lines = [
        {"cell": cell, "id": clip, "system": system, "text": text}
        for system, texts in said.items()
        for (cell, clip), text in zip(places, texts, strict=True)
    ]
    monkeypatch.setattr(listened.store, "statistics", lambda profile, name: pd.DataFrame(lines))
    found = listened.alike("tiny", "dynamic_languages", ["Routing"], "Finetuned")["Routing"]
    assert found.to_dict() == {"Spanish": 66.7, "Italian": 100.0, "all clips": 75.0}
