"""Partitions of a table's cells: which of them share a model, and what such a group is called."""

from collections.abc import Iterator
from typing import Any

from speechmerge.errors import StudyError, nearest

from .plans import Cell

Group = tuple[Cell, ...]
PARTS = {
    "cell": lambda cell: cell,
    "language": lambda cell: cell.name,
    "task": lambda cell: cell.task,
    "all": lambda cell: None,
}


def parts(group: Group, by: str) -> list[Group]:
    """Divide cells into those that share a model.

    Raises:
        StudyError: no such partition.
    """
    if by not in PARTS:
        raise StudyError(f"there is no partition {by!r}.{nearest(by, PARTS)}")
    found: dict[Any, list[Cell]] = {}
    for cell in group:
        found.setdefault(PARTS[by](cell), []).append(cell)
    return [tuple(part) for part in found.values()]


def label(group: Group) -> str:
    """Name a group of cells: ``es+it asr``."""
    names, tasks = (dict.fromkeys(values) for values in zip(*((c.name, c.task) for c in group), strict=True))
    return f"{'+'.join(names)} {'+'.join(tasks)}"


def of_tasks(group: Group, model: dict, needs: tuple[str, ...]) -> Iterator[tuple[Group, dict, tuple[str, ...]]]:
    """Yield the model of each cell, for methods that share one vector but make a model for each task."""
    for number, cell in enumerate(group):
        yield (cell,), model | {"params": model["params"] | {"task": number}}, needs
