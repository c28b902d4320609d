"""Rows and predictions: written whole, replaced by identity, read back as they were."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from speechbook.study import store
from speechmerge.errors import StudyError


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def row(system="Task Arithmetic", language="es", **fields):
    made = dict.fromkeys(store.ROW_FIELDS)
    made |= {
        "experiment": "table1",
        "profile": "smoke",
        "system": system,
        "variant": "",
        "task": "asr",
        "language": language,
    }
    made |= {"domain": "tones", "split": "test", "seed": 0, "wer": 0.25, "params": {"scaling": 0.3}, "experts": ["es"]}
    return made | {"library": "0.1.0", "hardware": "one", "date": "2001-01-01"} | fields


def lines(results):
    return (results / "smoke" / "rows.jsonl").read_text().splitlines()


def test_rows_come_back(results):
    store.append_rows("smoke", [row(), row(language="it", wer=1.5)])
    table = store.rows("smoke", "table1")
    assert list(table.columns) == list(store.ROW_FIELDS)
    assert table["wer"].tolist() == [0.25, 1.5] and table["params"][0] == {"scaling": 0.3}
    assert list(json.loads(lines(results)[0])) == list(store.ROW_FIELDS)


def test_the_order_of_writing_does_not_matter(results):
    given = [row(system, language, seed=seed) for system in ("B", "A") for language in ("it", "es") for seed in (1, 0)]
    store.append_rows("smoke", given)
    whole = lines(results)
    assert [json.loads(line)["system"] for line in whole] == ["A"] * 4 + ["B"] * 4
    (results / "smoke" / "rows.jsonl").unlink()
    for one in reversed(given):
        store.append_rows("smoke", [one])
    assert lines(results) == whole


def test_the_same_identity_is_replaced_and_others_stay(results):
    store.append_rows("smoke", [row(), row("Other")])
    store.append_rows("smoke", [row(wer=0.5)])
    found = store.rows("smoke", "table1").set_index("system")["wer"]
    assert found.to_dict() == {"Task Arithmetic": 0.5, "Other": 0.25}
    for field in ("language", "seed", "domain", "split", "task"):
        store.append_rows("smoke", [row(**{field: 7 if field == "seed" else "xx"})])
    assert len(lines(results)) == 7


def test_what_was_not_measured_anew_keeps_its_date_and_machine(results):
    store.append_rows("smoke", [row(), row("Other")])
    before = lines(results)
    later = {"date": "2002-02-02", "hardware": "two", "library": "0.2.0"}
    store.append_rows("smoke", [row(**later), row("Other", **later)])
    assert lines(results) == before
    store.append_rows("smoke", [row(wer=0.2, **later), row("Other", **later)])
    dates = store.rows("smoke", "table1").set_index("system")["date"]
    assert dates.to_dict() == {"Task Arithmetic": "2002-02-02", "Other": "2001-01-01"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("seed"), "missing or unknown fields: seed"),
        (lambda r: r.update(werr=0.1, wer2=0.1), "missing or unknown fields: wer2, werr"),
        (lambda r: r.update(wer=math.nan), "wer is not finite"),
        (lambda r: r.update(ci_high=math.inf), "ci_high is not finite"),
        (lambda r: r.update(wer=np.float64("nan")), "wer is not finite"),
        (lambda r: r.update(params={"scaling": [0.3, math.nan]}), "params is not finite"),
    ],
)
def test_rows_that_are_refused_leave_the_file_alone(results, change, message):
    store.append_rows("smoke", [row()])
    before = lines(results)
    bad = row("Other")
    change(bad)
    with pytest.raises(StudyError, match=message):
        store.append_rows("smoke", [row("Third"), bad])
    assert lines(results) == before


def test_a_failure_while_writing_keeps_the_old_rows(results, monkeypatch):
    store.append_rows("smoke", [row()])
    before = lines(results)
    original = Path.write_text

    def half(path, text, *args, **kwargs):
        original(path, text[: len(text) // 2], *args, **kwargs)
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no space"):
        store.append_rows("smoke", [row(wer=0.5)])
    assert lines(results) == before
    assert os.listdir(results / "smoke") == ["rows.jsonl"]


def test_a_damaged_file_is_named(results):
    store.append_rows("smoke", [row()])
    path = results / "smoke" / "rows.jsonl"
    path.write_text(path.read_text()[:100])
    for work in (lambda: store.rows("smoke", "table1"), lambda: store.append_rows("smoke", [row()])):
        with pytest.raises(StudyError, match=r"rows\.jsonl is damaged .*restore the committed file"):
            work()


def test_unknown_experiments_name_the_nearest():
    store.append_rows("smoke", [row()])
    with pytest.raises(StudyError, match=r"no rows of experiment 'tabel1'\. Did you mean 'table1'\? Run `speechmerge"):
        store.rows("smoke", "tabel1")
    with pytest.raises(StudyError, match="profile 'other' has no rows"):
        store.rows("other", "table1")


def test_statistics_replace_the_whole_table_or_only_what_is_new():
    store.write_statistics("smoke", "norms", [{"module": "a", "norm": 1.0}, {"module": "b", "norm": 2.0}])
    store.write_statistics("smoke", "norms", [{"module": "b", "norm": 3.0}])
    assert store.statistics("smoke", "norms").to_dict("list") == {"module": ["b"], "norm": [3.0]}
    new = [{"module": "c", "norm": 4.0}, {"module": "b", "norm": 5.0}]
    store.write_statistics("smoke", "norms", new, identity=("module",))
    assert store.statistics("smoke", "norms").to_dict("list") == {"module": ["c", "b"], "norm": [4.0, 5.0]}
    with pytest.raises(StudyError, match=r"cosines\.jsonl holds no rows; run `speechmerge study run --profile smoke"):
        store.statistics("smoke", "cosines")


@pytest.mark.parametrize(
    ("system", "name"),
    [
        ("Multi-lingual training", "multi-lingual-training"),
        ("SVP-Merging (λ=0.3)", "svp-merging-0-3"),
        ("TIES", "ties"),
    ],
)
def test_predictions_lie_beside_the_rows(results, system, name):
    path = store.predictions_path("smoke", "table1", system, "asr", "es", 0)
    assert path == results / "smoke" / "predictions" / "table1" / f"{name}.asr.es.0.jsonl.gz"


def test_the_project_is_found_from_a_folder_within_it_and_a_stranger_is_not_taken_for_it(tmp_path, monkeypatch):
    here = store.project_root()
    monkeypatch.chdir(here / "tests" / "unit")
    assert store.project_root() == here
    (tmp_path / "mine" / "experiments").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    assert store.project_root() == here  # an unrelated folder of that name
    (tmp_path / "mine" / "experiments" / "profiles.yaml").touch()
    assert store.project_root() == tmp_path / "mine"
    monkeypatch.setenv("SPEECHMERGE_HOME", str(here))
    assert store.project_root() == here


def test_without_a_clone_it_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPEECHMERGE_HOME", raising=False)
    monkeypatch.setattr(store, "__file__", str(tmp_path / "site-packages" / "store.py"))
    with pytest.raises(StudyError, match=r"no experiments/profiles\.yaml above here; run inside a clone"):
        store.project_root()
