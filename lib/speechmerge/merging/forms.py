"""The forms in which mergekit's recipes write a value: a number as text, gradients over layers, filters by name."""

import contextlib
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import MethodError

_SWITCHES = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False, "1": True, "0": False}


def constant(path: Path, key: str, value: Any) -> Any:
    """Return the one value that a gradient over layers or a list of filters amounts to.

    Raises:
        MethodError: it has more than one; the message says how parts of a model are told apart here.
    """
    if isinstance(value, dict) and "value" in value:
        value = [value]
    if not isinstance(value, list):
        return value
    if value and all(isinstance(item, dict) and "value" in item for item in value):  # the first that fits counts
        values, last = [item["value"] for item in value], value[-1].get("filter")
        if value[0].get("filter") in (None, "*") or (last in (None, "*") and all(x == values[0] for x in values)):
            return constant(path, key, values[0])
        raise MethodError(
            f"{path}: {key} has filters; give one value, and use include or policy for parts of the model."
        )
    if all(item == value[0] for item in value):
        return value[0] if value else None
    raise MethodError(
        f"{path}: {key} is a list, which the file format reads as one value for each layer and is not supported; "
        "give one value (lines scales a merge by depth), or each model its own under models where it has one."
    )


def number(value: Any, kind: type = float) -> Any:
    """Return a number that stands as text, as YAML reads ``1e-5``, or as 10.0 for 10; anything else as it is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value


def reference(value: Any) -> Any:
    """Return a model's name, or ``model+adapter``, from mergekit's long form of it; anything else as it is.

    The long form is ``{model: {path: ...}, lora: {path: ...}}``. One folder has one name: ``./x`` and ``x/`` are ``x``.
    """
    if isinstance(value, str):
        return PurePosixPath(value).as_posix() if value else value
    if not isinstance(value, dict) or not {"model"} <= value.keys() <= {"model", "lora"}:
        return value
    given = [value[key] for key in ("model", "lora") if value.get(key)]
    parts = [part["path"] if isinstance(part, dict) and [*part] == ["path"] else part for part in given]
    return "+".join(map(reference, parts)) if all(isinstance(part, str) for part in parts) else value


def switch(value: Any) -> bool | None:
    """Return a switch that may stand as a number or text; ``None`` if it is none."""
    return _SWITCHES.get(str(value).lower()) if isinstance(value, bool | int | str) else None
