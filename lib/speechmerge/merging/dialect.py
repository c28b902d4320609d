"""mergekit's words for methods and parameters in recipe files (version 0.1.5), said in the library's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import MethodError, nearest
from .methods import Method, find
from .options import ENGINE, check
from .options import number as _number

NAMES = {  # mergekit's names of methods the library calls otherwise, with what they imply
    "linear": ("weight_average", {}),
    "dare_linear": ("dare", {}),
    "nuslerp": ("slerp", {"space": "deltas", "flavour": "paper"}),
    "multislerp": ("multi_slerp", {"space": "deltas"}),
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
DEFAULTS = {  # mergekit's, where the paper's differ
    "ties": {"density": 1.0},
    "breadcrumbs": {"density": 1.0, "outliers": 0.01},
    "breadcrumbs_ties": {"density": 1.0, "outliers": 0.01},
    "dare": {"density": 1.0},
    "dare_ties": {"density": 1.0},
    "della": {"density": 1.0, "window": 0.15},
    "della_linear": {"density": 1.0, "window": 0.15},
}
SETTLED = {  # mergekit's switches that change nothing here, and the only value of each that holds
    "int8_mask": (True, False),
    "nuslerp_flatten": (True,),
    "nuslerp_row_wise": (False,),
}
SWITCHES = ("normalize", "rescale")


def options(path: str, word: str, shared: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the options of a merge that a file describes.

    Args:
        path: how messages name the file.
        word: the file's name of the method.
        shared: parameters for the whole merge.
        models: the models to merge, each with its ``parameters``.

    Raises:
        MethodError: a parameter that the method does not have, or a form that is not supported.
    """
    name, implied = NAMES.get(word, (word, {}))
    method = find(name)
    theirs = "mergekit" in method.flavours and "flavour" not in {**implied, **shared}
    found = ({"flavour": "mergekit"} | DEFAULTS.get(name, {}) if theirs else {}) | implied
    own = [entry["parameters"] for entry in models]
    if word == "nuslerp":
        found["t"] = _position(path, shared, own)
        shared, *own = [{k: v for k, v in given.items() if k != "weight"} for given in (shared, *own)]
    for key, value in shared.items():
        found |= _parameter(path, method, key, value, layered=theirs or key in PARAMETERS)
    for key in dict.fromkeys(key for given in own for key in given):
        found |= _each(path, method, key, [given.get(key) for given in own], found)
    return found


def _name(path: str, method: Method, key: str) -> str:
    """Return the library's name of a parameter, the engine's among them."""
    name = key if key in method.parameters else PARAMETERS.get(key, key)
    if name not in method.parameters and name not in ENGINE:
        known = [*method.parameters, *PARAMETERS]
        raise MethodError(f"{path}: {method.name} has no parameter {key!r}.{nearest(str(key), known)}")
    return name


def _parameter(path: str, method: Method, key: str, value: Any, *, layered: bool) -> dict[str, Any]:
    """Return one parameter under the library's name; ``layered``: a list would mean one value for each layer."""
    if key in SETTLED and value in SETTLED[key]:
        return {}
    if key in SWITCHES and isinstance(value, bool):
        return _switched(path, method, key, value)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        raise MethodError(
            f"{path}: {key} has filters; give one value, and use include or policy for parts of the model."
        )
    name = _name(path, method, key)
    if isinstance(value, list) and layered and name not in ("include", "policy"):
        raise MethodError(
            f"{path}: {key} is a list, which the file format reads as one value for each layer and is not supported; "
            "give one value, or each model its own under models."
        )
    if name in ENGINE and value is not None:
        check(path, name, value, called=key)
    return {} if value is None else {name: value}


def _switched(path: str, method: Method, key: str, value: bool) -> dict[str, Any]:
    """Say mergekit's two switches in the library's terms: what the weights are divided by, whether masks rescale."""
    if key == "normalize" and "merge" in method.parameters:
        return {"merge": "mean" if value else "sum"}
    if value == (method.scale == "mean" if key == "normalize" else "rescale" in method.parameters):
        return {}
    other = "weight_average" if value else "task_arithmetic"
    advice = f"use {other}, or scale with lambda" if key == "normalize" else "leave it out"
    raise MethodError(f"{path}: {method.name} with {key}: {str(value).lower()} is not supported; {advice}.")


def _each(path: str, method: Method, key: str, given: Sequence[Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter given for single models as one value for each, in their order."""
    name = key if key in (*SETTLED, *SWITCHES) else _name(path, method, key)
    if name not in method.parameters or not method.parameters[name].per_expert or isinstance(found.get(name), list):
        raise MethodError(f"{path}: {key} cannot differ between models for {method.name}; give it under parameters.")
    default = found.get(name, method.parameters[name].default)
    default = 1.0 if default is None else default
    values = [_parameter(path, method, key, value, layered=True).get(name, default) for value in given]
    for value in values:
        if not _number(value):
            raise MethodError(f"{path}: {key} of a model is {value!r}, expected a number.")
    return {name: values}


def _position(path: str, shared: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> float:
    """Return t of the two models' weights."""
    weights = [given.get("weight", shared.get("weight", 1.0)) for given in own]
    if len(weights) != 2 or not all(_number(w) and w >= 0 for w in weights) or not sum(weights):
        raise MethodError(f"{path}: nuslerp has weights {weights}; expected two models, each with a number from 0 up.")
    return weights[1] / sum(weights)
