"""Pages say where their numbers come from."""

import platform
import re
import sys

from speechbook.pages import provenance
from speechbook.study import reproduction, store
from speechmerge import machine


def test_versions_are_those_installed():
    table = provenance.versions().set_index("package")["version"]
    assert table["Python"] == platform.python_version() == ".".join(map(str, sys.version_info[:3]))
    assert table.notna().all() and "torch" in table


def test_coverage_counts_rows_and_shows_experiments_that_were_not_run(made_up_results):
    table = provenance.coverage("speech").set_index("experiment")
    assert table.loc["table1", "rows"] == 7 * (1 + 3 * 7)
    assert table.loc["table1", "measured on"] == "made up for tests"
    assert table.loc["task_vectors", "rows"] == len(store.statistics("speech", "task_vectors"))
    assert (provenance.coverage("covost2")["rows"] == 0).all()


def test_what_an_experiment_was_not_measured_on_yet_is_named(made_up_results, monkeypatch, tmp_path):
    rows = [row for row in store.measured("speech", "table1") if row["system"] != "SVP-Merging"]
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path))
    store.append_rows("speech", rows)
    assert provenance.coverage("speech").set_index("experiment").loc["table1", provenance.WAITING] == "SVP-Merging"
    assert "not measured yet: SVP-Merging" in repr(provenance.stamp("speech", ["table1"]))


def test_the_stamp_says_where_rows_come_from_and_what_was_not_run(made_up_results):
    shown = provenance.stamp("speech", ["table1"])._repr_html_()
    assert (
        "table1: 154 committed rows; library 0.0.0; measured on made up for tests; date 2001-01-01; seeds 0, 1, 2"
        in shown
    )
    assert "table1: not run here" in provenance.stamp("covost2", ["table1"])._repr_html_()
    older = repr(provenance.stamp("covost2", ["table1", "nobody"], "speech"))
    assert re.search(r"table1: \d+ committed rows; .*; profile speech\n", older) and "nobody: not run here" in older
    assert repr(provenance.stamp("covost2", ["table1"])).startswith("Where the numbers on this page come from")


def test_what_was_measured_again_is_told_with_its_differences(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path))
    assert provenance.reproductions("speech").empty
    record = {"experiment": "table1", "rows": 7, "counts": True, "transcripts": 200, "same": 199, "largest": 1.234}
    record |= {"average": 0.5, "within": True, "committed_on": "one", "library": "1", "hardware": "two", "date": "2001"}
    reproduction.keep("speech", [record | {"counts": False}])
    reproduction.keep("speech", [record])
    [line] = provenance.reproductions("speech").to_dict("records")
    assert line["same speech"] == "yes" and line["same transcripts"] == "99.5%"
    assert (line["largest difference"], line["of an average"]) == ("1.23", "0.50")
    assert (line["within tolerance"], line["again on"]) == ("yes", "two")


def test_the_live_stamp_names_library_and_machine():
    assert machine.hardware() in repr(provenance.live_stamp())
