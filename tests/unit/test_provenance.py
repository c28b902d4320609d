"""Provenance says what is known, nothing that identifies a machine, and nothing that changes from run to run."""

import platform
import subprocess
import sys

import pytest

from speechmerge.book import provenance
from speechmerge.studies import store


def test_hardware_names_processor_cores_memory_and_gpu_but_not_the_host():
    text = provenance.hardware()
    assert all(word in text for word in ("cores", "GiB"))
    assert text.endswith("no GPU") or "×" in text
    assert not platform.node() or platform.node() not in text
    assert text == provenance.hardware.__wrapped__()


def test_the_library_is_named_with_its_commit_where_that_is_known(monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: None)
    plain = provenance.library()
    monkeypatch.setattr(provenance, "commit", lambda: "1a2b3c4d5e+")
    assert provenance.library() == f"{plain} (1a2b3c4d5e+)"


@pytest.mark.parametrize("state", ["no git", "no repository", "clean", "changed"])
def test_the_commit_is_that_of_the_sources(tmp_path, monkeypatch, state):
    source = tmp_path / "book" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(source))
    source.parent.mkdir()
    source.write_text("1\n")
    if state == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif state != "no repository":
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
            subprocess.run([*git, *command], cwd=tmp_path, check=True)
        if state == "changed":
            source.write_text("2\n")
    found = provenance.commit.__wrapped__()
    if state.startswith("no"):
        assert found is None
    else:
        assert len(found.rstrip("+")) == 10 and found.endswith("+") == (state == "changed")


def test_versions_are_those_installed():
    table = provenance.versions().set_index("package")["version"]
    assert table["Python"] == platform.python_version() == ".".join(map(str, sys.version_info[:3]))
    assert table.notna().all() and "torch" in table


def test_coverage_counts_rows_and_shows_experiments_that_were_not_run(made_up_results):
    table = provenance.coverage("speech").set_index("experiment")
    assert table.loc["table1", "rows"] == 56
    assert table.loc["table1", "measured on"] == "made up for tests"
    assert table.loc["task_vectors", "rows"] == len(store.statistics("speech", "task_vectors"))
    assert (provenance.coverage("covost2")["rows"] == 0).all()


def test_the_stamp_says_where_rows_come_from_and_what_was_not_run(made_up_results):
    shown = provenance.stamp("speech", ["table1"])._repr_html_()
    assert "table1: 56 committed rows; library 0.0.0; measured on made up for tests; date 2001-01-01; seeds 0" in shown
    assert "table1: not run here" in provenance.stamp("covost2", ["table1"])._repr_html_()
    assert repr(provenance.stamp("covost2", ["table1"])).startswith("Where the numbers on this page come from")


def test_the_live_stamp_names_library_and_machine():
    assert provenance.hardware() in repr(provenance.live_stamp())
