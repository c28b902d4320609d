"""The experiment table: YAML files in ``experiments/`` say what to compare, profiles say on what; both make a plan."""

from pathlib import Path

import yaml

from ..errors import StudyError, nearest
from .kinds import KINDS
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


def settings_of(name: str, experiment: str | None = None) -> dict:
    """Return the settings of a profile, those it has for one experiment in the place of the general ones.

    Raises:
        StudyError: there is none of that name; the nearest is given.
    """
    known = profiles()
    if name not in known:
        raise StudyError(f"there is no profile {name!r}.{nearest(name, known)}")
    return known[name] | known[name].get("of", {}).get(experiment, {})


def experiments() -> dict[str, dict]:
    """Return every experiment by name.

    A system ``{merges_of: NAME}`` stands for all merges of another experiment, with ``but: {PARAMETER: VALUE}`` for
    those whose parameter has another value.

    Raises:
        StudyError: a file is not valid YAML, or there is no experiment of that name; the nearest is given.
    """
    files = sorted((project_root() / "experiments").glob("*.yaml"), key=_place)
    known = {found["experiment"]: found for file in files if "experiment" in (found := _yaml(file))}
    for table in known.values():
        if "systems" in table:
            table["systems"] = [system for entry in table["systems"] for system in _expanded(entry, known)]
    return known


def _place(file: Path) -> tuple[str, int]:
    """Sort ``table10`` after ``table2``."""
    name = file.stem.rstrip("0123456789")
    return name, int(file.stem.removeprefix(name) or 0)


def _expanded(entry: dict, known: dict[str, dict]) -> list[dict]:
    """Return the systems that an entry of an experiment stands for."""
    if "merges_of" not in entry:
        return [entry]
    if entry["merges_of"] not in known:
        raise StudyError(f"there is no experiment {entry['merges_of']!r}.{nearest(entry['merges_of'], known)}")
    unwanted = entry.get("but", {}).items()
    merges = [system for system in known[entry["merges_of"]]["systems"] if "method" in system]
    return [system for system in merges if not unwanted or not unwanted <= system.get("params", {}).items()]


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
    table, chosen = known[experiment], settings_of(profile, experiment)
    made = Plan(table, profile, chosen, *(_cells(table, profile, chosen, names) for names in _sets(table)[:2]))
    made.groups |= {name: _cells(table, profile, chosen, names) for name, names in table.get("groups", {}).items()}
    if table["kind"] not in KINDS:
        raise StudyError(f"experiment {experiment!r} has kind {table['kind']!r}.{nearest(table['kind'], KINDS)}")
    KINDS[table["kind"]](made, seeds or chosen["seeds"])
    return made


def _sets(table: dict) -> tuple[list[str], list[str], list[str]]:
    """Return the sets of a profile that an experiment names: its own, those it is tested on besides, its groups'."""
    also, groups = table.get("also", []), table.get("groups", {})
    own = [table["languages"]] if "languages" in table else []
    return own, [also] if isinstance(also, str) else also, [name for names in groups.values() for name in names]


def runnable(profile: str) -> list[str]:
    """Return the names of the experiments for which a profile has all sets of languages or domains."""
    known = settings_of(profile)["sets"]
    return [name for name, table in experiments().items() if all(x in known for part in _sets(table) for x in part)]


def _cells(table: dict, profile: str, settings: dict, names: list[str]) -> tuple[Cell, ...]:
    """Return the cells of the sets of languages or domains that an experiment names, in its order, task by task."""
    sets, codes = settings["sets"], settings.get("codes", {})
    for name in names:
        if name not in sets:
            raise StudyError(
                f"profile {profile!r} has no languages {name!r} for {table['experiment']!r}.{nearest(name, sets)}"
            )
    places = dict.fromkeys(place for name in names for place in sets[name])
    return tuple(
        Cell(x, codes.get(x, x), task, tuple(settings["corpora"][x]), settings.get("kept_apart", "equal"))
        for task in table["tasks"]
        for x in places
    )
