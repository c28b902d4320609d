"""mergekit's words for methods and parameters in recipe files (version 0.1.5), said in the library's own."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MethodError, nearest
from .forms import constant, number, switch
from .methods import Method, find, registry
from .options import ENGINE, check
from .options import number as _number
from .recipe_file import Entry
from .rules.primitives import per_expert

log = logging.getLogger(__name__)

_THINNED = ("weight", "density", "normalize", "rescale", "lambda", "int8_mask")
READS = {  # mergekit's methods that the library has, and what each of them reads; it reads past anything else
    "linear": ("weight", "normalize"),
    "slerp": ("t",),
    "nuslerp": ("weight", "nuslerp_flatten", "nuslerp_row_wise"),
    "multislerp": ("weight", "normalize_weights", "eps"),
    "karcher": ("max_iter", "tol"),
    "model_stock": ("filter_wise",),
    "sce": ("select_topk", "int8_mask"),
    "ram": ("epsilon",),
    "ramplus_tl": ("r", "alpha", "epsilon"),
    "nearswap": ("t",),
    "arcee_fusion": (),
    **dict.fromkeys(("task_arithmetic", "ties", "dare_linear", "dare_ties"), _THINNED),
    **dict.fromkeys(("breadcrumbs", "breadcrumbs_ties"), (*_THINNED, "gamma")),
    **dict.fromkeys(("della", "della_linear"), (*_THINNED, "epsilon")),
}
LACKING = {  # mergekit's methods that the library lacks, and what comes nearest
    "passthrough": "to copy one model scaled, use task_arithmetic with one model and a lambda",
}
NAMES = {  # mergekit's names of methods the library calls otherwise
    "linear": "weight_average",
    "dare_linear": "dare",
    "nuslerp": "slerp",
    "multislerp": "multi_slerp",
}
ARC = {"flavour": "mergekit", "straight_above": 1.0, "floor": 1e-7}  # how nuslerp differs from slerp there
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
SETTLED = {  # what changes nothing here, and the values of each that hold
    "int8_mask": (True, False),
    "nuslerp_flatten": (True,),
    "nuslerp_row_wise": (True, False),  # of a flat tensor there are no rows
}
SWITCHES = ("normalize", "normalize_weights", "rescale")
WORDS = {*PARAMETERS, *SETTLED, *SWITCHES, *(key for keys in READS.values() for key in keys)}


def method_of(path: Path, word: str) -> Method:
    """Return the method of a name, mergekit's or the library's own.

    Raises:
        MethodError: there is none; the message says what comes nearest.
    """
    if word in LACKING:
        raise MethodError(f"{path}: mergekit's {word} is not among the methods here; {LACKING[word]}.")
    if word not in NAMES and word not in registry():
        raise MethodError(f"{path}: there is no merge method {word!r}.{nearest(word, [*registry(), *NAMES])}")
    return find(NAMES.get(word, word))


def space(word: str, shared: Mapping[str, Any], *, based: bool) -> str:
    """Return what a spherical mean is taken of; mergekit's two that take a base or none take task vectors with one."""
    return "deltas" if based and word in ("nuslerp", "multislerp") else shared.get("space", "weights")


def own_words(shared: Mapping[str, Any]) -> bool:
    """Tell whether parameters are such as mergekit has not, so that the rest is meant as the library means it."""
    return "flavour" in shared or "space" in shared


def options(
    path: Path, word: str, shared: Mapping[str, Any], models: Sequence[Entry], *, based: bool = True
) -> dict[str, Any]:
    """Return the options of a merge that a file describes.

    Args:
        path: how messages name the file.
        word: the file's name of the method.
        shared: parameters for the whole merge.
        models: the models to merge, each with its own parameters.
        based: whether the file names a base.

    Raises:
        MethodError: a parameter that the method does not have, or a form that is not supported.
    """
    method = method_of(path, word)
    own = [entry.parameters for entry in models]
    if word in READS and not own_words(shared):
        shared, *own = _read(path, word, method, [shared, *own])
    if "weight" not in shared:  # one that was forgotten is not filled in, by mergekit neither
        advice = "give each model one, or one under parameters for those that have none"
        all_or_none(path, "a weight", [entry.model for entry in models], ["weight" in given for given in own], advice)
    theirs = "mergekit" in method.flavours and "flavour" not in shared
    found = {"flavour": "mergekit"} | DEFAULTS.get(method.name, {}) if theirs else {}
    if word in ("nuslerp", "multislerp"):
        found |= {"space": space(word, shared, based=based)}
        found |= ARC if word == "nuslerp" and shared.get("flavour") != "paper" else {}
    if word == "nuslerp":
        found["t"] = _position(path, shared, own)
        shared, *own = [{k: v for k, v in given.items() if k != "weight"} for given in (shared, *own)]
    switches = {key: switch(shared[key]) for key in SWITCHES if key in shared and switch(shared[key]) is not None}
    said: dict[str, str] = {}
    for key, value in shared.items():
        if key not in switches:
            given = _parameter(path, method, key, value, layered=theirs or key in PARAMETERS)
            if twice := [said[name] for name in given if name in said]:
                raise MethodError(f"{path}: {twice[0]} and {key} are one parameter; give one of them.")
            said |= dict.fromkeys(given, key)
            found |= given
    for key in dict.fromkeys(key for given in own for key in given):
        found |= _each(path, method, key, [given.get(key) for given in own], found)
    for key, value in switches.items():
        found |= _switched(path, word, method, key, value, found, len(models))
    return found


def _read(path: Path, word: str, method: Method, given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return parameters without weights that mergekit reads past; raise for any other that its method does not have."""
    keys = dict.fromkeys(key for parameters in given for key in parameters)
    past = [key for key in keys if key in WORDS and key not in READS[word] and key not in method.parameters]
    for key in past:
        own = PARAMETERS.get(key)
        more = f", or write {own}, which it has here" if own in (*method.parameters, *ENGINE) else ""
        said = f"{path}: {word} has no parameter {key!r} in mergekit, which reads past it"
        if key != "weight":
            raise MethodError(f"{said}; leave it out{more}.")
        log.warning("%s, and so does this merge; leave it out%s.", said, more)
    return [{key: value for key, value in parameters.items() if key not in past} for parameters in given]


def _name(path: Path, method: Method, key: str) -> str:
    """Return the library's name of a parameter, the engine's among them."""
    name = key if key in method.parameters else PARAMETERS.get(key, key)
    if name not in method.parameters and name not in ENGINE:
        theirs = [word for word, own in PARAMETERS.items() if own in (*method.parameters, *ENGINE)]
        known = dict.fromkeys([*method.parameters, *theirs, *ENGINE])
        raise MethodError(f"{path}: {method.name} has no parameter {key!r}.{nearest(str(key), known)}")
    return name


def _parameter(path: Path, method: Method, key: str, value: Any, *, layered: bool) -> dict[str, Any]:
    """Return one parameter under the library's name; ``layered``: a list would mean one value for each layer."""
    if _idle(path, method, key, value):
        return {}
    name = _name(path, method, key)
    words = {p.name for p in method.parameters.values() if p.kind is str}
    if name not in ("include", "policy", "lines") and (layered or isinstance(value, dict)):
        value = constant(path, key, value)
    if name in ("scaling", "max_update", "max_growth") or (name in method.parameters and name not in words):
        kind = method.parameters[name].kind if name in method.parameters else float
        value = switch(value) if kind is bool and switch(value) is not None else number(value, kind)
    if name in ENGINE and value is not None:
        check(path, name, value, called=key)
    return {} if value is None else {name: value}


def _idle(path: Path, method: Method, key: str, value: Any) -> bool:
    """Tell whether a parameter of mergekit's changes nothing; raise where it would, and there is no such thing here."""
    plain = number(value[0] if isinstance(value, list) and len(value) == 1 else value)
    if key in SETTLED and switch(value) in SETTLED[key]:
        return True
    if key == "nuslerp_flatten":
        raise MethodError(f"{path}: nuslerp_flatten is {value!r}; tensors are merged whole here, so leave it out.")
    if key == "eps" and method.name == "multi_slerp":  # a guard against a division by zero
        if not _number(plain) or not 0 <= plain <= 1e-6:
            raise MethodError(f"{path}: eps is {value!r}, which would shift directions; leave it out.")
        return True
    if key == "density" and method.name == "task_arithmetic":
        if plain != 1:
            raise MethodError(f"{path}: task_arithmetic thins nothing, so density is unused; dare_linear and ties do.")
        return True
    return False


def _switched(
    path: Path, word: str, method: Method, key: str, value: bool, found: Mapping[str, Any], experts: int
) -> dict[str, Any]:
    """Say mergekit's switches in the library's terms: what weights are divided by, whether thinned experts grow."""
    weights = per_expert(found.get("weights"), experts)
    total = math.fsum(weights) if all(map(_number, weights)) else 1.0  # what is no number is refused later
    if key == "rescale":
        return _rescaled(path, method, value, found)
    if "merge" in method.parameters:
        return {"merge": "mean" if value else "sum"}
    if (value if method.scale == "mean" else not value) or abs(total - 1) < 1e-9:
        return {}
    if method.scale == "sum" and "weights" in method.parameters:
        return {"weights": [weight / total for weight in weights]} if abs(total) >= 1e-8 else {}
    if method.name == "multi_slerp" and found.get("space") == "deltas":  # the mean update times the sum of weights
        return {"scaling": found.get("scaling", 1.0) * total}
    more = (
        f"has weights that sum to {total:g}; make that 1, or use task_arithmetic with base_model to add updates to it"
    )
    more = "is not supported; scale with lambda" if method.scale == "sum" else more
    raise MethodError(f"{path}: {word} with {key}: {str(value).lower()} {more}.")


def _rescaled(path: Path, method: Method, value: bool, found: Mapping[str, Any]) -> dict[str, Any]:
    """Say whether what is left of a thinned expert is enlarged."""
    if "rescale" in method.parameters:
        return {} if value else {"rescale": "none"}
    whole = method.name == "task_arithmetic" or all(d == 1 for d in per_expert(found.get("density", 0.0), 1))
    if value and not whole:
        raise MethodError(
            f"{path}: {method.name} with rescale: true is not supported; leave it out, or thin with dare_linear, "
            "dare_ties or della, which rescale."
        )
    return {}


def _each(path: Path, method: Method, key: str, given: Sequence[Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter given for single models as one value for each, in their order."""
    if all(value is None or _idle(path, method, key, value) for value in given):
        return {}
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


def all_or_none(path: Path, what: str, models: Sequence[str], having: Sequence[bool], advice: str) -> None:
    """Raise if some of the models have what others lack."""
    given, lacking = ([m for m, has in zip(models, having, strict=True) if has == wanted] for wanted in (True, False))
    if given and lacking:
        raise MethodError(f"{path}: {given[0]} has {what} and {lacking[0]} has none; {advice}.")


def _position(path: Path, shared: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> float:
    """Return t of the two models' weights."""
    given = [own_weight.get("weight", shared.get("weight", 1.0)) for own_weight in own]
    weights = [number(constant(path, "weight", weight)) for weight in given]
    if len(weights) != 2 or not all(map(_number, weights)) or not sum(weights):
        raise MethodError(
            f"{path}: nuslerp has weights {weights}; expected two models beside the base, each with a number as its "
            "weight, and a sum that is not 0."
        )
    return weights[1] / sum(weights)
