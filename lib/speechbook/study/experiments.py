"""The experiment table: YAML files in ``experiments/`` say what to compare, profiles say on what; both make a plan.

Their fields are those of :mod:`speechbook.study.experiment`; a file with another field or value is refused whole.
"""

import csv
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from speechmerge.checked import Checked, parse, read
from speechmerge.errors import StudyError, nearest

from .experiment import Experiment, Pace, Profile, Published
from .kinds import KINDS
from .plans import Cell, Plan
from .store import project_root

PROFILES, PROTOCOL = "profiles.yaml", "protocol.yaml"


class Merges(Checked):
    """An entry of a table that stands for all merges of another experiment."""

    merges_of: str
    but: dict[str, Any] = {}  # parameters of those that are left out


def profiles() -> dict[str, Profile]:
    """Return the settings of every profile by name.

    Raises:
        StudyError: a profile has an unknown field or a value that it may not have.
    """
    return dict(_project()[0])


def settings_of(name: str, experiment: str | None = None) -> Profile:
    """Return the settings of a profile, those it has for one experiment in the place of the general ones.

    Raises:
        StudyError: there is none of that name; the nearest is given.
    """
    known = profiles()
    if name not in known:
        raise StudyError(f"there is no profile {name!r}.{nearest(name, known)}")
    return known[name].of.get(experiment or "", known[name])


def experiments() -> dict[str, Experiment]:
    """Return every experiment by name.

    A system ``{merges_of: NAME}`` stands for all merges of another experiment, with ``but: {PARAMETER: VALUE}`` for
    those whose parameter has another value.

    Raises:
        StudyError: a file is not valid YAML, has an unknown field or a value that it may not have, or names an
            experiment or a set that is not there; the nearest is given.
    """
    return dict(_project()[1])


def _project() -> tuple[dict[str, Profile], dict[str, Experiment]]:
    """Read all files of the project; they are parsed again only when one of them says something else."""
    folder = project_root() / "experiments"
    files = sorted((file for file in folder.glob("*.yaml") if file.name != PROTOCOL), key=_place)
    return _read(folder, tuple((file, file.read_bytes()) for file in files))


@functools.lru_cache(maxsize=2)
def _read(folder: Path, texts: tuple[tuple[Path, bytes], ...]) -> tuple[dict[str, Profile], dict[str, Experiment]]:
    found = {path: parse(path, text) for path, text in texts}
    file = folder / PROFILES
    known = {name: _profile(name, profile, file) for name, profile in found.pop(file).items()}
    tables: dict[str, Experiment] = {}
    for path, table in found.items():
        made = read(Experiment, table | _systems(table, path, found), path)
        if made.experiment in tables:
            raise StudyError(f"{path}: another file has the experiment {made.experiment!r}; give it another name.")
        _check_places(made, path, known)
        tables[made.experiment] = made
    _check_profiles(known, tables, file)
    return known, tables


def _profile(name: str, found: Any, path: Path) -> Profile:
    """Return a profile; what is wrong with it itself is said before it is filled into those of single experiments."""
    if isinstance(found, dict):
        read(Profile, {field: value for field, value in found.items() if field != "of"}, path, name)
    return read(Profile, found, path, name)


def _place(file: Path) -> tuple[str, int]:
    """Sort ``table10`` after ``table2``."""
    name = file.stem.rstrip("0123456789")
    return name, int(file.stem.removeprefix(name) or 0)


def _systems(table: dict, path: Path, tables: dict[Path, dict]) -> dict[str, list]:
    """Return a table's field ``systems`` with what its entries stand for, if it is a list."""
    if not isinstance(entries := table.get("systems"), list):
        return {}
    return {"systems": [system for entry in entries for system in _expanded(entry, path, tables)]}


def _expanded(entry: Any, path: Path, tables: dict[Path, dict]) -> list:
    """Return the systems that an entry of an experiment stands for."""
    if not isinstance(entry, dict) or not {"merges_of", "but"} & entry.keys():
        return [entry]
    wanted = read(Merges, entry, path, "systems")
    known = {str(table.get("experiment")): table.get("systems") for table in tables.values()}
    if wanted.merges_of not in known:
        raise StudyError(f"{path}: there is no experiment {wanted.merges_of!r}.{nearest(wanted.merges_of, known)}")
    systems = known[wanted.merges_of]
    listed = systems if isinstance(systems, list) else []
    merges = [one for one in listed if isinstance(one, dict) and "method" in one]
    kept = [one for one in merges if not wanted.but or not _has(one.get("params"), wanted.but)]
    if not kept or (wanted.but and len(kept) == len(merges)):
        raise StudyError(
            f"{path}: {len(kept)} of {len(merges)} merges of {wanted.merges_of!r} are left with but: {wanted.but}; "
            "name an experiment that has merges, and parameters that some of them have."
        )
    return kept


def _has(params: Any, wanted: dict) -> bool:
    """Whether the parameters of a merge are these, and maybe more."""
    return isinstance(params, dict) and all(name in params and params[name] == wanted[name] for name in wanted)


def _check_places(table: Experiment, path: Path, known: dict[str, Profile]) -> None:
    """Check that some profile has each set that an experiment names, and that the paper's values are there."""
    sets = {name: None for profile in known.values() for name in profile.sets}
    for name in (name for part in _sets(table) for name in part):
        if name not in sets:
            raise StudyError(f"{path}: no profile has a set {name!r}.{nearest(name, sets)}")
    if table.published:
        _check_published(table.published, path)


def _check_published(named: Published, path: Path) -> None:
    file = path.parent / "published" / named.file
    if not file.is_file():
        raise StudyError(f"{path}: {file} is not there.{nearest(file.name, (f.name for f in file.parent.glob('*')))}")
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for column in ("table", "language_set"):
        known, value = {row[column]: None for row in rows if column in row}, getattr(named, column)
        if value not in known and (known or value is not None):
            raise StudyError(f"{path}: {file.name} has no {column} {value!r}.{nearest(value, known)}")


def _check_profiles(known: dict[str, Profile], tables: dict[str, Experiment], path: Path) -> None:
    """Check that profiles name experiments that are there."""
    for profile, settings in known.items():
        named = [*settings.of, *(one.rates_of for one in (settings, *settings.of.values()) if one.rates_of)]
        for name in named:
            if name not in tables:
                raise StudyError(f"{path}: {profile} names an experiment {name!r}.{nearest(name, tables)}")


def plan(experiment: str, profile: str, seeds: Sequence[int] | None = None, pace: Pace | None = None) -> Plan:
    """Expand an experiment on a profile into its steps.

    Args:
        experiment: name in ``experiments/``.
        profile: name in ``experiments/profiles.yaml``.
        seeds: training seeds; None takes the experiment's, or else the profile's.
        pace: of the machine; None takes the one that the profile names.

    Raises:
        StudyError: unknown experiment, profile, languages or list of values, or a system that cannot be made or
            compared; the nearest name is given.
    """
    known = experiments()
    if experiment not in known:
        raise StudyError(f"there is no experiment {experiment!r}.{nearest(experiment, known)}")
    if not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds or ()):
        raise StudyError(f"seeds are {seeds}; expected whole numbers from 0 up.")
    table, chosen = known[experiment], settings_of(profile, experiment)
    chosen = chosen if pace is None else chosen.model_copy(update={"here": pace})
    made = Plan(table, profile, chosen, *(_cells(table, profile, chosen, names) for names in _sets(table)[:2]))
    made.groups |= {name: _cells(table, profile, chosen, names) for name, names in table.groups.items()}
    KINDS[table.kind](made, seeds or chosen.seeds)
    names = dict.fromkeys(system.system for system in made.systems)
    for name in filter(None, (*table.against, table.by_language)):
        if name not in names:
            raise StudyError(f"{experiment!r} on {profile!r} has no system {name!r} to compare.{nearest(name, names)}")
    return made


def _sets(table: Experiment) -> tuple[Iterable[str], Iterable[str], Iterator[str]]:
    """Return the sets of a profile that an experiment names: its own, those it is tested on besides, its groups'."""
    return (table.languages,), table.also, (name for names in table.groups.values() for name in names)


def runnable(profile: str) -> list[str]:
    """Return the names of the experiments for which a profile has all sets of languages or domains."""
    known = settings_of(profile).sets
    return [name for name, table in experiments().items() if all(x in known for part in _sets(table) for x in part)]


def _cells(table: Experiment, profile: str, settings: Profile, names: Iterable[str]) -> tuple[Cell, ...]:
    """Return the cells of the sets of languages or domains that an experiment names, in its order, task by task."""
    for name in names:
        if name not in settings.sets:
            raise StudyError(
                f"profile {profile!r} has no languages {name!r} for {table.experiment!r}.{nearest(name, settings.sets)}"
            )
    places = dict.fromkeys(place for name in names for place in settings.sets[name])
    codes, kept = settings.codes, settings.kept_apart
    return tuple(Cell(x, codes.get(x, x), task, settings.corpora[x], kept) for task in table.tasks for x in places)
