"""Options of the engine, which stand beside a method's parameters: what each may be, whoever gives it.

Python calls, recipe files and experiments all have their options checked here, before a model is opened.
"""

import numbers
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from ..errors import MethodError, nearest
from ..whisper.parameter_classes import CLASSES, ORDERS, TREATMENTS
from .methods import Method

ENGINE = ("scaling", "include", "policy", "lines", "max_update", "max_growth")  # options that files can give
LINES = ("alpha", "beta", "order")  # what a scaling by depth may say
LARGEST = 3.4028234e38  # number of fp32, in which models are merged


def number(value: Any, largest: float = LARGEST) -> bool:
    """Whether a value is a number that is finite in fp32, or up to ``largest``, and not true or false."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and abs(value) <= largest


def _words(value: Any) -> bool:
    """Whether a value is a word, or a list of at least one."""
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return bool(several) and all(isinstance(one, str) for one in several)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _limit(value: Any) -> bool:
    return number(value, sys.float_info.max) and value > 0


def _format(value: Any) -> bool:
    import torch  # heavy, and of no use to who reads experiments

    return isinstance(value, torch.dtype) and value.is_floating_point and value.itemsize > 1


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _model(value: Any) -> bool:
    return isinstance(value, Mapping | str | os.PathLike)


def _models(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(map(_model, value))


EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "scaling": (number, "a finite number of fp32"),
    "include": (_words, "a part or pattern, or a list of them"),
    "policy": (_mapping, "a treatment for each class, e.g. {EMB: base}"),
    "lines": (_mapping, "{alpha: ..., beta: ..., order: stack}"),
    "max_update": (_limit, "a number above 0"),
    "max_growth": (_limit, "a number above 0"),
    "dtype": (_format, "torch.float32, torch.float16, torch.bfloat16 or torch.float64"),
    "batched": (_flag, "True or False"),
    "strict": (_flag, "True or False"),
    "svd_cache": (lambda value: isinstance(value, str | os.PathLike) and not Path(value).is_file(), "a folder"),
    "extras": (_mapping, "a mapping with what the method needs"),
    "base": (_model, "a folder, or tensors by name"),
    "experts": (_models, "a list of folders, or of tensors by name"),
}
OPTIONAL = ("include", "policy", "lines", "dtype", "batched", "svd_cache", "extras")  # None is as good as nothing


def check(place: str, name: str, value: Any, *, called: str = "") -> None:
    """Check one option of the engine.

    Args:
        place: the method or the file, as the message names it.
        name: of the option, of :data:`EXPECTED`.
        value: what was given.
        called: the option's name where it was given, if that is another.

    Raises:
        MethodError: a value of another kind, a part of it that is not known, or a number outside its range.
    """
    if value is None and name in OPTIONAL:
        return
    fits, expected = EXPECTED[name]
    if not fits(value):
        shown = shorten(repr(value), 100, placeholder=" …")
        raise MethodError(f"{place}: {called or name} is {shown}; expected {expected}.")
    if name == "policy":
        for kind, treatment in value.items():
            _known(f"{place}: policy has no class {kind!r}.", kind, CLASSES)
            _known(f"{place}: policy: {kind} is to get {treatment!r}.", treatment, TREATMENTS)
    if name == "lines":
        for part, setting in value.items():
            _known(f"{place}: lines has no {part!r}.", part, LINES)
            if part == "order":
                _known(f"{place}: order of lines is {setting!r}.", setting, ORDERS)
            elif not number(setting) and not (part == "alpha" and setting is None):
                raise MethodError(f"{place}: {part} of lines is {setting!r}; expected a finite number of fp32.")


def _known(sentence: str, word: Any, known: Sequence[str]) -> None:
    if not isinstance(word, str) or word not in known:
        raise MethodError(f"{sentence}{nearest(word, known)}")


def check_all(method: Method, given: Mapping[str, Any], *, experts: int | None) -> None:
    """Check what a file gives a merge: the method's parameters, and options of the engine among them.

    Args:
        method: of the merge.
        given: parameters and options by name.
        experts: how many are merged; None if that is not known yet.

    Raises:
        MethodError: see :func:`check` and :meth:`.methods.Method.check`.
    """
    for name in ENGINE:
        if name in given:
            check(method.name, name, given[name])
    method.check({name: value for name, value in given.items() if name not in ENGINE}, experts=experts)


def plain(value: Any) -> Any:
    """Return an option as JSON and YAML can write it: dicts, lists, words and numbers of Python's own."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(part) for part in value]
    return float(value) if number(value) else value
