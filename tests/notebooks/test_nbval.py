"""Every notebook, as a student would run it: each cell executes and the checked ones give the stored output."""

import os
import subprocess
import sys

import nbformat
import pytest

from speechbook.pages import course
from speechbook.study.store import project_root

ROOT = project_root()
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {
    "your_first_merge": {"minutes": 0.2, "epochs": 1, "learning_rate": 1e-3, "clips": 2},
    "your_merge": {"splits": ["train", "dev", "test"], "methods": ["task_arithmetic"], "clips": 20, "budget": 4},
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_cell_runs_on_the_smoke_profile(source, tmp_path, made_up_results):
    run(nbformat.read(source, as_version=4), source, tmp_path)


def test_what_students_get_runs_too(tmp_path, made_up_results):
    """One stands for all: tests/notebooks/test_sources.py holds each against its chapter."""
    source = ROOT / "notebooks" / "task_vectors.ipynb"
    run(course.student(source), source, tmp_path)


def run(notebook, source, tmp_path):
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    values = {"profile": "smoke"} | SMALL.get(source.stem, {})
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    copy = tmp_path / source.name
    nbformat.write(notebook, copy)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--nbval-lax",
        "-q",
        "-p",
        "no:cacheprovider",
        str(copy),
    ]
    environment = os.environ | {"SPEECHMERGE_HOME": str(ROOT), "JUPYTER_PLATFORM_DIRS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"{sum(c.cell_type == 'code' for c in notebook.cells)} passed" in done.stdout
