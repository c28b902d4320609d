"""Experiments on domains: their plans, averages over groups of domains, and the tables of their chapters."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import made_up_directions, made_up_groups, made_up_rows

from speechbook.study import comparisons, experiments, steps
from speechbook.tables import directions, domains, growth, leaders, results, sweeps
from speechmerge.corpora import Clip, find
from speechmerge.errors import StudyError
from speechmerge.evaluation import scoring
from speechmerge.evaluation.predictions import Prediction
from speechmerge.merging import overlaps

STUDY = ("domains", "beta", "rank", "domain_count")


@pytest.fixture(scope="module")
def plans():
    return {name: experiments.plan(name, "speech") for name in STUDY}


def frame(plan):
    rows, groups = pd.DataFrame(made_up_rows(plan)), pd.DataFrame(made_up_groups(plan))
    return results.tidy(rows=rows, groups=groups)


@pytest.fixture(scope="module")
def found(plans):
    return frame(plans["domains"])


def test_the_study_fits_six_hours(plans):
    steps = {step.key: step for plan in plans.values() for step in plan.steps.values()}
    assert 2 * 3600 < sum(step.seconds for step in steps.values()) < 6 * 3600


def test_every_domain_of_the_study_is_found(plans):
    assert [len(cells) for cells in plans["domains"].groups.values()] == [10, 5, 15, 1, 4]
    assert {cell.language for cell in plans["domains"].groups["full average"]} == {"en"}
    assert set(plans["domains"].groups["other languages"]) <= set(plans["domains"].also)


def test_the_papers_own_setup_has_as_many_sets_as_its_table():
    groups = experiments.plan("domains", "camoes").groups
    assert {name: len(cells) for name, cells in groups.items()} == {
        "in domain": 10, "out of domain": 5, "full average": 15, "other English": 1, "other languages": 21,
    }  # fmt: skip
    for cell in (cell for cells in groups.values() for cell in cells):
        assert all(cell.language in find(corpus).languages for corpus in cell.corpora)


def test_a_profile_plans_only_what_it_has_sets_for():
    assert "domains" in experiments.runnable("speech") and "domains" not in experiments.runnable("covost2")
    with pytest.raises(StudyError, match="has no languages 'domains' for 'domains'"):
        experiments.plan("domains", "covost2")


def test_a_method_of_masks_makes_a_model_for_each_domain(plans):
    [system] = [s for s in plans["domains"].systems if s.system == "EMR-Merging"]
    made = [plans["domains"].steps[step].spec["model"]["params"] for step in system.decodes.values()]
    assert made == [{"task": number} for number in range(10)] and len(system.decodes) == 10


def test_a_sweep_shares_the_tuning_of_another_system(plans):
    steps = plans["beta"].steps
    fixed, equal = (
        steps[next(iter(next(s for s in plans["beta"].systems if s.system == name).decodes.values()))]
        for name in ("kept values boost=0.3", "kept values, equal length boost=0.3")
    )
    assert fixed.needs[-1].startswith("tune TSV-M (Newton-Schulz)")
    assert equal.needs[-1].startswith("match kept values, equal length boost=0.3")
    assert fixed.needs[-1] in steps[equal.needs[-1]].needs and fixed.needs[:-1] == equal.needs[:-1]
    assert steps[equal.needs[-1]].spec["reference"] == {"boost": 1.0}


def test_a_tuning_that_is_taken_over_must_exist(plans, monkeypatch):
    known = experiments.experiments()
    systems = list(known["beta"].systems)
    systems[2] = systems[2].model_copy(update={"tuned_as": "TSV-M"})
    known["beta"] = known["beta"].model_copy(update={"systems": tuple(systems)})
    monkeypatch.setattr(experiments, "experiments", lambda: known)
    with pytest.raises(StudyError, match=r"no system above is called 'TSV-M'"):
        experiments.plan("beta", "smoke")


def test_counts_are_nested_and_share_experts_and_the_rate_of_joint_training(plans):
    plan = plans["domain_count"]
    sizes = {s.variant: len(s.experts) for s in plan.systems if s.system == "Full-FT"}
    assert sizes == {f"first {n}": n for n in (2, 4, 6, 8, 9, 10)}
    two = plan.steps["train starbase+pkunk asr seed 0"]
    assert "learning_rate" not in two.spec and "spathi" in two.needs[0]
    trainings = 10 + 1 + 5  # experts and the joint model at the rates of domain_experts, and smaller joint models
    assert sum(step.kind == "train" for step in plan.steps.values()) == trainings


def test_matching_gives_the_length_of_the_reference(tmp_path, monkeypatch):
    base = {"a.weight": torch.zeros(8, 8)}
    expert = {"a.weight": torch.diag(torch.arange(1.0, 9.0))}
    monkeypatch.setattr(steps.making.models, "base_model", lambda name: base)
    monkeypatch.setattr(steps.making, "expert", lambda path: expert)
    monkeypatch.setattr(
        steps.engine, "merged", lambda method, b, e, **p: {"a.weight": p["scaling"] * p["x"] * e[0]["a.weight"]}
    )
    spec = {"base": "", "model": {"method": "m", "params": {"x": 4.0, "scaling": 0.5}}, "reference": {"x": 2.0}}
    step = type("Step", (), {"kind": "choose"})
    steps._match(spec, [(step, tmp_path)], tmp_path)
    assert steps.result(tmp_path)["params"]["scaling"] == pytest.approx(0.25)


def test_groups_average_cells_and_compare_pairs(plans):
    plan = experiments.plan("domains", "smoke")
    names = ["Zero-shot", "Full-FT"]
    plan.systems = [next(s for s in plan.systems if s.system == name) for name in names]
    generator = np.random.default_rng(0)

    def counts(rate):
        words = generator.integers(5, 15, 40)
        return _counts(words, np.minimum(words, generator.poisson(rate * words)))

    scores = [
        {cell: counts(rate) for cell in system.decodes} for system, rate in zip(plan.systems, (0.5, 0.1), strict=True)
    ]
    table = pd.DataFrame(comparisons.grouped(plan, scores))
    means = table[(table["kind"] == "average") & (table["group"] == "in domain")].set_index("system")
    assert means.loc["Full-FT", "wer"] == pytest.approx(0.1, abs=0.03)
    assert (means["ci_low"] < means["wer"]).all() and (means["wer"] < means["ci_high"]).all()
    [pair] = table[
        (table["kind"] == "paired") & (table["group"] == "in domain") & (table["system"] == "Full-FT")
    ].itertuples()
    assert pair.ci_high < 0 and pair.p_value < 0.01
    assert pair.difference == pytest.approx(means.loc["Full-FT", "wer"] - means.loc["Zero-shot", "wer"])


def test_one_runaway_hypothesis_leads_no_capped_average():
    plan = experiments.plan("domains", "smoke")
    plan.systems = [next(s for s in plan.systems if s.system == name) for name in ("Zero-shot", "Full-FT")]
    words = np.full(10, 6)
    steady, wild = np.full(10, 2), np.array([2] * 9 + [86])
    scores = [
        {cell: _counts(words, errors) for cell in system.decodes}
        for system, errors in zip(plan.systems, (steady, wild), strict=True)
    ]
    found = pd.DataFrame(comparisons.grouped(plan, scores))
    frames = [results.tidy(groups=found, capped=capped) for capped in (False, True)]
    plain, capped = (results.averages(table).set_index(["system", "place"])["value"] for table in frames)
    assert plain["Full-FT", "in domain"] == pytest.approx(100 * (9 * 2 + 86) / 60)
    assert capped["Full-FT", "in domain"] == pytest.approx(100 * (9 * 2 + 6) / 60)
    assert capped["Zero-shot", "in domain"] == plain["Zero-shot", "in domain"]
    [pair] = results.in_panels(results.differences(frames[1], "Zero-shot"), ["in domain"]).itertuples()
    assert pair.value == pytest.approx(100 * 4 / 60)


def _counts(words, errors):
    """Scores of utterances with this many words and errors each."""
    references = [" ".join(f"w{i}" for i in range(n)) for n in words]
    hypotheses = [
        " ".join(["x" if i < e else f"w{i}" for i in range(n)] + ["x"] * (e - n))
        for n, e in zip(words, errors, strict=True)
    ]

    clips = [
        Clip(str(i), b"", text, None, "es", "d", "s", 1.0, "test", "tones", "CC0-1.0")
        for i, text in enumerate(references)
    ]
    return scoring.score([Prediction(str(i), text) for i, text in enumerate(hypotheses)], clips, "es", "asr")


def test_verdicts_follow_the_interval(found):
    for row in found[found["against"].notna()].head(4).to_dict("records"):
        words = results.verdict(found, row["system"], row["against"], place=row["place"])
        assert words == results.VERDICTS["asr"][0 if row["high"] < 0 else 2 if row["low"] > 0 else 1]
    assert results.verdict(found, "TIES", "TIES", place="in domain") == results.VERDICTS["asr"][1]


def test_tables_hold_every_system_and_leave_out_what_was_not_tested(found, plans):
    means = results.averages(found)
    table = domains.overview(means, pd.DataFrame(made_up_rows(plans["domains"])))
    assert list(table.index) == [s.system for s in plans["domains"].systems]
    assert table.loc["Own expert", "out of domain"] == "" and table.loc["TIES", "λ"] == "0.2"
    assert "EMR-Merging" not in set(leaders.one_model(means)["system"])
    assert table.loc["TIES", "runaway"] == sum(
        row["runaway"] for row in made_up_rows(plans["domains"]) if row["system"] == "TIES" and row["domain"] != "all"
    )
    chosen = leaders.of_groups(means)
    assert list(chosen["lowest error"]) == [leaders.best(means, group) for group in chosen.index]
    assert all(kinds in chosen.to_html() for kinds in chosen["their kinds"])  # whole, however long


def test_prices_name_the_data_that_a_merge_needs():
    asked = leaders.prices({"RegMean++": "regmean_pp", "DARE": "dare", "TIES": "ties"})
    assert list(asked["data"]) == ["speech", "none", "none"]
    assert list(asked["chance"]) == ["none", "random masks", "none"]


def test_dots_that_nearly_touch_share_a_label():
    places = {"a": (10.0, 30.0), "b": (10.5, 29.5), "c": (20.0, 10.0), "beaten": (40.0, 40.0)}
    means = pd.DataFrame(
        {"system": system, "method": "ties", "place": group, "value": value}
        for system, place in places.items()
        for group, value in zip(("in domain", "other English"), place, strict=True)
    )
    [axes] = domains.plane(means).fig.axes
    assert [text.get_text() for text in axes.texts] == ["1, 2", "3"]


def test_single_domains_are_told_of_systems_that_were_measured(plans):
    plan = plans["domains"]
    names = [cell.name for cell in (*plan.cells, *plan.also)]
    rows = pd.DataFrame(row for row in made_up_rows(plan) if row["system"] != "TIES")
    lines = itertools.product(reversed(list(rows["system"].unique())), [*reversed(names), "in domain"])
    own = pd.DataFrame(lines, columns=["system", "place"]).assign(against=None, value=12.6)
    own["of"] = own["place"].map(lambda place: "group" if place == "in domain" else "place")
    table = domains.of_domains(own, rows)
    assert list(table.index) == [s.system for s in plan.systems if s.system != "TIES"]
    assert list(table.columns) == names and (table == "13").all(axis=None)


def test_the_border_holds_what_nothing_beats():
    table = pd.DataFrame({"system": list("abcd"), "x": [1, 2, 3, 3], "y": [5, 6, 1, 2]})
    assert domains.border(table, "x", "y") == ["a", "c"]


def test_a_sweep_is_a_line_for_each_system(plans):
    means = results.averages(frame(plans["beta"]))
    table = sweeps.lines(means)
    lines = ["Zero-shot", *(entry.system for entry in plans["beta"].experiment.systems[2:])]
    assert [system for _, system in dict.fromkeys(zip(table["panel"], table["system"], strict=True))] == lines * 4
    line = table[(table["panel"] == "in domain") & (table["system"] == "all values")]
    assert list(line["x"]) == [0.1, 0.2, 0.3, 0.5, 0.8]
    own = means[(means["system"] == "all values boost=0.3") & (means["place"] == "in domain")]
    assert line["value"].iloc[2] == own["value"].iloc[0]


def test_paired_differences_of_a_sweep_end_in_zero_and_clear_ones_are_named(plans):
    found = frame(plans["beta"])
    plain = "TSV-M (Newton-Schulz)"
    table = sweeps.differences(found, plain, at=1.0)
    line = table[(table["panel"] == "in domain") & (table["system"] == "all values")]
    assert list(line["x"]) == [0.1, 0.2, 0.3, 0.5, 0.8, 1.0] and line["value"].iloc[-1] == 0
    paired = results.pair(found, "all values boost=0.2", plain, place="in domain")
    assert line["value"].iloc[1] == paired["value"].item()
    level = table[table["system"] == plain]
    assert level["x"].isna().all() and (level["value"] == 0).all() and len(level) == len(plans["beta"].groups)
    told = sweeps.clear_points(table, "all values")
    clear = line[(line["low"] > 0) | (line["high"] < 0)]
    assert 0 < len(clear) < len(line) and all(f"in domain at {x:g} (" in told for x in clear["x"])
    assert sweeps.clear_points(table, plain) == "none"


def test_growth_is_told_on_a_fixed_set_of_domains(plans):
    plan = plans["domain_count"]
    assert {name: len(cells) for name, cells in plan.groups.items()} == {
        "first 2": 2, "first 9": 9, "first 10": 10, "added last": 1,
    }  # fmt: skip
    rows, found = pd.DataFrame(made_up_rows(plan)), pd.DataFrame(made_up_groups(plan))
    told = frame(plan)
    table = growth.by_count(told)
    assert list(dict.fromkeys(table["panel"])) == ["the first 2", "all 10"]
    line = table[(table["panel"] == "the first 2") & (table["system"] == "Task Arithmetic")]
    assert list(line["x"]) == [2, 4, 6, 8, 9, 10]
    own = found[(found["kind"] == "average") & (found["group"] == "first 2") & (found["system"] == "Task Arithmetic")]
    assert list(line["value"]) == pytest.approx(list(100 * own["wer"]))
    level = table[table["system"] == "Zero-shot"]
    assert level["x"].isna().all() and len(level) == 2
    chosen = growth.scalings(rows)
    assert list(chosen.columns) == [2, 4, 6, 8, 9, 10] and "Model Soups" not in chosen.index
    own = rows[(rows["system"] == "Task Arithmetic") & (rows["variant"] == "first 4")]
    assert float(chosen.loc["Task Arithmetic", 4]) == own["params"].iloc[0]["scaling"]
    changes = growth.changes(told).set_index(["of", "system"])
    grown = found[(found["kind"] == "grown") & (found["variant"] == "first 10") & (found["system"] == "Full-FT")]
    grown = 100 * grown.set_index(["group", "against"])["difference"]
    assert changes.loc["old", "Full-FT"]["value"] == pytest.approx(grown["first 9", "first 9"])
    assert changes.loc[("first", "Full-FT"), "value"] == pytest.approx(grown["first 2", "first 2"])
    assert changes.loc[("first", "Full-FT"), ["before", "after"]].tolist() == pytest.approx(
        list(table[(table["panel"] == "the first 2") & (table["system"] == "Full-FT")]["value"].iloc[[0, -1]])
    )
    assert "Own expert" not in changes.index.get_level_values("system")
    taken = growth.costs(rows)
    assert taken.loc["Task Arithmetic", "windows"] == 30 and taken.loc["Task Arithmetic", "seconds"] == 10.5
    assert list(growth.readable(changes.reset_index(), taken).index) == list(taken.index)


def test_one_number_of_domains_does_not_grow(plans, monkeypatch):
    chosen = experiments.settings_of("smoke", "domain_count")
    monkeypatch.setattr(experiments, "settings_of", lambda *_: chosen.model_copy(update={"vary": {"counts": (2,)}}))
    with pytest.raises(StudyError, match=r"`vary: counts` has \[2\]; give two numbers or more"):
        experiments.plan("domain_count", "smoke")


def test_a_system_is_compared_with_itself_before_it_grew():
    plan = experiments.plan("domain_count", "smoke")
    words, errors = np.full(10, 6), {"first 1": 3, "first 2": 2}
    scores = [{cell: _counts(words, np.full(10, errors[s.variant])) for cell in s.decodes} for s in plan.systems]
    found = pd.DataFrame(comparisons.grouped(plan, scores))
    grown = found[(found["kind"] == "grown") & (found["system"] == "Full-FT")].set_index("group")
    assert set(grown["variant"]) == {"first 2"} and set(grown["against"]) == {"first 1"}
    assert list(grown.loc[["first 1", "added last"], "difference"]) == pytest.approx([-1 / 6] * 2)


def test_overlaps_of_the_same_and_of_orthogonal_directions():
    eye = torch.eye(20)
    name = "model.encoder.layers.0.fc1.weight"
    base = {name: torch.zeros(20, 20)}
    experts = {
        "a": {name: eye[:, :2] @ eye[:2]},
        "b": {name: eye[:, :2] @ eye[:2] * 3},
        "c": {name: eye[:, 5:7] @ eye[5:7]},
    }
    rows = {(row["a"], row["b"]): row for row in overlaps.describe(base, experts)}
    assert rows["a", "b"]["reads"] == pytest.approx(1) and rows["a", "c"]["writes"] == pytest.approx(0)
    assert rows["a", "b"]["chance_reads"] == pytest.approx(0.1) and rows["a", "b"]["matrices"] == 1


def test_effective_ranks_set_one_expert_beside_the_merges(plans):
    rows = pd.DataFrame(made_up_directions(experiments.plan("rank", "smoke")))
    merges = [merge.system for merge in plans["rank"].experiment.describe]
    table = directions.effective_ranks(directions.pooled(rows[rows["kind"] == "spectrum"], merges))
    assert list(table.index) == [directions.EXPERTS, *merges]
    assert table.loc["Iso-C", "all"] == pytest.approx(100, abs=0.1)  # a flat spectrum
