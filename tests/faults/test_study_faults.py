"""Faults 13, 14 and 23: a study whose steps fail or whose artefacts are damaged says so and leaves nothing half."""

import sys

import pytest

from speechbook.study import experiments, plans, rows, steps, store, study, table_files
from speechbook.study.experiment import Experiment
from speechmerge import corpora, packages
from speechmerge.errors import ScoringError, StudyError
from speechmerge.files import atomic_file


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHMERGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("SPEECHMERGE_RESULTS", str(tmp_path_factory.mktemp("results")))
        yield


@pytest.fixture(scope="module")
def done(folders):
    """The pretrained system alone: two decodings."""
    made = plans.narrowed(experiments.plan("table1", "smoke"), ["Pretrained"])
    study.run(made)
    return made


@pytest.fixture
def artefact(done):
    """The folder of one decoding, put right again afterwards."""
    step = next(iter(done.steps.values()))
    before = {path: path.read_bytes() for path in step.folder.iterdir()}
    yield step.folder
    for path, content in before.items():
        with atomic_file(path) as file:
            file.write_bytes(content)


def test_an_executor_that_is_none(done):
    with pytest.raises(StudyError, match="there is no executor 'slurm'; use 'local' or 'ray'"):
        study.run(done, executor="slurm")


def test_ray_that_is_not_installed(done, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError, match=r"needs Ray; install it with `pip install ray`"):
        study.run(done, executor="ray")


def test_a_step_that_fails_leaves_nothing_and_keeps_what_was_finished(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path))
    plan = plans.Plan(Experiment.model_construct(experiment="made"), "smoke", experiments.settings_of("smoke"))
    plan.add("good", "describe", {})
    plan.add("bad", "tune", {}, ("good",))
    plan.add("after", "tune", {"x": 1}, ("bad",))

    def fail(spec, inputs, folder):
        (folder / "half.txt").write_text("half")
        raise RuntimeError("out of memory")

    monkeypatch.setitem(steps.ACTIONS, "describe", lambda spec, inputs, folder: steps.write(folder, {"ok": 1}))
    monkeypatch.setitem(steps.ACTIONS, "tune", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        study.run(plan)
    assert [step.name for step in plan.pending()] == ["bad", "after"]
    assert list(packages.artefact("tune", "x").parent.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b'{"params": {}, "score"', None], ids=["empty", "cut", "missing"])
def test_a_damaged_result_is_named(done, artefact, content):
    if content is None:
        (artefact / "result.json").unlink()
    else:
        (artefact / "result.json").write_bytes(content)
    with pytest.raises(
        StudyError, match=rf"the finished step in .*{artefact.name} is damaged .*delete it and run again"
    ):
        study.run(done)


def test_damaged_predictions_are_named_and_rows_stay(done, artefact):
    rows = store.table_path("smoke", "table1.rows")
    before = rows.read_bytes()
    path = artefact / steps.HYPOTHESES
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ScoringError, match=r"predictions\.jsonl\.gz: not a predictions file"):
        study.run(done)
    assert rows.read_bytes() == before


def test_references_that_changed_since_decoding_are_refused(done, monkeypatch):
    load = corpora.load
    monkeypatch.setattr(corpora, "load", lambda *args, **more: load(*args, **more)[1:])
    with pytest.raises(ScoringError, match=r"6 predictions, 6 references, 1 missing .*decode the same corpus"):
        study.run(done)


def test_predictions_of_a_row_that_are_gone(done):
    path = store.table_path("smoke", "table1.predictions")
    content = path.read_bytes()
    table_files.write(path, [row for row in table_files.read(path) if row["cell"] != "it"])
    with pytest.raises(ScoringError, match=r"predictions\.parquet: there are no transcripts of Pretrained asr it 0"):
        rows.rescored(done)
    path.write_bytes(content)


def test_predictions_of_other_clips_are_not_scored(done, monkeypatch):
    load = corpora.load
    monkeypatch.setattr(corpora, "load", lambda name, language, *_, **more: load(name, language, "train"))
    changed = r"table1: the test speech or references of es asr are not those that Pretrained was measured on \(finger"
    with pytest.raises(ScoringError, match=changed):
        rows.rescored(done)
