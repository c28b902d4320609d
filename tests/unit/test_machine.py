"""A stamp says what is known, nothing that identifies a machine, and nothing that changes from run to run."""

import platform
import subprocess

import pytest

from speechmerge import machine


def test_hardware_names_processor_cores_memory_and_gpu_but_not_the_host():
    text = machine.hardware()
    assert all(word in text for word in ("cores", "GiB"))
    assert text.endswith("no GPU") or "×" in text
    assert not platform.node() or platform.node() not in text
    assert text == machine.hardware.__wrapped__()


def test_the_library_is_named_with_its_commit_where_that_is_known(monkeypatch):
    monkeypatch.setattr(machine, "commit", lambda: None)
    plain = machine.library()
    monkeypatch.setattr(machine, "commit", lambda: "1a2b3c4d5e+")
    assert machine.library() == f"{plain} (1a2b3c4d5e+)"


@pytest.mark.parametrize("state", ["no git", "no repository", "not theirs", "clean", "changed"])
def test_the_commit_is_that_of_the_sources(tmp_path, monkeypatch, state):
    source = tmp_path / "lib" / "machine.py"
    monkeypatch.setattr(machine, "__file__", str(source))
    source.parent.mkdir()
    source.write_text("1\n")
    if state == "no git":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif state != "no repository":
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        if state == "not theirs":  # installed within somebody else's project
            (tmp_path / ".gitignore").write_text("lib\n")
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
            subprocess.run([*git, *command], cwd=tmp_path, check=True)
        if state == "changed":
            source.write_text("2\n")
    found = machine.commit.__wrapped__()
    if state in ("no git", "no repository", "not theirs"):
        assert found is None
    else:
        assert len(found.rstrip("+")) == 10 and found.endswith("+") == (state == "changed")
