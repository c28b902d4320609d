"""Fused frozen models in tables and claims: order and units, what dev chose, and the verdicts that rows give."""

import pytest

from speechbook import claims
from speechbook.figures import curves
from speechbook.study import fusion_planning, store
from speechbook.tables import fused
from speechmerge.errors import StudyError
from speechmerge.evaluation.inference import FAILS, HOLDS, OPEN

PLACE = ("task", "upstreams", "interface", "variant", "seed")
TASKS = ("voice-id", "voice-verify", "language-id-x", "sentence-type")


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path))


def row(task, letters, interface, error, *, dev=None, **more):
    metric = "eer" if task == "voice-verify" else "error"
    place = {"task": task, "upstreams": letters, "interface": interface, "variant": letters, "seed": 0}
    told = {"metric": metric, "error": error, "ci_low": error - 0.02, "ci_high": error + 0.02, "rate": 0.01}
    told |= {"dev": error if dev is None else dev, "interface_parameters": 5, "seconds": 1.0, "weights": None}
    return place | told | more


def held(task, letters, interface, against, difference, *, half=0.01):
    place = {"task": task, "upstreams": letters, "interface": interface, "variant": letters, "seed": 0}
    ends = {"ci_low": difference - half, "ci_high": difference + half, "p_value": 0.5}
    return place | {"against": against, "difference": difference} | ends


def write(experiment, rows, paired=(), profile="fusion"):
    store.write_statistics(profile, f"{experiment}.fused", rows, identity=PLACE)
    if paired:
        store.write_statistics(profile, f"{experiment}.paired", paired, identity=(*PLACE, "against"))


def test_a_profile_of_the_study_has_one_of_fusion_beside_it():
    assert [fusion_planning.beside(name) for name in ("tiny", "smoke", "fusion-paper")] == [
        "fusion", "fusion-smoke", "fusion-paper",
    ]  # fmt: skip


def test_rows_stand_in_the_profiles_order_in_per_cent_and_once():
    write("fusion_pairs", [row("sentence-type", "TM", "chconv", 0.25), row("voice-id", "R", "ws", 0.125)])
    write("fusion_layers", [row("voice-id", "R", "ws", 0.125), row("voice-id", "T", "layer:3", 0.5)])
    found = fused.read("tiny", "fusion_pairs", "fusion_layers", "fusion_words")
    assert list(found["panel"]) == ["Which character", "Which character", "Kind of sentence"]
    assert list(found["models"]) == ["Whisper-Tiny", "Resemblyzer", "Whisper-Tiny + Moonshine-Tiny"]
    assert list(found["system"]) == ["Layer 3", "Weighted sum", "CHConv"] and list(found["size"]) == [1, 1, 2]
    assert found[["value", "low", "high"]].round(6).to_numpy().tolist()[1] == [12.5, 10.5, 14.5]
    assert fused.named("smoke", "TT") == "random-16 twice"
    with pytest.raises(StudyError, match="run `speechmerge study run --profile fusion --experiment fusion_words`"):
        fused.read("tiny", "fusion_words")


def test_the_layer_that_dev_takes_is_told_beside_the_last():
    rows = [row("voice-id", "T", f"layer:{n}", e, dev=d) for n, e, d in ((0, 0.3, 0.1), (1, 0.2, 0.2), (2, 0.4, 0.3))]
    write("fusion_layers", [*rows, row("voice-id", "T", "ws", 0.2, weights=[[0.2, 0.7, 0.1]])])
    [line] = fused.peaks(fused.read("tiny", "fusion_layers")).to_dict("records")
    assert line == {
        "layer by dev": "0 of 0 to 2", "its error": "30.0", "the last layer's": "40.0", "most weight": "layer 1: 0.70",
    }  # fmt: skip
    assert fused.lost(fused.read("tiny", "fusion_layers")).round(6).to_dict() == {
        ("Which character", "Whisper-Tiny"): 10.0
    }


def test_rates_are_compared_at_one_for_both_and_at_each_ones_best():
    tried = {
        "hconv": (1e-3, [(3e-4, 0.4), (1e-3, 0.2), (1e-2, 0.3)]),
        "ws": (1e-2, [(1e-3, 0.5), (1e-2, 0.1), (3e-2, 0.1)]),
    }
    lines = [
        {"step": f"rate voice-id {name}", "rate": best, "tried": [{"rate": x, "dev": y} for x, y in values]}
        for name, (best, values) in tried.items()
    ]
    varied = {"step": "rate voice-id ws [window=clip]", "rate": 1e-3, "tried": [{"rate": 1e-3, "dev": 0.9}]}
    store.write_statistics("fusion", "fusion_layers.chosen", [*lines, varied], identity=("step",))
    rates = fused.rates("tiny", "fusion_layers")
    assert fused.at_the_end(rates) == "0 of 2"
    assert fused.at_the_end(rates[rates["x"] > 3e-4]) == "1 of 2"
    found = fused.at_one_rate(rates, "hconv", "ws")
    assert found.round(6).to_dict("index") == {
        "Which character": {"same": -30.0, "own": 10.0, "first": 0.001, "second": 0.01}
    }


def test_a_reduction_is_a_share_of_the_rivals_error():
    rows = [row("voice-id", "T", "ws", 0.2), row("voice-id", "T", "hconv", 0.15), row("voice-id", "M", "ws", 0.0)]
    paired = [held("voice-id", "T", "hconv", "ws T", -0.05), held("voice-id", "M", "hconv", "ws M", 0.05)]
    write("fusion_layers", rows, paired)
    frames = fused.read("tiny", "fusion_layers"), fused.differences("tiny", "fusion_layers")
    found = fused.reductions(*frames, "hconv", "ws")
    assert found[["set", "value", "low", "high"]].round(6).to_numpy().tolist() == [["T", 25.0, 20.0, 30.0]]


def test_a_pair_is_held_against_the_model_that_dev_prefers():
    rows = [row("voice-id", "T", "hconv", 0.1, dev=0.3), row("voice-id", "M", "hconv", 0.2, dev=0.2)]
    paired = [held("voice-id", "TM", "chconv", f"hconv {x}", d) for x, d in (("T", 0.01), ("M", -0.09))]
    write("fusion_pairs", [*rows, row("voice-id", "TM", "chconv", 0.11)], paired)
    found = fused.gains("tiny", fused.read("tiny", "fusion_pairs"), "fusion_pairs")
    assert found[["beside", "value"]].round(6).to_numpy().tolist() == [["M", -9.0]]


def test_the_set_of_each_size_is_the_one_that_dev_takes():
    rows = [row("voice-id", s, "chconv", e, dev=d) for s, e, d in (("T", 0.1, 0.3), ("M", 0.2, 0.2), ("TM", 0.3, 0.1))]
    write("fusion_growing", rows)
    found = fused.by_dev(fused.read("tiny", "fusion_growing"))
    assert found["set that dev takes"].tolist() == ["Moonshine-Tiny", "Whisper-Tiny + Moonshine-Tiny"]
    assert found["its error"].tolist() == ["20.0", "30.0"] and found["lowest on test"].tolist() == ["10.0", "30.0"]


def test_controls_are_averaged_answers_and_one_model_twice():
    paired = [held("voice-id", "TM", "late", "chconv TM", 0.02), held("voice-id", "TT", "chconv", "hconv T", 0.01)]
    write("fusion_pairs", [row("voice-id", "TM", "late", 0.1)], [*paired, held("voice-id", "TM", "mlp", "ws TM", 0.0)])
    found = fused.controls(fused.differences("tiny", "fusion_pairs"))
    assert found[["system", "label", "value"]].round(6).to_numpy().tolist() == [
        ["Whisper-Tiny + Moonshine-Tiny", "Which character", 2.0], ["Whisper-Tiny twice", "Which character", 1.0],
    ]  # fmt: skip
    figure = curves.forest(found, unit="points", caption="two controls")
    assert "One model twice − once, Which character, Whisper-Tiny twice +1.0 (0.0 to +2.0)" in figure.alt
    assert [axes.get_title(loc="left") for axes in figure.fig.axes] == list(found["panel"].unique())


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [((-0.05,) * 6, HOLDS), ((0.05,) * 6, FAILS), ((-0.05, 0.05) * 3, OPEN), ((-0.09, *(-0.01,) * 4, 0.07), OPEN)],
)
def test_one_interface_beats_another_on_average_and_in_two_thirds_of_the_cells(differences, verdict):
    cells = [(task, letters) for task in TASKS[:3] for letters in "TM"]
    rows = [row(*cell, name, 0.2) for cell in cells for name in ("ws", "hconv")]
    paired = [
        held(*x, "hconv", f"ws {x[1]}", d + n / 1e4) for n, x, d in zip(range(6), cells, differences, strict=True)
    ]
    write("fusion_layers", rows, paired)
    assert claims.measure(claims.results("tiny"), "F1")[0] == verdict


@pytest.mark.parametrize(("better", "worse", "verdict"), [(2, 0, HOLDS), (1, 0, OPEN), (0, 3, FAILS)])
def test_pairs_beat_the_better_one_in_half_of_the_tasks(better, worse, verdict):
    values = [-0.05] * better + [0.05] * worse + [0.0] * (4 - better - worse)
    rows = [row(task, x, "hconv", 0.2 if x == "T" else 0.3) for task in TASKS for x in "TM"]
    rows += [row(task, "TM", "chconv", 0.2) for task in TASKS]
    paired = [
        held(task, "TM", "chconv", f"hconv {x}", d if x == "T" else -0.2)
        for task, d in zip(TASKS, values, strict=True)
        for x in "TM"
    ]
    write("fusion_pairs", rows, paired)
    found, [told] = claims.measure(claims.results("tiny"), "F2")
    assert found == verdict and told.count("Whisper-Tiny + Moonshine-Tiny") == 4


@pytest.mark.parametrize(("errors", "verdict"), [((0.1, 0.4, 0.2, 0.25), HOLDS), ((0.40, 0.41, 0.2, 0.21), FAILS)])
def test_which_outweighs_how_many_where_sets_of_one_size_spread(errors, verdict):
    sets = zip(("T", "M", "TM", "MR"), errors, strict=True)
    write("fusion_growing", [row("voice-id", letters, "chconv", e) for letters, e in sets])
    found, [told] = claims.measure(claims.results("tiny"), "F3")
    assert found == verdict and "points among sets of one size" in told
