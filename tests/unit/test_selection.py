"""A parameter chosen by loss: which values are decoded, what is kept of them, and how alike the two measures rank."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from speechbook.study import experiments, steps
from speechbook.study.experiment import Experiment
from speechbook.tables import rankings
from speechmerge.errors import SpeechMergeError

LOSS = {0.3: 1.2, 0.6: 1.1, 1.0: 1.3, 1.6: 1.5}
ERROR = {0.3: 0.22, 0.6: 0.25, 1.0: 0.2, 1.6: 0.4}


@pytest.fixture
def searched(monkeypatch, tmp_path):
    """Run a search in which a merged model is its λ, with known losses and errors; returns the step's result."""

    def run(**search):
        decoded = []
        merged = lambda method, base, experts, params, told: (json.loads(params)["x"], 0)  # noqa: E731
        monkeypatch.setattr(steps.making, "merged", merged)
        monkeypatch.setattr(steps.making.models, "base_model", lambda name: name)
        monkeypatch.setattr(steps.measuring, "listener", lambda base, heard: lambda state: state)
        monkeypatch.setattr(steps.measuring, "dev_loss", LOSS.get)
        monkeypatch.setattr(steps.making, "decoder", lambda *given: None)
        error = lambda decoder, state, heard: decoded.append(state) or {"wer": ERROR[state], "error": ERROR[state]}  # noqa: E731
        monkeypatch.setattr(steps.measuring, "decoded_error", error)
        spec = {"base": "", "cells": [], "decoding": {}, "model": {"method": "ties", "params": {}}}
        steps.ACTIONS["tune"](spec | {"search": {"parameter": "x", **search}}, [], tmp_path)
        return json.loads((tmp_path / "result.json").read_text()), decoded

    return run


def test_only_the_values_of_least_loss_are_decoded_and_the_errors_decide(searched):
    found, decoded = searched(values=list(LOSS))
    assert decoded == [0.6, 0.3] and found["params"] == {"x": 0.3} and found["error"] == ERROR[0.3]
    assert [one["x"] for one in found["tried"]] == [0.6, 0.3, 1.0, 1.6]
    assert not any("decode_seconds" in one for one in found["tried"])


def test_an_exhaustive_choice_decodes_every_value_and_keeps_what_it_took(searched):
    found, decoded = searched(values=list(LOSS), decoded="all")
    assert sorted(decoded) == list(LOSS) and found["params"] == {"x": 1.0}
    assert all(one["loss_seconds"] >= 0 and one["decode_seconds"] >= 0 for one in found["tried"])


def test_an_exhaustive_system_has_the_values_of_its_grid_and_others_a_continuous_number():
    plan = experiments.plan("selection", "tiny")
    search = {name: step.spec["search"] for name, step in plan.steps.items() if step.kind == "tune"}
    grid = plan.settings.grids["unit"]
    assert search["tune TIES ca+es+fr+it+ru asr scaling"] == {"parameter": "scaling", "values": None}
    assert search["tune TIES, all decoded ca+es+fr+it+ru asr scaling"] == {
        "parameter": "scaling", "values": grid, "decoded": "all",
    }  # fmt: skip


def test_exhaustive_without_a_parameter_to_choose_is_refused():
    entry = {"system": "TIES", "method": "ties", "exhaustive": True}
    table = {"experiment": "a", "kind": "systems", "languages": "set1", "tasks": ["asr"], "systems": [entry]}
    with pytest.raises((SpeechMergeError, ValueError), match="exhaustive, but no tune"):
        Experiment(**table)


def test_agreement_counts_what_a_choice_by_loss_loses(monkeypatch):
    tried = [{"scaling": x, "loss": LOSS[x], "error": ERROR[x], "loss_seconds": 1, "decode_seconds": 5} for x in LOSS]
    monkeypatch.setattr(rankings.store, "choices", lambda profile, name: {"tune TIES, all decoded es asr": tried[::-1]})
    entry = SimpleNamespace(system="TIES, all decoded", method="ties", exhaustive=True)
    monkeypatch.setattr(rankings.experiments, "experiments", lambda: {"x": SimpleNamespace(systems=[entry])})
    found = rankings.decoded("tiny", "x")
    assert list(found["scaling"]) == list(LOSS)
    line = rankings.agreement(found).loc["TIES"]
    assert (line["λ by loss"], line["λ by errors"]) == (0.6, 1.0)
    assert line["lost by loss alone"] == pytest.approx(5) and line["lost with 2 decoded"] == pytest.approx(2)
    assert line["rank correlation"] == pytest.approx(0.2)
    drawn = rankings.curves(found)
    assert isinstance(drawn, pd.DataFrame) and list(drawn["value"]) == [*LOSS.values(), 22, 25, 20, 40]
