"""Rows and predictions: written whole, replaced by identity, read back as they were."""

import math
import os

import datasets
import numpy as np
import pandas as pd
import pytest
import yaml

from speechbook.study import store, table_files
from speechmerge.errors import ScoringError, StudyError
from speechmerge.evaluation.predictions import Prediction


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


def stored(results):
    return table_files.read(results / "smoke" / "table1" / "rows.parquet")


def test_rows_come_back(results):
    store.append_rows("smoke", [row(), row(language="it", wer=1.5)])
    table = store.rows("smoke", "table1")
    assert list(table.columns) == list(store.ROW_FIELDS)
    assert table["wer"].tolist() == [0.25, 1.5] and table["params"][0] == {"scaling": 0.3}
    assert stored(results)[0] == row()


def test_the_order_of_writing_does_not_matter(results):
    given = [row(system, language, seed=seed) for system in ("B", "A") for language in ("it", "es") for seed in (1, 0)]
    store.append_rows("smoke", given)
    whole = stored(results)
    assert [one["system"] for one in whole] == ["A"] * 4 + ["B"] * 4
    (results / "smoke" / "table1" / "rows.parquet").unlink()
    for one in reversed(given):
        store.append_rows("smoke", [one])
    assert stored(results) == whole


def test_the_same_identity_is_replaced_and_others_stay(results):
    store.append_rows("smoke", [row(), row("Other")])
    store.append_rows("smoke", [row(wer=0.5)])
    found = store.rows("smoke", "table1").set_index("system")["wer"]
    assert found.to_dict() == {"Task Arithmetic": 0.5, "Other": 0.25}
    for field in ("language", "seed", "domain", "split", "task"):
        store.append_rows("smoke", [row(**{field: 7 if field == "seed" else "xx"})])
    assert len(stored(results)) == 7


def test_what_was_not_measured_anew_keeps_its_date_and_machine(results):
    store.append_rows("smoke", [row(), row("Other")])
    before = stored(results)
    later = {"date": "2002-02-02", "hardware": "two", "library": "0.2.0"}
    store.append_rows("smoke", [row(**later), row("Other", **later)])
    assert stored(results) == before
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
    before = stored(results)
    bad = row("Other")
    change(bad)
    with pytest.raises(StudyError, match=message):
        store.append_rows("smoke", [row("Third"), bad])
    assert stored(results) == before


def test_a_failure_while_writing_keeps_the_old_rows(results, monkeypatch):
    store.append_rows("smoke", [row()])
    before = stored(results)
    original = table_files.pq.write_table

    def half(table, path, **settings):
        original(table, path, **settings)
        os.truncate(path, os.path.getsize(path) // 2)
        raise OSError("no space left on device")

    monkeypatch.setattr(table_files.pq, "write_table", half)
    with pytest.raises(OSError, match="no space"):
        store.append_rows("smoke", [row(wer=0.5)])
    assert stored(results) == before
    assert os.listdir(results / "smoke" / "table1") == ["rows.parquet"]


def test_a_damaged_file_is_named(results):
    store.append_rows("smoke", [row()])
    path = results / "smoke" / "table1" / "rows.parquet"
    path.write_bytes(path.read_bytes()[:100])
    for work in (
        lambda: store.rows("smoke", "table1"),
        lambda: store.append_rows("smoke", [row()]),
        lambda: table_files.count(path),
    ):
        with pytest.raises(StudyError, match=r"rows\.parquet is damaged .*restore the committed file"):
            work()


def test_rows_are_counted_without_reading_them(results, monkeypatch):
    store.append_rows("smoke", [row(), row(seed=1)])
    monkeypatch.setattr(table_files.pq, "read_table", None)
    folder = results / "smoke" / "table1"
    assert (table_files.count(folder / "rows.parquet"), table_files.count(folder / "none.parquet")) == (2, 0)


def test_a_table_comes_back_as_it_was_and_pandas_reads_it(results):
    rows = [
        {"a": 1, "b": None, "c": ["x"], "d": {"e": [1, 2.5]}, "f": [0.5]},
        {"a": None, "c": [], "d": None, "g": "é"},
    ]
    table_files.write(results / "t.parquet", rows)
    assert table_files.read(results / "t.parquet") == [dict.fromkeys("abcdfg") | one for one in rows]
    assert pd.read_parquet(results / "t.parquet")["d"][0] == '{"e": [1, 2.5]}'
    table_files.write(results / "none.parquet", [])
    assert table_files.read(results / "none.parquet") == table_files.read(results / "missing.parquet") == []


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
    with pytest.raises(StudyError, match=r"cosines/statistics\.parquet holds no rows; run `speechmerge study"):
        store.statistics("smoke", "cosines")


def test_transcripts_come_back_and_those_of_the_same_model_are_replaced(results):
    places = [(system, "", "asr", "es", seed) for system in ("Average (λ=0.3)", "TIES") for seed in (0, 1)]
    said = {place: [Prediction("a", f"{place[0]} {place[-1]}"), Prediction("b", "x", cut=True)] for place in places}
    store.keep_predictions("smoke", "table1", said)
    again = [Prediction("a", "other", temperature=0.4)]
    store.keep_predictions("smoke", "table1", {places[2]: again})
    assert store.predictions("smoke", "table1") == said | {places[2]: again}
    assert os.listdir(results / "smoke") == ["table1"]
    path = store.table_path("smoke", "table1.predictions")
    with pytest.raises(ScoringError, match=r"predictions\.parquet: there are no transcripts of DARE asr it 0; run the"):
        store.spoken(said, ("DARE", "", "asr", "it", 0), path)


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


def test_every_data_set_of_the_card_is_read_as_one_table(tmp_path, monkeypatch):
    monkeypatch.delenv("SPEECHMERGE_RESULTS")
    card = store.results_folder() / "README.md"
    configs = yaml.safe_load(card.read_text(encoding="utf-8").split("---")[1])["configs"]
    for config in configs:
        files = sorted(card.parent.glob(config["data_files"]))
        found = datasets.load_dataset("parquet", data_files=list(map(str, files)), split="train", cache_dir=tmp_path)
        assert len(found) == sum(map(table_files.count, files)) > 0, config


def test_tables_of_a_kind_have_the_same_columns_and_types_whatever_they_hold(tmp_path):
    bare, full = tmp_path / "a" / "comparisons.parquet", tmp_path / "b" / "comparisons.parquet"
    table_files.write(bare, [{"system": "a", "wide_low": None}])
    table_files.write(full, [{"system": "a", "wide_low": 0.5, "segments": 3, "z": 0.1, "mapsswe_p": 0.9}])
    assert table_files.pq.read_schema(bare).equals(table_files.pq.read_schema(full))
    table_files.write(full, [])
    assert not full.exists() and table_files.read(full) == []
