"""Merge recipes: YAML files in the shape of mergekit's, for the methods both know and for all of the library's own.

    merge_method: ties
    base_model: whisper-small
    models:
      - model: expert-es
        parameters: {weight: 1.0, density: 0.2}
      - model: expert-fr
        parameters: {weight: 0.5}
    parameters: {lambda: 0.7}
    dtype: float32

A method that mergekit computes in another way than its paper runs in mergekit's, unless ``flavour: paper`` says so: the
file's form is theirs, and so should be its numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from . import engine, validation
from .errors import MethodError, nearest
from .merging import Merge
from .methods import Method, find

NAMES = {  # mergekit's names of methods the library calls otherwise, with what they imply
    "linear": ("weight_average", {}),
    "dare_linear": ("dare", {}),
    "nuslerp": ("slerp", {"space": "deltas"}),
    "multislerp": ("multi_slerp", {}),
}
PARAMETERS = {  # mergekit's names of parameters
    "lambda": "scaling",
    "weight": "weights",
    "gamma": "outliers",
    "epsilon": "window",
    "filter_wise": "per_row",
    "select_topk": "density",
    "max_iter": "iterations",
    "tol": "tolerance",
}
ENGINE = ("scaling", "include", "policy", "lines", "max_update")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
FIELDS = ("merge_method", "base_model", "models", "parameters", "dtype")


@dataclass(frozen=True)
class Recipe:
    """A merge as a file describes it; ``options`` are those of :class:`speechmerge.merging.Merge`."""

    method: str
    base: str
    experts: tuple[str, ...]
    options: Mapping[str, Any]

    def merge(self, resolve: Callable[[str], Path] = Path) -> Merge:
        """Open and check all models without merging; raises what a merge would raise beforehand."""
        merge = Merge(self.method, resolve(self.base), [resolve(x) for x in self.experts], strict=True, **self.options)
        validation.check_generation(merge.base.folder)
        return merge

    def run(self, output: Path, *, resolve: Callable[[str], Path] = Path, **more: Any) -> Path:
        """Merge into a folder; ``more`` are further arguments of :func:`speechmerge.engine.merge_folders`."""
        experts = [resolve(x) for x in self.experts]
        return engine.merge_folders(self.method, resolve(self.base), experts, output, **self.options, **more)


def read(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        MethodError: not YAML, a field, method or parameter that is not known, or a form that is not supported.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise MethodError(
            f"{path} is not readable as a recipe ({error}); expected YAML with merge_method and models."
        ) from error
    if not isinstance(content, dict):
        raise MethodError(f"{path} is no recipe; expected YAML with merge_method, base_model and models.")
    for field in content:
        if field not in FIELDS:
            raise MethodError(f"{path}: {field!r} is not supported in a recipe.{nearest(str(field), FIELDS)}")
    for field in FIELDS[:3]:
        if not content.get(field):
            raise MethodError(f"{path}: {field} is missing; a recipe needs {', '.join(FIELDS[:3])}.")
    return _recipe(str(path), content)


def _recipe(path: str, content: Mapping[str, Any]) -> Recipe:
    name, implied = NAMES.get(content["merge_method"], (content["merge_method"], {}))
    method = find(name)
    models = [entry if isinstance(entry, dict) else {"model": entry} for entry in content["models"]]
    models = [entry for entry in models if entry.get("model") != content["base_model"]]  # mergekit lists it at times
    options = dict(implied)
    if "mergekit" in method.flavours:
        options["flavour"] = "mergekit"
    for key, value in (content.get("parameters") or {}).items():
        options.update(_parameter(path, method, key, value))
    for key in dict.fromkeys(key for entry in models for key in entry.get("parameters") or {}):
        options.update(_each(path, method, key, models, options))
    dtype = content.get("dtype")
    if dtype is not None:
        if dtype not in DTYPES:
            raise MethodError(f"{path}: dtype is {dtype!r}.{nearest(str(dtype), DTYPES)}")
        options["dtype"] = DTYPES[dtype]
    own = {key: value for key, value in options.items() if key not in (*ENGINE, "dtype")}
    method.check(own, experts=len(models))
    return Recipe(name, str(content["base_model"]), tuple(str(entry["model"]) for entry in models), options)


def _parameter(path: str, method: Method, key: str, value: Any) -> dict[str, Any]:
    """Return one global parameter under the library's names."""
    if key == "int8_mask":  # how mergekit stores masks; changes no number
        return {}
    if key == "normalize":
        return _normalised(path, method, value)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        raise MethodError(
            f"{path}: {key} has filters; give one value, and use include or policy for parts of the model."
        )
    name = key if key in method.parameters else PARAMETERS.get(key, key)
    if name not in method.parameters and name not in ENGINE:
        known = [*method.parameters, *PARAMETERS]
        raise MethodError(f"{path}: {method.name} has no parameter {key!r}.{nearest(str(key), known)}")
    return {} if value is None else {name: value}


def _normalised(path: str, method: Method, value: Any) -> dict[str, Any]:
    """Say ``normalize`` in the library's terms: what the weights are divided by."""
    if "merge" in method.parameters:
        return {"merge": "mean" if value else "sum"}
    if bool(value) == (method.scale == "mean"):
        return {}
    other = "weight_average" if value else "task_arithmetic"
    raise MethodError(
        f"{path}: {method.name} with normalize: {value} is not supported; use {other}, or scale with lambda."
    )


def _each(path: str, method: Method, key: str, models: list[dict], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter given for single models as one value for each, in their order."""
    values = []
    for entry in models:
        found = _parameter(path, method, key, (entry.get("parameters") or {}).get(key))
        [(name, value)] = found.items() if found else [(PARAMETERS.get(key, key), None)]
        values.append(value)
    if name not in method.parameters or not method.parameters[name].per_expert:
        raise MethodError(f"{path}: {key} cannot differ between models for {method.name}; give it under parameters.")
    default = options.get(name, method.parameters[name].default)
    default = 1.0 if default is None else default
    return {name: [default if value is None else float(value) for value in values]}
