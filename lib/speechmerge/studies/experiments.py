"""The experiment table: YAML files in ``experiments/`` say what to compare, profiles say on what; both make a plan."""

from pathlib import Path

import yaml

from ..errors import StudyError, nearest
from .planning import KINDS
from .plans import Cell, Plan
from .store import project_root


def _yaml(path: Path) -> dict:
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML ({error}).") from error


def profiles() -> dict[str, dict]:
    """Return the settings of every profile by name."""
    return _yaml(project_root() / "experiments" / "profiles.yaml")


def settings_of(name: str) -> dict:
    """Return the settings of a profile.

    Raises:
        StudyError: there is none of that name; the nearest is given.
    """
    known = profiles()
    if name not in known:
        raise StudyError(f"there is no profile {name!r}.{nearest(name, known)}")
    return known[name]


def experiments() -> dict[str, dict]:
    """Return every experiment by name."""
    files = sorted((project_root() / "experiments").glob("*.yaml"))
    return {found["experiment"]: found for file in files if "experiment" in (found := _yaml(file))}


def plan(experiment: str, profile: str, seeds: list[int] | None = None) -> Plan:
    """Expand an experiment on a profile into its steps.

    Args:
        experiment: name in ``experiments/``.
        profile: name in ``experiments/profiles.yaml``.
        seeds: training seeds; None takes the experiment's, or else the profile's.

    Raises:
        StudyError: unknown experiment, profile, languages, kind, partition or field; the nearest name is given.
        MethodError: a system's method is unknown.
    """
    known = experiments()
    if experiment not in known:
        raise StudyError(f"there is no experiment {experiment!r}.{nearest(experiment, known)}")
    table, chosen = known[experiment], settings_of(profile)
    chosen = chosen | {name: table[name] for name in ("dev_clips", "test_clips") if name in table}
    made = Plan(table, profile, chosen, *(_cells(table, profile, chosen, field) for field in ("languages", "also")))
    if table["kind"] not in KINDS:
        raise StudyError(f"experiment {experiment!r} has kind {table['kind']!r}.{nearest(table['kind'], KINDS)}")
    KINDS[table["kind"]](made, seeds or chosen.get("seeds_of", {}).get(experiment) or chosen["seeds"])
    return made


def _cells(table: dict, profile: str, settings: dict, field: str) -> tuple[Cell, ...]:
    """Return the cells of a set of languages or domains that an experiment names, in its order, task by task."""
    name, sets = table.get(field), settings["sets"]
    if name is None and field == "also":
        return ()
    if name not in sets:
        raise StudyError(
            f"profile {profile!r} has no languages {name!r} for {table['experiment']!r}.{nearest(name, sets)}"
        )
    codes = settings.get("codes", {})
    return tuple(
        Cell(x, codes.get(x, x), task, tuple(settings["corpora"][x])) for task in table["tasks"] for x in sets[name]
    )
