"""Parameters of merge methods: their kind, range and meaning, read from the rules' signatures, and their checking."""

import inspect
import numbers
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MethodError, nearest

PerExpert = float | Sequence[float]


@dataclass(frozen=True)
class Range:
    """The values a number may take, and what it means; ``[low, high]`` with open ends where stated."""

    low: float
    high: float
    meaning: str
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies inside."""
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        return f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


@dataclass(frozen=True)
class Choice:
    """The words an option may take, and what it means."""

    words: tuple[str | bool, ...]
    meaning: str

    def __str__(self) -> str:
        return " | ".join(map(_word, self.words))


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method: kind of value, default, allowed values, whether each expert may have its own."""

    name: str
    kind: type
    default: Any
    allowed: Range | Choice
    meaning: str
    per_expert: bool = False
    optional: bool = False

    def __str__(self) -> str:
        each = ", one value or one per expert" if self.per_expert else ""
        return f"{self.meaning} ({self._values()}{each}; default {_word(self.default)})"

    def _values(self) -> str:
        """Say which values it may take."""
        if isinstance(self.allowed, Choice):
            return str(self.allowed)
        return f"a {'whole number' if self.kind is int else 'number'} in {self.allowed}"

    def check(self, value: Any, *, method: str, experts: int | None) -> Any:
        """Return ``value`` in the parameter's own type; the number of values is checked where ``experts`` is known.

        Raises:
            MethodError: wrong type, outside the range, or not one value per expert.
        """
        if value is None and self.optional:
            return None
        if self.per_expert and isinstance(value, Sequence) and not isinstance(value, str):
            if experts is not None and len(value) != experts:
                raise MethodError(
                    f"{method}: {self.name} has {len(value)} values for {experts} experts; give one or one each."
                )
            return [self._check_one(item, method) for item in value]
        return self._check_one(value, method)

    def _check_one(self, value: Any, method: str) -> Any:
        number = {float: numbers.Real, int: numbers.Integral}.get(self.kind, self.kind)
        if not isinstance(value, number) or (isinstance(value, bool) and self.kind is not bool):
            raise MethodError(f"{method}: {self.name} is {value!r}, expected {self._values()}: {self.meaning}.")
        if isinstance(self.allowed, Range) and not self.allowed.holds(value):
            raise MethodError(f"{method}: {self.name} is {value!r}, outside {self.allowed}: {self.meaning}.")
        if isinstance(self.allowed, Choice) and value not in self.allowed.words:
            raise MethodError(f"{method}: {self.name} is {value!r}.{nearest(value, self.allowed.words)}")
        return self.kind(value)


def _word(value: Any) -> str:
    """Return a value as one writes it on the command line."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def keywords(function: Callable) -> list[inspect.Parameter]:
    """Return the keyword-only arguments of a function."""
    return [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]


def parameters_of(function: Callable, but: Sequence[str] = ()) -> dict[str, Parameter]:
    """Read the parameters from a function's keyword-only arguments; some of them may be none."""
    hints = typing.get_type_hints(function, include_extras=True)
    return {p.name: parameter_of(p.name, hints[p.name], p.default) for p in keywords(function) if p.name not in but}


def checked(
    method: str, known: Mapping[str, Parameter], given: Mapping[str, Any], *, experts: int | None
) -> dict[str, Any]:
    """Return all parameters, defaults filled in.

    Raises:
        MethodError: an unknown parameter (the nearest known one is named) or a value it may not take.
    """
    for name in given:
        if name not in known:
            raise MethodError(f"{method} has no parameter {name!r}.{nearest(name, known)}")
    return {n: p.check(given.get(n, p.default), method=method, experts=experts) for n, p in known.items()}


def parameter_of(name: str, hint: Any, default: Any) -> Parameter:
    """Read one keyword's annotation, ``Annotated[type, Range | Choice]``."""
    plain, allowed = typing.get_args(hint)
    kinds = typing.get_args(plain) or (plain,)
    kind = next(k for k in kinds if k in (bool, int, float, str))
    per_expert = any(typing.get_origin(k) is Sequence for k in kinds)
    return Parameter(name, kind, default, allowed, allowed.meaning, per_expert, type(None) in kinds)
