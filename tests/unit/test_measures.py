"""Measures and verdicts by the protocol, from trainings of two seeds to rows, on the smallest of models."""

import itertools
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
from click.testing import CliRunner

from speechbook.claims.results import Judged, NotRunError
from speechbook.commands import study as cli_study
from speechbook.study import (
    comparisons,
    experiments,
    kept,
    measures,
    plans,
    protocol,
    rows,
    store,
    study,
    table_files,
    verdicts,
)
from speechbook.study.experiment import Experiment, Profile
from speechbook.study.plans import result
from speechbook.study.steps import HYPOTHESES
from speechbook.tables import evidence
from speechmerge.errors import StudyError
from speechmerge.evaluation.inference import EQUIVALENT, FAILS, HOLDS, Bootstrap
from speechmerge.evaluation.predictions import Prediction, write_predictions
from speechmerge.evaluation.resampling import RESAMPLES, interval
from speechmerge.evaluation.scoring import count

TABLE = {
    "experiment": "judged", "kind": "systems", "title": "Judged", "languages": "domains", "tasks": ["asr", "st"],
    "groups": {"everything": ["domains"]}, "by_language": "Base", "against": ["Base", "Merged", "Merged again"],
    "systems": [
        {"system": "Base", "model": "base"}, {"system": "Own", "train": "cell"},
        {"system": "Merged", "method": "task_arithmetic", "tune": ["scaling"]},
        {"system": "Merged again", "method": "task_arithmetic", "tuned_as": "Merged"},
    ],
}  # fmt: skip
CHANGED = {
    "kept_apart": "near", "select": "loss", "rates_on": 1, "seeds": [0, 1], "dev_clips": None, "test_clips": 9,
    "training": {"minutes": 0.2, "epochs": 2, "batch": 4, "precision": "fp32", "patience": 1, "unseen_rows": "kept"},
    "decoding": {"beams": 1, "precision": "fp32", "tokens_per_second": 1.0},
}  # fmt: skip
CELLS = {"es", "it"}


@pytest.fixture(scope="module")
def rules():
    return protocol.read().model_copy(
        update={"seeds": {"judged": (0, 1), "every": (0,)}, "below_the_floor": {"domains": ("st",)}}
    )


@pytest.fixture(scope="module")
def plan(tmp_path_factory, rules):
    """The table, measured; two of three test clips are novel."""
    smoke = experiments.profiles()["smoke"].model_dump(exclude_unset=True)
    profile, table = Profile.model_validate(smoke | CHANGED), Experiment.model_validate(TABLE)
    clips_of = kept.clips_of

    def compared(*place):
        return [replace(clip, similarity=0.5 if i % 3 else 0.9) for i, clip in enumerate(clips_of(*place))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHMERGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SPEECHMERGE_RESULTS", str(tmp_path_factory.mktemp("results")))
        patch.setattr(experiments, "profiles", lambda: {"smoke": profile})
        patch.setattr(experiments, "experiments", lambda: {"judged": table})
        patch.setattr(comparisons, "grouped", lambda *_: [])  # knows error rates only
        patch.setattr(protocol, "read", lambda: rules)
        patch.setattr(kept, "clips_of", compared)
        made = experiments.plan("judged", "smoke")
        study.run(made)
        for system in made.systems:  # a random model is wrong about everything, whatever its weights
            for cell, step in system.decodes.items():
                write_predictions(
                    noisy(system, compared(asdict(cell), "test", 9), cell), made.steps[step].folder / HYPOTHESES
                )
        rows.collect(made)
        yield made


def noisy(system, clips, cell):
    """Hypotheses with errors in a share of the words that depends on the system and the seed."""
    name = system.system.removesuffix(" again")
    rng = random.Random(f"{name} {system.seed} {cell}")
    rate = {"Base": 0.6, "Own": 0.2, "Merged": 0.4}[name] + 0.05 * system.seed
    texts = [clip.translation if cell.task == "st" else clip.text for clip in clips]
    said = [[word if rng.random() > rate else rng.choice(("", "no", "no no no")) for word in t.split()] for t in texts]
    return [Prediction(clip.id, " ".join(words)) for clip, words in zip(clips, said, strict=True)]


def table(name, *fields):
    return {tuple(row[field] for field in fields): row for row in store.lines("smoke", f"judged.{name}")}


def judged_with_one_seed(plan, rules):
    return measures.Table(kept.read(plan), rules.model_copy(update={"seeds": {"every": (0,)}}))


def test_every_metric_group_and_kind_of_clips_has_a_row(plan, rules):
    found = table("measures", *measures.IDENTITY)
    metrics = {(task, name) for task, m in rules.metrics.items() for name in (m.primary, *m.secondary)}
    systems, groups = {entry["system"] for entry in TABLE["systems"]}, {measures.OWN, "everything", *CELLS}
    expected = itertools.product(systems, [""], groups, ["all", "novel"], metrics)
    assert set(found) == {(s, v, task, g, clips, metric) for s, v, g, clips, (task, metric) in expected}
    for row in found.values():
        assert row["ci_low"] <= row["value"] <= row["ci_high"] and row["seeds"] == [0, 1]
        assert row["value"] == pytest.approx(np.mean(row["by_seed"]), abs=1e-6)
        assert row["wide_low"] is row["wide_high"] is None


def test_novel_clips_are_some_of_all(plan):
    found = table("measures", *measures.IDENTITY)
    for (*place, _, metric), row in found.items():
        everything = found[*place, "all", metric]
        cells = row["n_cells"]
        assert everything["n_clips"] == 9 * cells and row["n_clips"] == (9 if row["clips"] == "all" else 6) * cells
        assert row["n_words"] <= everything["n_words"] and row["runaway"] <= everything["runaway"]


def test_a_cap_never_adds_errors(plan):
    found = table("measures", *measures.IDENTITY)
    pairs = [(row, found[*place, "wer"]) for (*place, metric), row in found.items() if metric == "capped_wer"]
    assert pairs and all(capped["value"] <= raw["value"] for capped, raw in pairs)


def test_the_other_way_round_a_comparison_is_the_opposite(plan):
    found = table("comparisons", *verdicts.IDENTITY)
    opposite, mirrored = {HOLDS: FAILS, FAILS: HOLDS}, 0
    for (system, variant, *place, against, other), row in found.items():
        back = found.get((against, other, *place, system, variant))
        if back:
            mirrored += 1
            assert row["difference"] == -back["difference"] and row["p_value"] == back["p_value"]
            assert row["ci_low"] == pytest.approx(-back["ci_high"], abs=2e-6)
            assert row["verdict"] == opposite.get(back["verdict"], back["verdict"])
            assert row.get("z") == (-back["z"] if back.get("z") else back.get("z"))
    assert mirrored


def test_pairs_are_those_the_experiment_names(plan):
    found = table("comparisons", "system", "against", "group")
    several, single = {measures.OWN, "everything"}, CELLS
    others = [(a, b) for a in ("Base", "Own", "Merged", "Merged again") for b in TABLE["against"] if a != b]
    expected = {(a, b, group) for a, b in others for group in several | (single if b == "Base" else set())}
    assert set(found) == expected


def test_a_copy_differs_by_nothing(plan):
    for row in store.lines("smoke", "judged.comparisons"):
        if {row["system"], row["against"]} == {"Merged", "Merged again"}:
            assert row["difference"] == row["ci_low"] == row["ci_high"] == 0 and row["p_value"] == 1
            assert row["verdict"] == (EQUIVALENT if row["task"] == "asr" else verdicts.UNTESTABLE)


def test_matched_pairs_stand_beside_word_error_rates_of_domains(plan):
    for row in store.lines("smoke", "judged.comparisons"):
        assert (row["mapsswe_p"] is not None) == (row["metric"] == "wer" and row["clips"] == "all")
        if row["mapsswe_p"] is not None and row["system"] == "Merged" and row["against"] == "Merged again":
            assert row["z"] == 0 and row["mapsswe_p"] == 1 and row["segments"] > 0


def test_comparisons_are_those_of_the_joint_bootstrap(plan, rules):
    found = kept.read(plan)
    whole = measures.Table(found, rules)
    cells = [cell for cell in plan.cells if cell.task == "asr"]
    scores = {
        name: [
            {c: count(said[c], found.clips[c], c.language) for c in cells}
            for system, said in zip(found.plan.systems, found.predictions, strict=True)
            if system.system == name
        ]
        for name in ("Own", "Merged")
    }
    difference, samples = Bootstrap(tuple(cells), 2).difference((scores["Own"], scores["Merged"]))
    row = table("comparisons", *verdicts.IDENTITY)["Own", "", "asr", measures.OWN, "all", "wer", "Merged", ""]
    assert (row["difference"], row["ci_low"], row["ci_high"]) == pytest.approx(
        (difference, *interval(samples)), abs=1e-6
    )
    assert set(whole.seeds) == {0, 1}


def test_with_one_seed_intervals_are_those_of_the_rows(plan, rules):
    measured, compared = verdicts.rows(judged_with_one_seed(plan, rules))
    old = store.rows("smoke", "judged").set_index(["system", "task", "language", "seed"])
    paired = store.statistics("smoke", "judged.paired").set_index(["system", "against", "task", "seed"])
    names = {"wer": "pooled", "macro_wer": "macro", "bleu": "macro"}
    seen = 0
    for row in measured:
        if row["clips"] == "all" and row["group"] == measures.OWN and row["metric"] in names:
            same = old.loc[(row["system"], row["task"], names[row["metric"]], 0)]
            assert (row["ci_low"], row["ci_high"]) == pytest.approx((same["ci_low"], same["ci_high"]), abs=1e-6)
            assert row["runaway"] == same["runaway"] and row["n_words"] == same["n_reference_words"]
            seen += 1
    for row in compared:
        if row["clips"] == "all" and row["group"] == measures.OWN and row["metric"] == "wer":
            same = paired.loc[(row["system"], row["against"], "asr", 0)] if row["system"] != "Base" else None
            if same is not None and row["against"] != "Base":
                ours = row["difference"], row["ci_low"], row["ci_high"], row["p_value"]
                theirs = same["difference"], same["ci_low"], same["ci_high"], same["p_value"]
                assert ours == pytest.approx(theirs, abs=1e-6)
                seen += 1
    assert seen > 12


def test_kept_predictions_give_measures_and_comparisons_again(plan):
    found = rows.judged(plan)
    assert set(found) == {"judged.measures", "judged.comparisons"}
    assert all(store.unlike("smoke", name, lines) == [] and lines for name, lines in found.items())
    other = [row | {"value": row["value"] + 1e-6} for row in found["judged.measures"][:2]]
    assert store.unlike("smoke", "judged.measures", other) == other


def test_rescore_names_measures_that_differ(plan):
    call = ["rescore", "--profile", "smoke", "--experiment", "judged"]
    done = CliRunner().invoke(cli_study, call)
    many = len(store.lines("smoke", "judged.measures"))
    assert done.exit_code == 0 and f"judged.measures: {many} rows; {many} as committed, 0 differ" in done.output
    path = store.table_path("smoke", "judged.measures")
    content = path.read_bytes()
    first, *others = table_files.read(path)
    table_files.write(path, [first | {"n_clips": first["n_clips"] - 1}, *others])
    done = CliRunner().invoke(cli_study, call)
    path.write_bytes(content)
    assert done.exit_code == 1 and f"{many - 1} as committed, 1 differ" in done.output


def test_a_profile_without_the_protocol_has_no_measures(plan, monkeypatch):
    assert rows.judged(replace(plan, settings=plan.settings.model_copy(update={"kept_apart": "equal"}))) == {}


def test_a_system_without_all_seeds_is_left_out_and_named(plan, rules, caplog):
    short = replace(plan, systems=[s for s in plan.systems if (s.system, s.seed) != ("Own", 1)])
    found = measures.Table(kept.read(short), rules)
    assert ("Own", "") not in found.said and ("Merged", "") in found.said
    assert "judged: Own is not measured with the seeds [1] yet" in caplog.text


def test_the_deviation_between_seeds_widens_what_has_one_seed(plan, rules):
    values = {"Base": [0.5, 0.5], "A": [0.2, 0.3], "B": [0.3, 0.2]}
    place = {"variant": "", "task": "asr", "group": measures.OWN, "clips": "all", "metric": "wer", "seeds": [0, 1]}
    lines = [
        place | {"system": name, "by_seed": own, "n_cells": 5, "method": "none" if name == "Base" else "dare"}
        for name, own in values.items()
    ]
    store.write_statistics("smoke", "three.measures", lines)
    rules = rules.model_copy(update={"seeds": {"every": (0,), "three": (0, 1)}})
    deviation = np.std([0.2, 0.3], ddof=1)
    assert measures.spread("smoke", rules) == pytest.approx(
        {("wer", "all", True, 1): deviation, ("wer", "all", True, 2): 2 * deviation}
    )
    measured, compared = verdicts.rows(measures.Table(kept.read(plan), rules))
    for row in measured + compared:
        known = row["metric"] == "wer" and row["clips"] == "all" and row["group"] in (measures.OWN, "everything")
        trained = {row["system"], row.get("against", "Base")} != {"Base"}
        assert (row["wide_low"] is not None) == (known and trained)
        if {row["system"], row.get("against")} == {"Merged", "Merged again"}:  # one model: seeds make no difference
            assert row["wide_low"] in (None, 0) and row["verdict"] in (EQUIVALENT, verdicts.UNTESTABLE)
        elif row["wide_low"] is not None:
            assert row["wide_low"] < row["ci_low"] and row["ci_high"] < row["wide_high"]


def test_what_trainings_did_stands_beside_every_expert(plan):
    found = store.rows("smoke", "judged")
    logs = [log for one in found[found["system"] == "Merged"]["training"] for log in one.values()]
    assert logs
    for log in logs:
        assert 0 < log["best_step"] <= log["steps"] and 0 < log["update"] < 1 and log["patience"] == 1
        assert log["in_unseen_rows"] == 0 <= log["in_table"] <= 1  # such rows were kept at the base


def test_the_protocol_asks_for_the_bootstrap_there_is():
    found = protocol.read().inference
    assert (found.resamples, found.confidence) == (RESAMPLES, 0.95)


def kept_line(kind, **place):
    place = {"variant": "", "task": "asr", "group": measures.OWN, "metric": "capped_wer", "clips": "all"} | place
    [line] = [row for row in store.lines("smoke", f"judged.{kind}") if place.items() <= row.items()]
    return line


@pytest.mark.parametrize("clips", ["all", "novel"])
def test_pages_show_measures_in_points(plan, clips):
    found = evidence.measured("smoke", "judged", metric="wer", clips=clips).set_index(["system", "language"])
    assert list(dict.fromkeys(name for name, _ in found.index)) == ["Base", "Own", "Merged", "Merged again"]
    for language, group in (("es", "es"), ("pooled", measures.OWN)):
        line = kept_line("measures", system="Own", group=group, metric="wer", clips=clips)
        shown = found.loc["Own", language]
        assert [shown["value"], shown["low"], shown["high"]] == pytest.approx(
            [100 * line[name] for name in ("value", "ci_low", "ci_high")]
        )


def test_pages_say_what_a_comparison_decides_from_either_side(plan):
    line = kept_line("comparisons", system="Merged", against="Base")
    assert line["verdict"] == HOLDS
    found = evidence.frame("smoke", "judged")
    assert found.groupby("system")["method"].nunique(dropna=False).eq(1).all() and found["method"].notna().all()
    assert evidence.verdict(found, "Merged", "Base").startswith("better (−")
    assert evidence.verdict(found, "Own", "Merged").startswith("undecided (−")
    assert evidence.verdict(found, "Base", "Merged").startswith("worse (+")
    with pytest.raises(StudyError, match="'Base' was not compared with 'Nobody' in task 'asr'"):
        evidence.verdict(found, "Base", "Nobody")
    table = evidence.outcomes("smoke", "judged", "Base")
    assert list(table.index) == ["Own", "Merged", "Merged again"]
    assert table["all clips", "it is"]["Merged"] == "better"


@pytest.mark.parametrize("clips", ["all", "novel"])
def test_claims_read_comparisons_whichever_was_subtracted(plan, clips):
    line = kept_line("comparisons", system="Merged", against="Base", clips=clips)
    results = Judged("smoke", clips)
    for pair, sign in ((("Merged", "Base"), 1), (("Base", "Merged"), -1)):
        [row] = results.paired("judged", *pair).to_dict("records")
        assert [row["value"], row["low"], row["high"]] == pytest.approx(
            [100 * sign * line["difference"], *sorted(100 * sign * line[end] for end in ("ci_low", "ci_high"))]
        )
    assert results.score("judged", "Base") == pytest.approx(
        100 * kept_line("measures", system="Base", clips=clips)["value"]
    )
    assert list(results.languages("judged", "Own").index) == ["es", "it"]
    assert results.paired("judged", "Merged", "Base", place="everything")["value"].iloc[0] < 0
    assert results.margin("asr", 50.0) == 1.0
    with pytest.raises(NotRunError, match="judged has no paired comparison of Own and Nobody"):
        results.paired("judged", "Own", "Nobody")


def test_other_seeds_go_on_from_committed_choices(plan, tmp_path, monkeypatch):
    made = {name: result(step.folder) for name, step in plan.steps.items() if step.kind in ("rate", "tune")}
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path))
    assert study.take_choices(plan) == len(made) > 1
    for name, found in made.items():
        assert {key: found[key] for key in result(plan.steps[name].folder)} == result(plan.steps[name].folder)
    later = plans.narrowed(plan, seeds=[1])
    trained = [step.name for step in later.pending() if step.kind == "train"]
    assert {system.seed for system in later.systems} == {1}
    assert trained and all(name.endswith("seed 1") for name in trained)
    assert study.take_choices(plan) == 0, "they are there"


def test_choices_of_other_steps_are_not_taken_over(plan, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path))
    steps = {name: replace(step, key=f"{step.key}0") for name, step in plan.steps.items()}
    assert study.take_choices(replace(plan, steps=steps)) == 0


def test_a_training_on_many_places_is_told_in_few_words():
    few, many = ("+".join(f"p{number}" for number in range(count)) for count in (5, 10))
    assert evidence._told(f"choose {few} asr seed 0") == f"{few} asr seed 0"
    assert evidence._told(f"choose {many} asr seed 0") == "p0 and 9 others asr seed 0"
