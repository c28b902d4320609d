"""Where numbers come from: versions, coverage, and the stamp that opens every notebook of the book."""

import functools
import html
import platform
from dataclasses import dataclass
from importlib.metadata import version

import pandas as pd

from speechmerge.errors import StudyError
from speechmerge.machine import hardware, library

from ..study import experiments, fusion_planning, store
from ..tables import fused

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "jiwer", "sacrebleu", "safetensors")
SHOWN = {"library": "library", "hardware": "measured on", "date": "date", "seed": "seeds"}  # columns a stamp sums up
WAITING = "not measured yet"
pd.set_option("display.max_colwidth", None)  # every page has a stamp, and its tables are shown whole


def versions() -> pd.DataFrame:
    """Return the versions that decide numbers: Python, this library and the packages it computes with."""
    found = {"Python": platform.python_version(), "speechmerge": library()}
    found |= {name: version(name) for name in PACKAGES}
    return pd.DataFrame(found.items(), columns=["package", "version"])


def coverage(profile: str) -> pd.DataFrame:
    """Return, for each experiment of the project, which committed rows the profile has.

    Returns:
        One line an experiment: ``experiment, title, rows, library, measured on, date, seeds, not measured yet``; an
        experiment without rows has 0 of them, and one with some of its systems names the others.
    """
    known = experiments.experiments() | fusion_planning.experiments()
    return pd.DataFrame([_summary(profile, name) for name in known])


def _summary(profile: str, name: str) -> dict:
    """Sum up the committed rows of one experiment: how many, by which library version, on what, when."""
    described = (experiments.experiments() | fusion_planning.experiments()).get(name)
    table = pd.DataFrame(_kept(profile, name))
    line = {"experiment": name, "title": (described and described.title) or name, "rows": len(table)}
    for column, label in SHOWN.items():
        values = table[column].dropna().astype(str).unique() if column in table else []
        line[label] = ("; " if any(", " in value for value in values) else ", ").join(sorted(values))
    return line | {WAITING: "; ".join(_waiting(profile, name, table))}


def _kept(profile: str, name: str) -> list[dict]:
    """Return what the columns that are summed up hold, of rows or of what the experiment has in their place."""
    if name in fusion_planning.experiments():
        lines = store.lines(fusion_planning.beside(profile), f"{name}.fused", (*SHOWN, "interface", "variant"))
        return [line | {"system": line["interface"]} for line in lines]
    kept = (store.lines(profile, table, (*SHOWN, "system", "variant")) for table in (f"{name}.rows", name))
    return next(filter(None, kept), [])


def _waiting(profile: str, name: str, rows: pd.DataFrame) -> list[str]:
    """Return the systems that an experiment with rows is planned to have and has none of yet."""
    if "system" not in rows:
        return []
    measured = set(zip(rows["system"], rows["variant"], strict=True))
    waiting = dict.fromkeys(place[0] for place in _planned(name, profile) if place not in measured)
    return [fused.title(system) for system in waiting] if name in fusion_planning.experiments() else list(waiting)


@functools.cache
def _planned(name: str, profile: str) -> list[tuple[str, str]]:
    """Return systems and variants of a plan, none if there is no plan; one page may ask for many plans twice."""
    fusion = name in fusion_planning.experiments()
    planner, profile = (fusion_planning, fusion_planning.beside(profile)) if fusion else (experiments, profile)
    if name not in planner.runnable(profile):
        return []
    return [(system.system, system.variant) for system in planner.plan(name, profile).systems]


def reproductions(profile: str) -> pd.DataFrame:
    """Return how committed rows and those of later runs on other machines compare.

    Returns:
        One line an experiment and machine, empty where nothing was measured again: ``experiment, rows, same speech,
        same transcripts`` (a share), ``largest difference`` and ``of an average`` (points), ``within tolerance,
        again on`` (the machine).
    """
    try:
        found = store.statistics(profile, "reproductions")
    except StudyError:
        return pd.DataFrame({"experiment": []})
    shown = found[["experiment", "rows"]].copy()
    told = {True: "yes", False: "no"}
    shown["same speech"] = found["counts"].map(told)
    shown["same transcripts"] = (found["same"] / found["transcripts"]).map("{:.1%}".format)
    shown["largest difference"] = found["largest"].map("{:.2f}".format)
    shown["of an average"] = found["average"].map("{:.2f}".format)
    shown["within tolerance"] = found["within"].map(told)
    shown["again on"] = found["hardware"]
    return shown


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
    details += [f"{WAITING}: {line[WAITING]}"] if line[WAITING] else []
    return "; ".join([f"{line['experiment']}: {line['rows']} committed rows", *details])


def stamp(profile: str, names: list[str], before: str | None = None) -> Stamp:
    """Return the stamp of a page that shows the committed rows of these experiments.

    Rows that the profile does not have are those of the profile ``before``, if it is named.
    """
    heading = f"Where the numbers on this page come from (profile {profile})"
    return Stamp(heading, tuple(_line(profile, name, before) for name in names))


def _line(profile: str, name: str, before: str | None) -> str:
    """One experiment's line of a stamp, from the rows of the profile or, if it has none, of the one before."""
    found = _summary(profile, name)
    if found["rows"] or before is None:
        return _sentence(found)
    older = _summary(before, name)
    return _sentence(older) + (f"; profile {before}" if older["rows"] else "")


def live_stamp() -> Stamp:
    """Return the stamp of a page whose numbers are computed while it runs."""
    lines = (f"library {library()}", f"measured on {hardware()}")
    return Stamp("The numbers on this page were computed while it was built", lines)
