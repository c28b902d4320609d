"""The house: which room may import from which, how large rooms and functions get, and what the library does without."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speechbook.study.store import project_root

LIB = project_root() / "lib"
# Lower rooms first: each imports only from itself and those before it.
GROUND = "errors checked files budget machine precisions devices hub packages audio text spelling"
ROOMS = [
    *GROUND.split(),
    "whisper",
    "corpora",
    "finetuning",
    "speech",
    "evaluation",
    "merging",
    "dynamic",
    "formats",
    "tuning",
    "fusion",
    "cli",
]
BOOK = ["study", "figures", "tables", "claims", "pages", "commands"]
LONGEST = 45  # lines of a function without its docstring


def module(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(LIB).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the modules of ours that a file imports, whole paths."""
    here = module(path) if path.name == "__init__.py" else module(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level + 1] if node.level else ()
            named = (*start, *(node.module or "").split(".")) if node.module else start
            for alias in node.names:
                inner = LIB.joinpath(*named, alias.name)
                yield (*named, alias.name) if inner.is_dir() or inner.with_suffix(".py").is_file() else named
        elif isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)


def room(name: tuple[str, ...]) -> str:
    return name[1] if len(name) > 1 else ""


@pytest.mark.parametrize(("package", "rooms"), [("speechmerge", ROOMS), ("speechbook", BOOK)])
def test_no_arrow_points_upward(package, rooms):
    floors = {name: floor for floor, name in enumerate(rooms)}
    wrong = []
    for path in sorted((LIB / package).rglob("*.py")):
        own = room(module(path))
        for target in imported(path):
            if target[0] == package and own in floors and room(target) in floors and floors[room(target)] > floors[own]:
                wrong.append(f"{'.'.join(module(path))} imports {'.'.join(target)}")
    assert wrong == []


def test_every_room_has_its_floor():
    found = {room(module(path)) for name in ("speechmerge", "speechbook") for path in (LIB / name).rglob("*.py")} - {
        "",
        "__main__",
    }
    assert found == {*ROOMS, *BOOK}


def test_the_library_never_imports_the_book():
    files = sorted((LIB / "speechmerge").rglob("*.py"))
    assert [path for path in files if any(name[0] == "speechbook" for name in imported(path))] == []


def test_functions_stay_short():
    long = []
    for path in sorted(LIB.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                told = node.body[0] if ast.get_docstring(node) else None
                size = node.end_lineno - node.lineno + 1 - (told.end_lineno - told.lineno + 1 if told else 0)
                if size > LONGEST:
                    long.append(f"{path.relative_to(LIB)}:{node.lineno} {node.name} {size}")
    assert long == []


WITHOUT = """
import importlib, pkgutil, sys
sys.modules |= dict.fromkeys(("pandas", "matplotlib", "seaborn", "IPython", "papermill", "speechbook"))
import speechmerge
for found in pkgutil.walk_packages(speechmerge.__path__, "speechmerge."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
import torch
base, one, two = ({"w": torch.full((2, 2), float(x))} for x in (0, 1, 3))
assert speechmerge.merge_state_dicts("task_arithmetic", base, [one, two], scaling=0.5)["w"].tolist() == [[2.0] * 2] * 2
"""


def test_the_library_works_without_what_only_the_book_needs():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
