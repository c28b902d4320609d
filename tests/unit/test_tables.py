"""Tables keep the experiment's order, refuse gaps, and change no number."""

import math

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_comparisons, made_up_rows, made_up_task_vectors

from speechmerge.book import tables
from speechmerge.errors import StudyError
from speechmerge.evaluation.scoring import Counts
from speechmerge.studies import experiments

SYSTEMS = ["Pretrained", "Finetuned", "Multi-lingual training", "Weight Averaging", "Task Arithmetic"]


@pytest.fixture
def rows():
    return pd.DataFrame(made_up_rows(experiments.plan("table1", "speech", [0]))).sample(frac=1, random_state=0)


def test_rows_come_in_the_order_of_the_experiment(rows):
    found = tables.measured(rows)
    assert list(found["system"].unique()[:5]) == SYSTEMS
    assert list(found["language"].unique()) == ["ca", "es", "fr", "it", "ru", "macro", "pooled"]
    assert len(found) == len(rows)


def test_one_seed_is_shown_and_the_base_belongs_to_every_seed(rows):
    second = rows[rows["method"] != "none"].assign(seed=1, wer=0.9)
    both = pd.concat([rows, second])
    assert tables.value(tables.measured(both), "Finetuned") < 0.9
    other = tables.measured(both, seed=1)
    assert tables.value(other, "Finetuned") == 0.9
    assert tables.value(other, "Pretrained") == tables.value(tables.measured(rows), "Pretrained")


def test_a_gap_is_named(rows):
    gap = rows[~((rows["system"] == "SVP-Merging") & (rows["language"] == "ru"))]
    with pytest.raises(
        StudyError, match=r"lacks 1 of 56 rows, the first of 'SVP-Merging' in 'ru'.*speechmerge study run"
    ):
        tables.measured(gap)


def test_published_values_are_the_papers():
    paper = tables.published("table1").set_index(["system", "language"])["published"]
    assert paper["LoRS-Merging", "pooled"] == 18.85
    assert paper["Pretrained", "ca"] == 20.6
    assert len(paper) == 8 * 6


def test_the_comparison_shows_per_cent_intervals_and_published_values(rows):
    found = tables.measured(rows)
    shown = tables.comparison(found, tables.published("table1"))
    assert list(shown.columns) == ["ca", "es", "fr", "it", "ru", "all", "95 % interval", "published"]
    wer = tables.value(found, "Task Arithmetic")
    low, high = (tables.value(found, "Task Arithmetic", end) for end in ("ci_low", "ci_high"))
    assert shown.loc["Task Arithmetic", "all"] == f"{100 * wer:.1f}"
    assert shown.loc["Task Arithmetic", "95 % interval"] == f"{100 * low:.1f}–{100 * high:.1f}"
    assert shown.loc["Task Arithmetic", "published"] == "19.23"


def test_trainings_are_listed_once_with_rate_and_epoch(rows):
    shown = tables.trainings(tables.measured(rows))
    assert list(shown.index) == ["ca", "es", "fr", "it", "ru", "ca+es+fr+it+ru"]
    assert list(shown.loc["es"]) == [2.5, 1e-5, "2 of 3", 30, 3.0]


def test_paired_differences_are_shown_in_points_with_a_sign():
    found = pd.DataFrame(made_up_comparisons(experiments.plan("table1", "speech", [0])))
    shown = tables.paired(found, "Task Arithmetic")
    assert list(shown.loc["Pretrained"]) == ["-3.0", "-5.0 to -1.0", "< 0.001"]
    assert list(shown.loc["LoRS-Merging"]) == ["+0.1", "-1.9 to +2.1", "0.001"]
    assert "Task Arithmetic" not in shown.index and len(shown) == 7


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("Pretrained", "fewer word errors than"),
        ("Finetuned", "more word errors than"),
        ("LoRS-Merging", "neither reliably fewer nor reliably more word errors than"),
    ],
)
def test_the_verdict_says_no_more_than_the_interval(system, words):
    found = pd.DataFrame(made_up_comparisons(experiments.plan("table1", "speech", [0])))
    second = found.assign(seed=1, ci_low=-1.0, ci_high=1.0)
    assert tables.verdict(pd.concat([second, found]), system, "Task Arithmetic") == words


def counts(errors, words):
    ids = tuple(str(i) for i in range(len(errors)))
    return Counts(ids, np.array(errors), np.array(words), 0, 0, 0, 0, 1, 1, 0)


def test_scored_rows_pool_words_over_languages():
    found = tables.scored({"a": [counts([1, 1], [4, 4]), counts([3], [4])]}, {"a": "none"}, ["es", "it"])
    assert list(found["language"]) == ["es", "it", "pooled"]
    assert list(found["wer"]) == [0.25, 0.75, 5 / 12]
    assert list(found["runaway"]) == [1, 1, 2]
    assert (found["ci_low"] <= found["wer"]).all() and (found["wer"] <= found["ci_high"]).all()


def test_norms_of_a_part_are_those_of_its_tensors_together():
    norms = pd.DataFrame(
        {
            "expert": "es", "stack": ["decoder", *["encoder"] * 5],
            "block": ["attention", "mlp", "mlp", "mlp", "norm", None], "layer": [0, 0, 0, 1, 0, None],
            "norm": [1.0, 3.0, 4.0, 1.0, 9.0, 9.0], "base_norm": [4.0, 30.0, 40.0, 2.0, 9.0, 9.0],
        }
    )  # fmt: skip
    found = tables.by_layer(norms)
    assert found.to_dict("records") == [
        {"expert": "es", "part": "encoder mlp", "layer": 0, "relative_norm": 0.1},
        {"expert": "es", "part": "encoder mlp", "layer": 1, "relative_norm": 0.5},
        {"expert": "es", "part": "decoder attention", "layer": 0, "relative_norm": 0.25},
    ]


def test_spectra_are_averaged_and_unmoved_matrices_left_out():
    moved = {"expert": "es", "stable_rank": 1.5}
    rows = pd.DataFrame(
        [
            moved | {"singular_values": [2.0, 1.0, 0.0], "energy_at": {"0.05": 0.8, "0.5": 1.0}},
            moved | {"singular_values": [4.0, 1.0, 0.0], "energy_at": {"0.05": 0.6, "0.5": 0.8}},
            {"expert": "es", "stable_rank": 0.0, "singular_values": [0.0, 0.0, 0.0], "energy_at": {}},
        ]
    )
    values, energy = tables.spectra(rows)
    assert list(values["ratio"]) == [1.0, 0.375, 0.0] and list(values["share_of_rank"]) == [0.0, 0.5, 1.0]
    assert np.allclose(energy["energy"], [0.7, 0.9]) and list(energy["share_of_rank"]) == [0.05, 0.5]


def test_real_statistics_give_finite_tables():
    found = {kind: rows for kind, rows in pd.DataFrame(made_up_task_vectors("smoke")).groupby("kind")}
    assert tables.by_layer(found["norm"])["relative_norm"].between(1e-4, 1e-2).all()
    values, energy = tables.spectra(found["spectrum"])
    assert math.isclose(values["ratio"].max(), 1.0) and energy["energy"].between(0, 1).all()
