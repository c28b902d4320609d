"""How often a clip was heard by the right one of several models."""

import pandas as pd

from speechbook.tables import listened


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
