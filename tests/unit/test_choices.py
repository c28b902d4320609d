"""What stands behind a table is read from its rows: one line a training, one value an expert."""

import pandas as pd
from made_up import made_up_rows

from speechbook.study import experiments
from speechbook.tables import choices, outcomes

SET = ["ca", "es", "fr", "it", "ru"]


def made_up(name):
    return pd.DataFrame(made_up_rows(experiments.plan(name, "speech")))


def chosen(name, params):
    """Measured rows of an experiment whose systems have the given parameters."""
    rows = outcomes.measured(made_up(name))
    return rows.assign(params=[params.get(system, {}) for system in rows["system"]])


def test_trainings_are_listed_once_with_rate_and_epoch():
    shown = choices.trainings(outcomes.measured(made_up("table1")))
    assert list(shown.index) == [*SET, "ca+es+fr+it+ru"]
    assert list(shown.loc["es"]) == [2.5, 1e-5, "2 of 3", 30, 3.0]


def test_trainings_of_two_tasks_and_in_sequence_are_told_apart():
    shown = choices.trainings(outcomes.measured(made_up("table4")))
    assert {"ca asr", "ca st", "ca asr+st", "ca+es+fr+it+ru st", "ca+es+fr+it+ru asr+st"} < set(shown.index)
    assert "ca+es+fr+it+ru asr+st in sequence, 10 of 10" in shown.index


def test_lists_of_parameters_belong_to_the_experts_in_their_order():
    density, rank = [0.1, 0.2, 0.4, 0.6, 0.2], [0.01, 0.02, 0.03, 0.05, 0.02]
    lors = {"scaling": 0.3, "density": density, "rank_ratio": rank}
    rows = chosen("table1", {"LoRS-Merging": lors, "MP-Merging": {"scaling": 0.2, "density": density}})
    shown = choices.choices(rows)
    assert list(shown.index) == SET
    assert list(shown["density"]) == ["0.1", "0.2", "0.4", "0.6", "0.2"]
    assert list(shown["rank ratio"]) == ["0.01", "0.02", "0.03", "0.05", "0.02"]
    assert set(shown["learning rate"]) == {"1e-05"}
    assert choices.scalings(rows)["λ"].to_dict() == {"MP-Merging": "0.2", "LoRS-Merging": "0.3"}


def test_every_order_of_table_4_has_its_own_experts():
    ten = [round(0.1 + 0.01 * i, 2) for i in range(10)]
    systems = {
        "ML and MT LoRS-Merging": {"scaling": 0.1, "density": ten},
        "MT training + ML LoRS-Merging": {"scaling": 0.2, "density": [0.3, 0.31, 0.32, 0.33, 0.34]},
        "ML training + MT LoRS-Merging": {"scaling": 0.4, "density": [0.5, 0.6]},
    }
    shown = choices.choices(chosen("table4", systems))["density"]
    assert shown["ca asr"] == "0.1" and shown["ru asr"] == "0.14" and shown["ru st"] == "0.19"
    assert shown["fr asr+st"] == "0.32"
    assert shown["ca+es+fr+it+ru st"] == "0.6"
    assert len(shown) == 17


def test_a_model_for_each_language_has_its_own_scaling_and_experts():
    rows = outcomes.measured(made_up("table11"))
    merged = rows["system"] == "MP-Merging"
    own = {x: {"scaling": 0.1 * (i + 1), "density": [0.1 * (i + 1), 0.6]} for i, x in enumerate(SET)}
    params = [
        own.get(x, {}) if own_system else {} for x, own_system in zip(rows["language"], merged, strict=True)
    ]  # the rows of averages have none, for the languages differ
    rows = rows.assign(params=params)
    assert choices.scalings(rows).loc["MP-Merging"].to_dict() == dict(
        zip(SET, ["0.1", "0.2", "0.3", "0.4", "0.5"], strict=True)
    )
    shown = choices.choices(rows)["density"]
    assert shown["it asr"] == "0.4" and shown["it st"] == "0.6"


def test_values_that_systems_chose_differently_are_all_shown():
    systems = {"MP-Merging": {"density": [0.1] * 5}, "LoRS-Merging": {"density": [0.1, 0.4, 0.1, 0.1, 0.1]}}
    assert list(choices.choices(chosen("table1", systems))["density"]) == ["0.1", "0.1, 0.4", "0.1", "0.1", "0.1"]
