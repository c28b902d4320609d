"""Experiments that fuse frozen models: plans, one small run from hearing to rows, and what a file may not say."""

import re
from collections import defaultdict

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from speechbook.study import fusion_planning, fusion_rows, making, plans, store, study
from speechmerge.cli import cli
from speechmerge.errors import StudyError
from speechmerge.fusion import encoders, features, tasks
from speechmerge.fusion.alignment import spaced


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path / "results"))


PLANNED = [(p, n) for p in fusion_planning.profiles() for n in fusion_planning.runnable(p)]


@pytest.mark.parametrize(("profile", "name"), PLANNED)
def test_plans_of_the_projects_own_experiments(profile, name):
    plan = fusion_planning.plan(name, profile)
    seen = set()
    for step in plan.steps.values():
        assert set(step.needs) <= seen and step.seconds >= 0
        seen.add(step.name)
        if step.kind == "fuse":
            assert [plan.steps[need].kind for need in step.needs][-1] == "fuse_rate"
    assert plan.systems and plan.pending() == list(plan.steps.values())
    assert all(set(system.decodes.values()) <= seen for system in plan.systems)


def test_every_profile_can_run_every_experiment_but_the_ones_it_has_no_sets_for():
    assert {name for profile, name in PLANNED if profile == "fusion"} == set(fusion_planning.experiments())
    assert {name for profile, name in PLANNED if profile == "fusion-smoke"} == set(fusion_planning.experiments())


def test_upstreams_of_an_experiment_hear_once_whatever_the_interfaces():
    plan = fusion_planning.plan("fusion_pairs", "fusion")
    hears = [step.spec for step in plan.steps.values() if step.kind == "hear"]
    assert len(hears) == 4 * len(plan.cells) == len({(spec["upstream"], spec["task"]) for spec in hears})
    twice = next(
        step for step in plan.steps.values() if step.spec.get("upstreams") == ["whisper-tiny", "whisper-tiny#2"]
    )
    assert len(twice.needs) == 2


def test_experiments_share_their_steps():
    """What two experiments train alike is trained once, and whole clips are heard before parts of the same."""
    pairs, layers = (fusion_planning.plan(name, "fusion") for name in ("fusion_pairs", "fusion_layers"))
    shared = {step.key for step in pairs.steps.values()} & {step.key for step in layers.steps.values()}
    alone = [s for s in pairs.steps.values() if s.kind == "fuse" and len(s.spec["upstreams"]) == 1]
    same = [s for s in alone if s.spec["interface"] in ("ws", "gumd", "concat", "mlp", "hconv")]
    assert same and all(step.key in shared for step in same)
    hears = [s for s in fusion_planning.plan("fusion_sizes", "fusion").steps.values() if s.kind == "hear"]
    assert hears[0].spec["task"] == "asr-en"


def test_single_interfaces_stay_with_single_upstreams():
    plan = fusion_planning.plan("fusion_pairs", "fusion")
    for system in plan.systems:
        assert (system.system == "hconv") <= (len(system.experts) == 1)
        assert (system.system == "late") <= (len(system.experts) > 1)
        if system.system == "late":
            assert all(tasks.TASKS[cell.name].kind == "classes" for cell in system.decodes)


def test_a_rate_is_chosen_by_family():
    plan = fusion_planning.plan("fusion_growing", "fusion")
    rates = {name for name, step in plan.steps.items() if step.kind == "fuse_rate"}
    single = {f"rate {task} {family}" for task in ("voice-id", "language-id-x") for family in ("ws", "hconv")}
    joint = {f"rate {task} {family} joint" for task in ("voice-id", "language-id-x") for family in ("ws", "chconv")}
    assert rates == single | joint
    for name in joint:
        assert plan.steps[name].spec["upstreams"] == ["whisper-tiny", "moonshine-tiny"]
    for step in (step for step in plan.steps.values() if step.kind == "fuse"):
        assert step.needs[-1].endswith("joint") == (len(step.spec["upstreams"]) > 1)


def test_a_small_experiment_from_hearing_to_rows(tmp_path):
    plan = fusion_planning.plan("fusion_growing", "fusion-smoke")
    rows = study.run(plan)
    assert {(row["upstreams"], row["interface"]) for row in rows} == {
        (s, i) for s in ("T", "M", "TM") for i in ("ws", "chconv")
    }
    assert all(row["ci_low"] <= row["error"] <= row["ci_high"] and row["n_clips"] == 8 for row in rows)
    assert not plan.pending()
    paired = store.lines("fusion-smoke", "fusion_growing.paired")
    assert {(row["interface"], row["against"]) for row in paired} == {("chconv", f"ws {s}") for s in ("T", "M", "TM")}
    [alike] = store.lines("fusion-smoke", "fusion_growing.alike")
    assert alike["pair"] == "random-16 + random-24" and 0 <= alike["cka"] <= 1 and -1 <= alike["kappa"] <= 1
    again = CliRunner().invoke(cli, ["study", "rescore", "--profile", "fusion-smoke", "--experiment", "fusion_growing"])
    assert again.exit_code == 0 and again.output.splitlines() == [
        "fusion_growing.fused: 6 rows; 6 as committed, 0 differ",
        f"fusion_growing.paired: {len(paired)} rows; {len(paired)} as committed, 0 differ",
    ]
    everything = CliRunner().invoke(cli, ["study", "rescore", "--profile", "fusion-smoke"])
    assert everything.output == again.output, "what was not measured is not named"
    path = store.table_path("fusion-smoke", "fusion_growing.answers")
    before = path.read_bytes()
    study.run(plan)
    assert path.read_bytes() == before, "nothing is measured anew"


def test_an_embedding_is_kept_in_a_byte_a_number_and_points_where_it_did():
    vectors = np.random.default_rng(0).standard_normal((20, 128))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = np.array([fusion_rows.unpacked(fusion_rows.packed(vector)) for vector in vectors])
    assert np.abs(kept @ kept.T - vectors @ vectors.T).max() < 0.005
    assert fusion_rows.packed(kept[0]) == fusion_rows.packed(vectors[0])
    assert not fusion_rows.unpacked(fusion_rows.packed([0.0, 0.0])).any()


def test_a_merge_of_the_study_is_heard_as_an_upstream():
    plan = fusion_planning.plan("fusion_merged", "fusion-smoke")
    hear = plan.steps["hear smoke@Weight Averaging full tones"]
    wanted = set(plans.ancestors(plan, {hear.name}))
    for step in [step for name, step in plan.steps.items() if name in wanted]:
        study.execute([step], plan.steps)
    folders = [making.expert(plan.steps[need].folder) for need in hear.needs]
    first, second = (load_file(folder / "model.safetensors") for folder in folders)
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    stored, merged = features.opened(plans.result(hear.folder)["store"]), encoders.whisper("smoke", weights=mean)
    clip = tasks.find("tones").folds((8, 4, 4))[0][0].clip
    kept = torch.from_numpy(np.array(stored.read(clip, whole=False))).float()
    fresh, base = merged.states(clip.samples()), encoders.whisper("smoke").states(clip.samples())
    rows = spaced(fresh.shape[1], features.KEPT)
    torch.testing.assert_close(kept, fresh.transpose(0, 1)[rows], rtol=1e-3, atol=1e-3)
    assert float((fresh - base).abs().max()) > 0.01 and kept.shape[1] == 3


@pytest.mark.parametrize(
    ("upstream", "sentence"),
    [
        ("smoke@Weight Avering", "table1 has no system 'Weight Avering'. Did you mean 'Weight Averaging'"),
        ("smoke@Finetuned, fr", "Finetuned of table1 has no place 'fr'"),
    ],
)
def test_a_model_of_the_study_that_is_not_there(upstream, sentence, monkeypatch):
    known = fusion_planning.profiles()["fusion-smoke"]
    changed = known.model_copy(update={"upstreams": known.upstreams | {"W": upstream}})
    monkeypatch.setattr(fusion_planning, "profiles", lambda: {"fusion-smoke": changed})
    with pytest.raises(StudyError, match=re.escape(sentence)):
        fusion_planning.plan("fusion_merged", "fusion-smoke")


def test_systems_are_held_against_their_own_upstreams_and_those_besides(project):
    held = {"interfaces": ["ws", "hconv", "chconv"], "single": ["hconv"], "beside": ["T"], "tasks": ["tones"]}
    study.run(project(experiment=held))
    rivals = defaultdict(list)
    for row in store.lines("p", "fusion_growing.paired"):
        rivals[row["interface"], row["upstreams"]].append(row["against"])
    assert {name: sorted(some) for name, some in rivals.items()} == {
        ("ws", "T"): ["hconv T"],
        ("hconv", "T"): ["ws T"],
        ("chconv", "T"): ["hconv T", "ws T"],
        ("ws", "M"): ["hconv T"],
        ("hconv", "M"): ["hconv T", "ws M"],
        ("chconv", "M"): ["hconv T", "ws M"],
        ("ws", "TM"): ["hconv M", "hconv T"],
        ("chconv", "TM"): ["hconv M", "hconv T", "ws TM"],
    }


def test_steps_that_fill_one_store_do_not_start_side_by_side():
    plan = fusion_planning.plan("fusion_pairs", "fusion-smoke")
    hears = [[step] for step in plan.steps.values() if step.kind == "hear"]
    others = [[step] for step in plan.steps.values() if step.kind == "fuse"][:2]
    free = study._side_by_side([*hears, *others], [hears[0]])
    known = hears[0][0].spec["upstream"]
    filled = [batch[0].spec["upstream"] for batch in free if batch[0].kind == "hear"]
    assert filled == [name for name in ("random-16", "random-24") if name != known] and free[-2:] == others


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one fusion profile and experiment, with changes to either."""
    folder = tmp_path / "project" / "experiments" / "fusion"
    folder.mkdir(parents=True)
    (folder.parent / "profiles.yaml").write_text("{}\n")
    source = store.project_root() / "experiments" / "fusion"
    profiles = yaml.safe_load((source / "profiles.yaml").read_text())
    table = yaml.safe_load((source / "fusion_growing.yaml").read_text())
    monkeypatch.setenv("SPEECHMERGE_HOME", str(tmp_path / "project"))

    def plan(*, profile=None, experiment=None):
        smoke = profiles["fusion-smoke"] | (profile or {})
        (folder / "profiles.yaml").write_text(yaml.safe_dump({"p": smoke}))
        (folder / "table.yaml").write_text(yaml.safe_dump(table | (experiment or {})))
        return fusion_planning.plan("fusion_growing", "p")

    return plan


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"experiment": {"interfaces": ["ws", "hkonv"]}}, "there is no interface 'hkonv'"),
        ({"experiment": {"tasks": ["tone"]}}, "Did you mean 'tones'"),
        ({"experiment": {"sets": ["growin"]}}, "has no sets 'growin'. Did you mean 'growing'"),
        ({"experiment": {"against": ["mlp"]}}, "is compared with 'mlp', which is none of its interfaces"),
        ({"experiment": {"vary": {"window": ["half"]}}}, "varies window with 'half'"),
        ({"experiment": {"vary": {"widow": ["full"]}}}, "varies 'widow'"),
        ({"experiment": {"colour": "blue"}}, "has no field 'colour'"),
        ({"profile": {"rates_on": "X"}}, "has no upstream 'X'"),
        ({"profile": {"models": None}}, "but no field models that says which experiment made it"),
        ({"profile": {"upstreams": {"T": "random-17", "M": "random-24"}}}, "has an upstream 'random-17'"),
        ({"profile": {"sizes": {"fishes": [1, 1, 1]}}}, "has a task 'fishes', but no amount"),
    ],
)
def test_what_a_file_may_not_say(project, change, sentence):
    with pytest.raises(StudyError, match=sentence):
        project(**change)


def test_settings_that_decide_a_result_change_its_key(project):
    before = project()
    for change in ({"rates": [1.0e-2, 2.0e-2]}, {"sizes": {"tones": [7, 4, 4]}}, {"training": {"steps": 5}}):
        after = project(profile=change)
        moved = {n for n, s in after.steps.items() if s.kind == "fuse" and s.key != before.steps[n].key}
        assert moved == {n for n, s in after.steps.items() if s.kind == "fuse"}
