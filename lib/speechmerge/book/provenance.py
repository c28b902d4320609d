"""Where numbers come from: versions, hardware, commit, and the stamp that opens every notebook of the book."""

import functools
import html
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from ..errors import StudyError
from ..studies import experiments, store

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "jiwer", "sacrebleu", "safetensors")
SHOWN = {"library": "library", "hardware": "measured on", "date": "date", "seed": "seeds"}  # columns a stamp sums up


@functools.cache
def hardware() -> str:
    """Describe this machine in one line: processor, cores, memory, GPU. No host name, no serial number."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gpu = f"{len(gpus)} × {gpus[0]}" if gpus else "no GPU"
    return f"{_processor()}, {cores} cores, {memory:.0f} GiB, {gpu}"


def _processor() -> str:
    """The processor's model name, from the kernel where it says so."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.processor() or platform.machine()


@functools.cache
def commit() -> str | None:
    """Return the short hash of the commit this library stands at, ``+`` if files differ from it; None if unknown."""
    folder = Path(__file__).parents[1]
    try:
        head = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=folder, capture_output=True, text=True)
        changed = subprocess.run(["git", "status", "--porcelain", "."], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    if head.returncode or changed.returncode:
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def library() -> str:
    """Return the library's version, with the commit where it is known: ``0.1.0 (1a2b3c4d5e)``."""
    at = commit()
    return f"{version('speechmerge')} ({at})" if at else version("speechmerge")


def versions() -> pd.DataFrame:
    """Return the versions that decide numbers: Python, this library and the packages it computes with."""
    found = {"Python": platform.python_version(), "speechmerge": library()}
    found |= {name: version(name) for name in PACKAGES}
    return pd.DataFrame(found.items(), columns=["package", "version"])


def coverage(profile: str) -> pd.DataFrame:
    """Return, for each experiment of the project, which committed rows the profile has.

    Returns:
        One line an experiment: ``experiment, title, rows, library, measured on, date, seeds``; an experiment without
        rows has 0 of them.
    """
    return pd.DataFrame([_summary(profile, name) for name in experiments.experiments()])


def _summary(profile: str, name: str) -> dict:
    """Sum up the committed rows of one experiment: how many, by which library version, on what, when."""
    table = pd.DataFrame()
    for read in (store.rows, store.statistics):
        try:
            table = read(profile, name)
            break
        except StudyError:
            continue
    title = experiments.experiments().get(name, {}).get("title", name)
    line = {"experiment": name, "title": title, "rows": len(table)}
    for column, label in SHOWN.items():
        values = table[column].dropna().astype(str).unique() if column in table else []
        line[label] = ", ".join(sorted(values))
    return line


@dataclass(frozen=True)
class Stamp:
    """What a page shows and where it was measured; renders as a box in notebooks and in the book."""

    heading: str
    lines: tuple[str, ...]

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines)
        return f'<div class="provenance"><strong>{html.escape(self.heading)}</strong><ul>{lines}</ul></div>'

    def __repr__(self) -> str:
        return "\n  ".join([self.heading, *self.lines])


def _sentence(line: dict) -> str:
    """One experiment's line of a stamp."""
    if not line["rows"]:
        return f"{line['experiment']}: not run here"
    details = [f"{label} {line[label]}" for label in SHOWN.values() if line[label]]
    return "; ".join([f"{line['experiment']}: {line['rows']} committed rows", *details])


def stamp(profile: str, names: list[str]) -> Stamp:
    """Return the stamp of a page that shows the committed rows of these experiments."""
    heading = f"Where the numbers on this page come from (profile {profile})"
    return Stamp(heading, tuple(_sentence(_summary(profile, name)) for name in names))


def live_stamp() -> Stamp:
    """Return the stamp of a page whose numbers are computed while it runs."""
    lines = (f"library {library()}", f"measured on {hardware()}")
    return Stamp("The numbers on this page were computed while it was built", lines)
