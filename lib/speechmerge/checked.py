"""Reading YAML files whose fields are all known: what is wrong with one is a sentence with file, place and remedy."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator, model_validator

from .errors import SpeechMergeError, StudyError, nearest

EXPECTED = {  # by pydantic's name of what is wrong
    "string_type": "a word, in quotes where YAML reads something else",
    "string_too_short": "a word",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "names with values",
    "model_type": "fields with values",
    "too_short": "at least one",
    "greater_than_equal": "a number from {ge} up",
    "less_than_equal": "a number up to {le}",
}
NAMES = ("system", "name", "model")  # fields by which an entry of a list goes


class Fault(ValueError):
    """What is wrong with a place in a file, as what its name begins: ``"has no field 'x'."``."""


class Checked(BaseModel):
    """Part of a file; a field it does not have is refused, and so is a value of another type."""

    error: ClassVar[type[SpeechMergeError]] = StudyError  # what is raised where one is refused
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, found: Any) -> Any:
        for name in found if isinstance(found, dict) else ():
            if name not in cls.model_fields:
                raise Fault(f"has no field {name!r}.{nearest(name, cls.model_fields)}")
        return found

    def given(self) -> dict[str, Any]:
        """Return the fields that the file gives, those with defaults left out where it does not."""
        return self.model_dump(exclude_unset=True)


Part = TypeVar("Part", bound=Checked)


def said(expected: str) -> WrapValidator:
    """Return what says in words of its own what is expected of a value, where pydantic's would not tell enough."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(expected) from None

    return WrapValidator(check)


def word(*known: str) -> Any:
    """Return the type of a field that holds one of these words."""

    def check(value: str) -> str:
        if value not in known:
            raise Fault(f"is {value!r}.{nearest(value, known)}")
        return value

    return Annotated[str, AfterValidator(check)]


def _number(low: float, what: str, *, open_low: bool = False) -> Callable[[Any], Any]:
    """Return a check of numbers, which leaves whole ones whole: as they stand, they enter the keys of steps."""

    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            point = "; YAML reads 1e-5 as a word and 1.0e-5 as a number" if isinstance(value, str) else ""
            raise ValueError(f"{what}{point}")
        if value < low or (open_low and value == low):
            raise ValueError(what)
        return value

    return check


def _distinct(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("each value once")
    return values


Number = Annotated[Any, AfterValidator(_number(-math.inf, "a number"))]
Positive = Annotated[Any, AfterValidator(_number(0, "a number above 0", open_low=True))]
NotNegative = Annotated[Any, AfterValidator(_number(0, "a number from 0 up"))]
Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
LIST = (Field(strict=False, min_length=1), AfterValidator(_distinct))  # lists of the file become tuples
Words = Annotated[tuple[str, ...], *LIST]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], *LIST]
Numbers = Annotated[tuple[Number, ...], *LIST]
Rates = Annotated[tuple[Positive, ...], *LIST]


class _Loader(yaml.SafeLoader):
    """YAML in which no field stands twice: all but the last would be dropped in silence."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [name.value for name, _ in node.value]
        for name, _ in node.value:
            if names.count(name.value) > 1:
                raise yaml.MarkedYAMLError(problem=f"{name.value!r} stands twice", problem_mark=name.start_mark)
        return node


def parse(path: Path, text: bytes, error: type[SpeechMergeError] = StudyError) -> dict:
    """Return what a YAML file holds.

    Raises:
        SpeechMergeError: of the class ``error``: it is not valid YAML, names a field twice, or holds something else
            than fields.
    """
    try:
        found = yaml.load(text, _Loader)
    except yaml.YAMLError as wrong:
        mark, problem = getattr(wrong, "problem_mark", None), getattr(wrong, "problem", None) or wrong
        line = f", line {mark.line + 1}" if mark else ""
        raise error(f"{path} is not valid YAML: {' '.join(str(problem).split())}{line}.") from wrong
    if not isinstance(found, dict):
        raise error(f"{path} holds {_shown(found)}; expected fields and their values.")
    return found


def read(model: type[Part], found: Any, path: Path, *place: str) -> Part:
    """Return part of a file as a model.

    Args:
        model: what is expected there.
        found: what stands there.
        path: of the file.
        place: names of the fields that lead to the part.

    Raises:
        SpeechMergeError: of the model's class of errors: a field is unknown, missing, or has a value it may not have.
    """
    try:
        return model.model_validate(found)
    except ValidationError as wrong:
        raise model.error(_sentence(wrong.errors(include_url=False)[0], found, path, place)) from None


def _sentence(problem: dict, found: Any, path: Path, place: Iterable[str]) -> str:
    """Say what is wrong, and where."""
    steps, raised = problem["loc"], problem.get("ctx", {}).get("error")
    if problem["type"] == "missing":
        text, steps = f"lacks the field {steps[-1]!r}.", steps[:-1]
    elif isinstance(raised, Fault):
        text = str(raised)
    else:
        expected = raised or EXPECTED.get(problem["type"], "another value").format(**problem.get("ctx", {}))
        text = f"is {_shown(problem['input'])}; expected {expected}."
    where = "".join([*(f".{name}" for name in place), *_steps(found, steps)]).strip(".:").replace(":.", ": ")
    return f"{path}: {where} {text}" if where else f"{path} {text}"


def _steps(found: Any, steps: Iterable[str | int]) -> Iterable[str]:
    """Name the way to a place; an entry of a list that has a name of its own goes by it."""
    for step in steps:
        known = dict(enumerate(found)) if isinstance(found, list) else found
        found = known.get(step) if isinstance(known, dict) else None
        if isinstance(step, str):
            yield f".{step}"
        else:
            names = [found.get(name) for name in NAMES] if isinstance(found, dict) else []
            own = next((name for name in names if name and isinstance(name, str)), None)
            yield f" {own!r}:" if own else f"[{step}]"


def _shown(value: Any) -> str:
    return shorten(repr(value), 60, placeholder=" …")
