"""Every notebook, as a student would run it: each cell executes and the checked ones give the stored output."""

import os
import subprocess
import sys
from collections import Counter, defaultdict
from xml.etree import ElementTree

import nbformat
import pytest

from speechbook.pages import course, kernels
from speechbook.study.store import project_root

ROOT = project_root()
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
STUDENT = "task_vectors"  # whose notebook without solutions is run besides
SMALL = {
    "your_first_merge": {"minutes": 0.2, "epochs": 1, "learning_rate": 1e-3, "clips": 2},
    "your_merge": {"splits": ["train", "dev", "test"], "methods": ["task_arithmetic"], "clips": 20, "budget": 4},
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, made_up_folder):
    """What one run of nbval over all notebooks says: of each, the cells that passed, and what went wrong."""
    folder = tmp_path_factory.mktemp("notebooks")
    for source in SOURCES:
        prepared(nbformat.read(source, as_version=4), source.stem, folder / source.name)
    prepared(course.student(ROOT / "notebooks" / f"{STUDENT}.ipynb"), STUDENT, folder / f"{STUDENT}_student.ipynb")
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--nbval-lax", "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"SPEECHMERGE_HOME": str(ROOT), "SPEECHMERGE_RESULTS": str(made_up_folder)}
    environment |= {"JUPYTER_DEFAULT_PROVISIONER_NAME": kernels.NAME}
    subprocess.run([*command, f"--junitxml={report}", str(folder)], cwd=folder, env=environment, capture_output=True)
    passed, wrong = Counter(), defaultdict(list)
    for cell in ElementTree.parse(report).iter("testcase"):
        name = cell.get("classname").removesuffix(".ipynb")
        passed[name] += len(cell) == 0
        wrong[name] += [f"{cell.get('name')}: {part.text}" for part in cell]
    return folder, passed, wrong


def prepared(notebook, name, copy):
    """Write a notebook that shows the smoke profile, small where it trains."""
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    values = {"profile": "smoke"} | SMALL.get(name, {})
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    nbformat.write(notebook, copy)


@pytest.mark.parametrize("name", [*(path.stem for path in SOURCES), f"{STUDENT}_student"])
def test_every_cell_runs_on_the_smoke_profile(name, ran):
    """One student's notebook stands for all: tests/notebooks/test_sources.py holds each against its chapter."""
    folder, passed, wrong = ran
    cells = nbformat.read(folder / f"{name}.ipynb", as_version=4).cells
    assert wrong[name] == []
    assert passed[name] == sum(cell.cell_type == "code" for cell in cells)
