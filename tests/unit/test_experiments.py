"""The experiment table becomes steps with keys that change with everything that decides a result, and nothing else."""

import copy
import os
import subprocess
import sys

import pytest
import yaml

from speechbook.study import experiments, planning, plans, store
from speechmerge.errors import StudyError
from speechmerge.evaluation import decoding_settings
from speechmerge.finetuning import training_recipe

PROFILE = yaml.safe_load("""
base: smoke
sets: {set1: [es, it]}
corpora: {es: [tones], it: [tones]}
training: {minutes: 0.2, epochs: 2, batch: 4, precision: fp32}
learning_rates: [1.0e-3, 3.0e-3]
decoding: {beams: 1, precision: fp32}
dev_clips: 3
grids: {scaling: [0.3, 0.6], density: [0.4, 0.6], rank_ratio: [0.1]}
seeds: [0]
here: {train_windows_per_second: 50.0, decode_clips_per_second: 50.0}
""")
TABLE = yaml.safe_load("""
experiment: table
kind: systems
languages: set1
tasks: [asr]
systems:
  - {system: Pretrained, model: base}
  - {system: Finetuned, train: cell}
  - {system: Joint, train: all}
  - {system: Average, method: weight_average}
  - {system: Arithmetic, method: task_arithmetic, tune: [scaling]}
  - {system: LoRS, method: lors, tune: [scaling], prune: {density: mp, rank_ratio: svp}}
""")
VECTORS = {"experiment": "vectors", "kind": "task_vectors", "languages": "set1", "tasks": ["asr"]}


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Plan an experiment of a project written for the test, with changes to profile or table."""
    monkeypatch.setenv("SPEECHMERGE_HOME", str(tmp_path))
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))  # where no step is done
    (tmp_path / "experiments").mkdir()

    def plan(*, seeds=None, table=TABLE, profile=None, **settings):
        merged = copy.deepcopy(PROFILE) | settings
        (tmp_path / "experiments" / "profiles.yaml").write_text(yaml.safe_dump({"p": merged, "q": merged}))
        (tmp_path / "experiments" / "table.yaml").write_text(yaml.safe_dump(table))
        return experiments.plan(table["experiment"], profile or "p", seeds)

    return plan


def keys(plan):
    return {name: step.key for name, step in plan.steps.items()}


def kinds(plan, names):
    return {plan.steps[name].kind for name in names}


def changed(before, after):
    assert before.steps.keys() == after.steps.keys()
    return {name for name in before.steps if before.steps[name].key != after.steps[name].key}


def downstream(plan, names):
    """The steps of a plan that need one of these, directly or not, and these."""
    found = set(names)
    for name, step in plan.steps.items():  # in an order that respects needs
        if found & set(step.needs):
            found.add(name)
    return found


@pytest.mark.parametrize(("profile", "name"), [(p, n) for p in experiments.profiles() for n in experiments.runnable(p)])
def test_every_need_precedes_its_step_in_the_projects_own_experiments(profile, name):
    plan = experiments.plan(name, profile)
    seen = set()
    for step in plan.steps.values():
        assert set(step.needs) <= seen
        seen.add(step.name)
    for system in plan.systems:
        assert set(system.decodes.values()) <= seen and set(system.decodes) <= {*plan.cells, *plan.also}


def test_keys_are_the_same_in_another_process():
    """One whose hashes of words, and so the order of its sets, differ from those here."""
    code = (
        "from speechbook.study import experiments\n"
        "print(*(s.key for s in experiments.plan('table1', 'smoke').steps.values()))"
    )
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    command, environment = [sys.executable, "-c", code], os.environ | {"PYTHONHASHSEED": seed}
    there = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert there == list(keys(experiments.plan("table1", "smoke")).values())


def test_the_plan_of_a_table(planned):
    plan = planned()
    count = {kind: sum(s.kind == kind for s in plan.steps.values()) for kind in ("train", "choose", "decode", "tune")}
    assert count["train"] == 6 and count["choose"] == 3  # two rates for each of two experts and the joint model
    assert count["tune"] == 2 + 2 * 2  # λ of two systems; density and rank of each expert
    assert [s.system for s in plan.systems] == [entry["system"] for entry in TABLE["systems"]]
    assert plan.pending() == list(plan.steps.values())


def test_test_data_decide_nothing(planned):
    """No step that reads the test split is needed by another."""
    plan = planned()
    needed = {need for step in plan.steps.values() for need in step.needs}
    on_test = {name for name, step in plan.steps.items() if step.spec.get("split") == "test"}
    assert on_test and not on_test & needed
    assert all(step.spec["cap"] is None for step in plan.steps.values() if step.spec.get("split") == "test")


def test_a_grid_of_scaling_changes_only_what_tunes_it(planned):
    before, after = planned(), planned(grids=PROFILE["grids"] | {"scaling": [0.3, 0.9]})
    same = before.steps.keys() & after.steps.keys()
    moved = {name for name in same if before.steps[name].key != after.steps[name].key}
    tunes = {f"tune {system} es+it asr scaling" for system in ("Arithmetic", "LoRS")}
    assert moved == downstream(after, tunes) and kinds(after, moved) == {"tune", "decode"}
    new = after.steps.keys() - before.steps.keys()
    assert new and all("0.9" in name for name in new)


def test_a_learning_rate_changes_its_training_and_all_that_follow(planned):
    before, after = planned(), planned(learning_rates=[1.0e-3, 5.0e-3])
    trains = {name for name, step in after.steps.items() if step.kind == "train"}
    same = before.steps.keys() & after.steps.keys()
    moved = {name for name in same if before.steps[name].key != after.steps[name].key}
    assert not moved & trains  # the rate that stayed is not trained again
    assert moved | trains == downstream(after, trains) and "decode Pretrained es asr seed 0 test" not in moved


@pytest.mark.parametrize(
    ("settings", "starts"),
    [
        ({"training": PROFILE["training"] | {"epochs": 3}}, ("train",)),
        ({"decoding": PROFILE["decoding"] | {"beams": 2}}, ("decode",)),
        ({"base": "whisper-tiny"}, ("train", "decode")),
        ({"here": {"train_windows_per_second": 1.0, "decode_clips_per_second": 1.0}}, ()),
    ],
    ids=["training", "decoding", "base", "speed"],
)
def test_a_setting_changes_exactly_what_depends_on_it(planned, settings, starts):
    before, after = planned(), planned(**settings)
    assert changed(before, after) == downstream(after, {n for n, s in after.steps.items() if s.kind in starts})


def test_a_rate_that_another_experiment_chose_is_not_searched_again(planned, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path / "results"))
    (tmp_path / "experiments" / "first.yaml").write_text(yaml.safe_dump(VECTORS | {"experiment": "first"}))
    searched = planned(rates_of="first")
    assert keys(searched) == keys(planned())  # nothing is committed
    tried = [{"learning_rate": rate, "dev_loss": loss} for rate, loss in ((1.0e-3, 2.0), (3.0e-3, 1.5))]
    store.write_statistics("p", "first.chosen", [{"step": "choose es asr", "kind": "choose", "tried": tried}])
    taken = planned(rates_of="first")
    assert set(searched.steps) - set(taken.steps) == {"train es asr 0.001 seed 0"}
    same = "train es asr 0.003 seed 0"
    assert taken.steps["choose es asr"].needs == (same,) and taken.steps[same].key == searched.steps[same].key


def test_a_search_by_loss_hears_as_many_dev_clips_as_the_profile_says(planned):
    whole, capped = (planned(select="loss", dev_clips=clips) for clips in (None, 5))
    tuned = {name for name, step in whole.steps.items() if "search" in step.spec}
    assert tuned and changed(whole, capped) == downstream(capped, tuned)
    assert all({cell["cap"] for cell in capped.steps[name].spec["cells"]} == {5} for name in tuned)
    assert not any("cap" in cell for name in tuned for cell in whole.steps[name].spec["cells"])


def test_dev_clips_do_not_touch_training_or_untuned_test_decodings(planned):
    before, after = planned(), planned(dev_clips=5)
    on_dev = {name for name, step in after.steps.items() if step.spec.get("split") == "dev"}
    assert changed(before, after) == downstream(after, on_dev)
    assert "decode Average es asr seed 0 test" not in changed(before, after)


@pytest.mark.parametrize(("method", "measures"), [("greedy_soup", True), ("learned_average", True), ("fisher", False)])
def test_measurements_hear_the_dev_clips_that_parameters_are_chosen_with(planned, method, measures):
    table = TABLE | {"systems": [{"system": "Merged", "method": method}]}
    name = "decode Merged es asr seed 0 test"
    few, more = (planned(table=table, dev_clips=clips).steps[name] for clips in (3, 6))
    heard = [[cell.get("cap") for cell in own] for own in few.spec["model"]["speech"]]
    assert heard == ([[3], [3]] if measures else [[None], [None]])
    assert (few.key != more.key) is (few.seconds < more.seconds) is measures


@pytest.mark.parametrize(("module", "kind"), [(training_recipe, "train"), (decoding_settings, "decode")])
def test_a_new_version_of_the_code_makes_new_keys(planned, monkeypatch, module, kind):
    before = planned()
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    after = planned()
    assert changed(before, after) == downstream(after, {n for n, s in after.steps.items() if s.kind == kind})


def test_profile_and_experiment_names_do_not_enter_keys(planned):
    """Two tables, or two profiles, that need the same expert train it once."""
    assert keys(planned()) == keys(planned(profile="q")) == keys(planned(table=TABLE | {"experiment": "other"}))
    vectors = keys(planned(table=VECTORS))
    describe = vectors.pop("describe task vectors")
    assert vectors.items() <= keys(planned()).items() and describe not in keys(planned()).values()


def test_a_second_seed_reuses_the_first_ones_tuning(planned):
    one, two = planned(), planned(seeds=[0, 1])
    assert keys(one).items() <= keys(two).items()
    added = {name: step for name, step in two.steps.items() if name not in one.steps}
    assert {step.kind for step in added.values()} == {"train", "choose", "decode"}
    assert all(step.spec.get("split", "test") == "test" for step in added.values())
    trains = {name: step for name, step in added.items() if step.kind == "train"}
    assert len(trains) == 3  # one rate each: the one chosen with the first seed
    assert (
        trains["train es asr seed 1"].needs == ("choose es asr",)
        and "learning_rate" not in trains["train es asr seed 1"].spec
    )
    lors = two.steps["decode LoRS es asr seed 1 test"].needs
    assert lors[:2] == ("choose es asr seed 1", "choose it asr seed 1")
    assert lors[2:] == two.steps["decode LoRS es asr seed 0 test"].needs[2:]
    assert [s.seed for s in two.systems if s.system == "Pretrained"] == [0]  # training seeds do not change it


def test_narrowed_keeps_a_system_and_what_it_needs(planned):
    plan = planned()
    kept = plans.narrowed(plan, ["Arithmetic"])
    assert [s.system for s in kept.systems] == ["Arithmetic"]
    assert kept.steps.items() <= plan.steps.items()
    assert {s.kind for s in kept.steps.values()} == {"train", "choose", "decode", "tune"}
    assert not [name for name in kept.steps if "LoRS" in name or "train es+it" in name]
    assert plans.narrowed(plan, []) is plan


def test_narrowed_keeps_what_is_told_of_all_experts_if_they_are_needed_anyway():
    plan = experiments.plan("rank", "smoke")
    told = [name for name, step in plan.steps.items() if step.kind == "describe"]
    merge, base = (plans.narrowed(plan, [name]) for name in ("Procrustes rank_ratio=0.5", "Zero-shot"))
    assert told and set(told) <= set(merge.steps) and not set(told) & set(base.steps)


def test_two_steps_of_one_name_are_refused(planned):
    plan = planned()
    name = plan.add("tune x", "tune", {"grid": []})
    assert plan.add("tune x", "tune", {"grid": []}) == name
    with pytest.raises(StudyError, match="two different steps are called 'tune x'"):
        plan.add("tune x", "tune", {"grid": [1]})
    twice = copy.deepcopy(TABLE)
    twice["systems"].append({"system": "Average", "method": "task_arithmetic"})
    with pytest.raises(StudyError, match=r"table\.yaml has systems 'Average' and 'Average'; their letters"):
        planned(table=twice)


def test_names_that_are_unknown():
    with pytest.raises(StudyError, match=r"no experiment 'tabel1'\. Did you mean 'table1'\?"):
        experiments.plan("tabel1", "smoke")
    with pytest.raises(StudyError, match=r"no profile 'smok'\. Did you mean 'smoke'\?"):
        experiments.plan("table1", "smok")
    with pytest.raises(StudyError, match=r"'table1' has no system 'LoRS'\. Did you mean 'LoRS-Merging'\?"):
        plans.narrowed(experiments.plan("table1", "smoke"), ["LoRS"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "system"}, r"table\.yaml: kind is 'system'\. Did you mean 'systems'\?"),
        ({"languages": "set2"}, r"table\.yaml: no profile has a set 'set2'\. Did you mean 'set1'\?"),
        ({"systems": [{"system": "A", "method": "lorss"}]}, r"'lorss'.*Did you mean 'lors'\?"),
        ({"systems": [{"system": "A", "trian": "all"}]}, r"systems 'A' has no field 'trian'\. Did you mean 'train'\?"),
        ({"systems": [{"system": "A", "train": "lang"}]}, r"train is 'lang'\. Did you mean 'language'\?"),
        ({"vary": "subset"}, r"vary is 'subset'\. Did you mean 'subsets'\?"),
    ],
)
def test_a_table_with_a_mistake(planned, change, message):
    with pytest.raises(StudyError, match=message):
        planned(table=TABLE | change)


def test_merges_of_another_experiment_are_taken_over():
    known = experiments.experiments()
    merges = [entry for entry in known["domains"].systems if entry.method]
    taken = [entry for entry in merges if "flavour" not in entry.params]
    assert len(merges) > len(taken) > 30
    assert [entry for entry in known["every_method"].systems if entry in merges] == taken
    assert len(known["every_method"].systems) == 3 + len(taken) + 6  # trained ones before, those with data after


def test_merges_of_an_experiment_that_is_not_there(planned):
    with pytest.raises(StudyError, match=r"no experiment 'tabel'\. Did you mean 'table'\?"):
        planned(table=TABLE | {"systems": [{"merges_of": "tabel"}]})


def test_yaml_that_is_none(planned):
    planned()
    (store.project_root() / "experiments" / "broken.yaml").write_text("experiment: [a\n")
    with pytest.raises(StudyError, match=r"broken\.yaml is not valid YAML"):
        experiments.experiments()


BOTH = yaml.safe_load("""
experiment: both
kind: systems
languages: set1
tasks: [asr, st]
systems:
  - {system: Multi-task training, train: language}
  - {system: Multi-lingual training, train: task}
  - {system: Everything, train: all}
  - {system: One after another, sequence: task}
  - {system: Tasks merged, method: weight_average, into: language}
  - {system: All merged, method: weight_average}
  - {system: Languages of multi-task models merged, method: weight_average, of: language}
  - {system: Tasks of multilingual models merged, method: weight_average, of: task}
""")


def test_partitions_say_which_cells_share_a_model(planned):
    plan = planned(table=BOTH)
    found = {}
    for system in plan.systems:
        needs = {cell: plan.steps[step].needs for cell, step in system.decodes.items()}
        assert set(needs) == set(plan.cells)
        models = dict.fromkeys(needs.values())
        found[system.system] = [tuple(sorted({n.partition(" seed")[0] for n in needs})) for needs in models]
    es, it = ("choose es asr", "choose es st"), ("choose it asr", "choose it st")
    assert found["Multi-task training"] == [("choose es asr+st",), ("choose it asr+st",)]
    assert found["Multi-lingual training"] == [("choose es+it asr",), ("choose es+it st",)]
    assert found["Everything"] == [("choose es+it asr+st",)]
    assert found["One after another"] == [
        ("choose es+it asr in sequence, 2 of 2,",),
        ("choose es+it st in sequence, 2 of 2,",),
    ]
    assert found["Tasks merged"] == [es, it] and found["All merged"] == [tuple(sorted(es + it))]
    assert found["Languages of multi-task models merged"] == [("choose es asr+st", "choose it asr+st")]
    assert found["Tasks of multilingual models merged"] == [("choose es+it asr", "choose es+it st")]


def test_a_sequence_trains_on_from_the_last_model(planned):
    plan = planned(table=BOTH)
    step = plan.steps["train es+it asr in sequence, 2 of 2, seed 0"]
    assert step.needs == ("choose es asr", "choose it asr")  # the model it starts from; the rate it takes
    assert "base" not in step.spec and [cell["name"] for cell in step.spec["cells"]] == ["it"]


def test_subsets_share_their_experts_and_minutes_do_not(planned):
    vary = {"subsets": [1, 2], "minutes": [0.1, 0.2]}
    systems = [e for e in TABLE["systems"] if e["system"] in ("Pretrained", "Average")]
    subsets = planned(table=TABLE | {"vary": "subsets", "systems": systems}, vary=vary)
    assert list(dict.fromkeys(s.variant for s in subsets.systems)) == ["es", "it", "es+it"]
    assert sum(step.kind == "train" for step in subsets.steps.values()) == 4
    minutes = planned(table=TABLE | {"vary": "minutes", "systems": systems}, vary=vary)
    assert list(dict.fromkeys(s.variant for s in minutes.systems)) == ["0.1 min", "0.2 min"]
    assert sum(step.kind == "train" for step in minutes.steps.values()) == 8


def test_rows_that_no_text_uses_make_variants_of_one_training(planned):
    systems = [e for e in TABLE["systems"] if e["system"] in ("Pretrained", "Average")]
    plan = planned(table=TABLE | {"vary": "unseen_rows", "systems": systems})
    assert [s.variant.removeprefix("unseen rows ") for s in plan.systems[::2]] == ["trained", "kept", "set back"]
    reset = {name: step for name, step in plan.steps.items() if "reset" in step.spec}
    assert [step.needs[0].partition(" [")[0] for step in reset.values()] == ["choose es asr", "choose it asr"]
    kept = [step for step in plan.steps.values() if step.spec.get("unseen_rows") == "kept"]
    trained = [step for step in plan.steps.values() if step.kind == "train" and step not in [*kept, *reset.values()]]
    assert len(kept) == len(trained) > 0


def test_an_expert_can_be_tested_on_everything(planned):
    table = TABLE | {"systems": [{"system": "Expert", "train": "cell", "each": True}], "also": "set1"}
    plan = planned(table=table)
    assert [s.system for s in plan.systems] == ["Expert es asr", "Expert it asr"]
    assert all(set(s.decodes) == set(plan.cells) for s in plan.systems)
    assert [s.experts for s in plan.systems] == [("es:asr",), ("it:asr",)]


def test_a_group_is_named_by_its_languages_and_tasks(planned):
    plan = planned(table=BOTH)
    assert planning.label(plan.cells) == "es+it asr+st"
    assert [planning.label(part) for part in planning.parts(plan.cells, "language")] == ["es asr+st", "it asr+st"]
