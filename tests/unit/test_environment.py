"""The pinned environment: complete, free of hosts and machine paths, and in step with what the project declares."""

import ast
import importlib.metadata as metadata
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from speechbook.study.store import project_root

ROOT = project_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED_EXTRAS = ("book", "dev")
TEXT = {".cff", ".cfg", ".ipynb", ".lock", ".md", ".py", ".toml", ".txt", ".yaml", ".yml", ".css", ".csv", ""}
HOSTS = (
    r"https?://[^/\s\"]*(?:npm|pypi|pythonhosted|debian|yarn)[^/\s\"]*\.(?:org|com|net)|--(?:extra-)?index-url\s+http"
)


def lock() -> dict[str, str]:
    lines = [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")
    ]
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): version for name, version in pairs}


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    return [Requirement(text) for text in PROJECT["dependencies"] + [r for name in PINNED_EXTRAS for r in extras[name]]]


def requirements_of(name: str, extras: set[str]) -> list[Requirement]:
    found = [Requirement(text) for text in metadata.requires(name) or []]
    wanted = extras or {""}
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in wanted)]


def test_every_line_of_the_lock_is_a_plain_pin():
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    odd = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==\d[\w.]*", line)]
    assert odd == []
    assert len(lock()) == len(lines), "a package is pinned twice"


def test_the_lock_satisfies_every_declared_range():
    pins = lock()
    assert [str(r) for r in declared() if canonicalize_name(r.name) not in pins] == []
    assert [str(r) for r in declared() if not r.specifier.contains(pins[canonicalize_name(r.name)])] == []


def test_the_installed_versions_are_the_locked_ones():
    installed = {name: metadata.version(name).split("+")[0] for name in lock()}
    assert installed == lock()


def test_the_lock_is_closed_under_requirements_and_holds_no_stray():
    pins, waiting, seen = lock(), [(canonicalize_name(r.name), r.extras) for r in declared()], set()
    while waiting:
        name, extras = waiting.pop()
        if (name, frozenset(extras)) in seen or name.startswith(("nvidia-", "triton", "cuda-")):  # GPU builds of torch
            continue
        seen.add((name, frozenset(extras)))
        assert name in pins, f"{name} is needed but not pinned"
        waiting += [(canonicalize_name(r.name), r.extras) for r in requirements_of(name, extras)]
    assert sorted(set(pins) - {name for name, _ in seen}) == [], "pinned, but nothing declared needs it"


def test_environment_yml_installs_the_lock_on_a_python_the_project_takes():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [python] = [d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python=")]
    [pip] = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.split("=")[1])
    assert pip == ["-r requirements.lock", "-e ."]
    assert environment["channels"] == ["conda-forge", "nodefaults"]


def test_every_import_of_the_library_is_declared():
    packages = metadata.packages_distributions()
    known = {canonicalize_name(r.name) for r in declared()} | {"speechmerge"}
    optional = {canonicalize_name(Requirement(r).name) for r in PROJECT["optional-dependencies"]["cluster"]}
    for file in sorted((ROOT / "lib").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            else:
                continue
            for module in (m.split(".")[0] for m in modules):
                owners = {canonicalize_name(d) for d in packages.get(module, [module])}
                standard = module in sys.stdlib_module_names
                assert standard or owners & (known | optional), f"{file.name} imports {module}, which is not declared"


def test_no_file_names_a_registry_or_a_path_of_this_machine():
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = listing.stdout.splitlines() or [str(p.relative_to(ROOT)) for p in (ROOT / "lib").rglob("*.py")]
    home = re.escape(str(ROOT.parent)) + "/" if len(ROOT.parts) > 2 else r"(?!)"
    for name in names:
        file = ROOT / name
        if file.suffix in TEXT and file.is_file() and file.stat().st_size < 2_000_000:
            found = re.search(f"{HOSTS}|{home}", file.read_text(errors="replace"))
            assert found is None, f"{name} names {found.group()}"


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == metadata.version("speechmerge")
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert set(citation["license"]) == {PROJECT["license"], "CC-BY-4.0"}


def test_continuous_integration_runs_make_test_and_nothing_else():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["exec make test"]


@pytest.mark.parametrize("target", ["book", "print", "test", "study", "bench", "clean"])
def test_make_has_the_target(target):
    dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (None, "was not found; install Python 3.11 or newer"),
        ('[ "$1" = --version ] && echo Python 3.9.2; exit 1', "Python 3.9.2 is too old"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "lacks the venv module"),
    ],
)
def test_make_says_in_a_sentence_what_is_wrong_with_the_interpreter(tmp_path, script, sentence):
    python = tmp_path / "python"
    if script:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    command = ["make", "setup", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode != 0
    assert sentence in done.stdout
    assert not Path(tmp_path / "venv").exists()
