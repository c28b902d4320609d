"""The registry: what a merge method is, the decorator that describes one, and the checking of its parameters.

A method is described once, where its rule is written. Its parameters, their defaults and ranges are read from the
rule's signature; the command line, the parameter checks of notebooks, the tests and the book's method cards all read
them from here. Calling the module lists the methods: ``speechmerge.methods()``.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ..errors import MethodError, nearest
from .parameters import Choice, Parameter, PerExpert, Range, checked, keywords, parameter_of, parameters_of

FAMILIES = {
    "averaging": "Sums and means of all entries",
    "spherical": "Means of directions and lengths",
    "sparse": "Few entries of each expert, and votes on signs",
    "lowrank": "Few directions or entries of each task matrix",
    "subspace": "Singular directions shared out between experts",
    "calibrated": "Weighted by statistics of data",
    "learned": "Weights learnt on dev data",
    "per_task": "One shared vector, a model for each task",
}
STATISTICS = {"gram": "grams", "fisher": "fishers"}  # context a rule needs: key of the engine's ``extras`` for it
MEASURES = ("score", "loss", "gradient", "entropy")  # keys of ``extras`` that hold functions of a merged model
BUDGETS = ("steps", "evaluations", "denoising")  # parameters that say how many merged models a fit measures
LAYERED = "regmean_pp"  # the method whose Grams are collected along the merge, from all experts together
# What the engine, not the user, hands a rule.
CONTEXT = ("base", "gram", "fisher", "generators", "depth", "prepass", "vectors")
DATA = {  # what a merge must be given beside the models, by the key of the engine's ``extras``
    "grams": "the Gram matrix of the inputs of each linear map, from every expert's own speech",
    "fishers": "the diagonal Fisher information of every tensor, from every expert's own labelled speech",
    "score": "a function that gives the error of a merged model on dev speech",
    "loss": "a function that gives the loss of a merged model on dev speech",
    "gradient": "a function that gives the loss of a merged model on dev speech and its gradient",
    "entropy": "a function that gives the entropy of a merged model's own output on unlabelled speech and its gradient",
}
COSTS = {  # of a fit, by what it measures
    "score": "one merged model decoded for each evaluation, 2T - 1 in all",
    "loss": "one merged model for each evaluation, forward",
    "gradient": "one merged model for each evaluation, forward and backward",
    "entropy": "one merged model for each step, decoded, forward and backward",
}
COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

Weights = Annotated[
    PerExpert | None, Range(-100.0, 100.0, "weight of each expert in the sum or mean; none weighs all equally")
]
Index = Annotated[int, Range(0, 10_000, "which expert's task the model is for, counted from 0")]
Seed = Annotated[
    int, Range(0, 2**63 - 1, "seed of the random masks; each tensor and expert has a generator of its own")
]


@dataclass(frozen=True)
class Method:
    """A registered merge method; ``rule`` is the pure function, everything else describes it.

    Attributes:
        acts_on: the smallest piece the rule must see whole: ``"entries"``, ``"rows"`` (of the last dimension),
            ``"tensors"``, or ``"matrices"`` (linear maps only, see ``others``).
            The value of a parameter ``scope`` overrides it.
        gives: ``"experts"`` (edited deltas, combined by ``scale``) or ``"merged"`` (one task vector).
        scale: whether the result is of the size of a ``"sum"`` or a ``"mean"`` over experts.
        others: what tensors that are not matrices get when the rule acts on matrices: ``"sum"``, ``"mean"`` or
            ``"base"``.
        needs: context the engine hands over, of :data:`CONTEXT`.
        prepass: function over a re-iterable stream of all deltas whose answer the rule gets as ``prepass``.
        fit: function that finds the experts' weights from measurements before the merge (:mod:`.rules.learned`).
        measure: what it measures merged models by, of :data:`MEASURES`: a key of the engine's ``extras``.
        experts: how many experts the rule takes, if not any number.
        passes: how often the merge reads all models, those of ``prepass`` included; registered with one it is 3.
        flavours: parameters by the name of the code whose published numbers they reproduce; the default is the paper.
    """

    name: str
    title: str
    family: str
    paper: str
    equation: str
    rule: Callable
    parameters: Mapping[str, Parameter]
    summary: str
    acts_on: str = "tensors"
    gives: str = "experts"
    scale: str = "sum"
    others: str = "sum"
    needs: tuple[str, ...] = ()
    stochastic: bool = False
    variant_of: str | None = None
    deviations: str = ""
    prepass: Callable | None = None
    fit: Callable | None = None
    measure: str | None = None
    experts: int | None = None
    passes: int = 1
    flavours: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def idea(self) -> str:
        """What the rule does and why, in two sentences or so: the summary and the paragraph after it."""
        paragraphs = inspect.getdoc(self.rule).split("\n\n")[:2]
        return " ".join(p.replace("\n", " ") for p in paragraphs if not p.startswith(("Args", "Returns")))

    @property
    def data(self) -> tuple[str, ...]:
        """What a merge must be given beside the models: keys of :data:`DATA`."""
        return (*(key for need, key in STATISTICS.items() if need in self.needs), *filter(None, [self.measure]))

    @property
    def cost(self) -> str:
        """What a merge takes, in words: the passes over the models, and what is heavier than reading them."""
        if self.fit:
            return COSTS[self.measure]
        count = COUNTS[self.passes - 1] if 0 < self.passes <= len(COUNTS) else str(self.passes)
        passes = f"{count} {'pass' if self.passes == 1 else 'passes'} over all models"
        if "steps" in self.parameters:
            return f"{passes}, steps of gradient descent for each matrix"
        if "gram" in self.needs:
            return f"{passes}, a linear system for each matrix"
        if "vectors" in self.needs:
            return f"{passes}, an eigendecomposition for each matrix and expert"
        return f"{passes}, singular value decompositions of each matrix" if self.family == "subspace" else passes

    def evaluations(self, options: Mapping[str, Any], experts: int) -> int:
        """Return how many merged models the fit measures, at most; 0 for a method that measures none."""
        budget = sum(options[name] for name in BUDGETS if name in options)
        return (budget or 2 * experts - 1) if self.fit else 0

    def piece(self, options: Mapping[str, Any]) -> str:
        """Return what the rule must see whole with these options: ``entries``, ``rows``, ``tensors``, ``matrices``."""
        return {"model": "entries", "row": "rows", "tensor": "tensors"}.get(options.get("scope"), self.acts_on)

    def check(self, params: Mapping[str, Any], *, experts: int | None) -> dict[str, Any]:
        """Return all parameters, defaults filled in; ``experts`` is None where their number is not known yet.

        Raises:
            MethodError: an unknown parameter (the nearest known one is named) or a value it may not take.
        """
        if experts is not None and self.experts not in (None, experts):
            wanted = f"{self.experts} expert{'s' * (self.experts > 1)}"
            raise MethodError(f"{self.name} merges exactly {wanted}, got {experts}.")
        flavour = params.get("flavour")
        preset = self.flavours.get(flavour, {}) if isinstance(flavour, str) else {}
        return checked(self.name, self.parameters, {**preset, **params}, experts=experts)


_METHODS: dict[str, Method] = {}


def method(name: str, **description: Any) -> Callable[[Callable], Callable]:
    """Register the decorated rule under ``name``; keywords are the fields of :class:`Method`.

    A rule that gives edited experts also gets the parameter ``weights``.
    """

    def register(rule: Callable) -> Callable:
        parameters = parameters_of(rule, but=CONTEXT)
        if description.get("gives", "experts") == "experts" and "fit" not in description:
            parameters["weights"] = parameter_of("weights", Weights, None)
        if flavours := description.get("flavours"):
            words = Choice(("paper", *flavours), "whose form: the paper's, or that of the code named")
            parameters["flavour"] = Parameter("flavour", str, "paper", words, words.meaning)
        if description.get("stochastic"):
            parameters.setdefault("seed", parameter_of("seed", Seed, 0))
        if "prepass" in description:
            description.setdefault("passes", 3)
        needs = tuple(p.name for p in keywords(rule) if p.name in CONTEXT)
        summary = inspect.getdoc(rule).split("\n\n")[0].replace("\n", " ")
        if name in _METHODS or description["family"] not in FAMILIES:
            raise ValueError(f"method {name!r} is registered twice or has no family of {tuple(FAMILIES)}")
        _METHODS[name] = Method(name, rule=rule, parameters=parameters, summary=summary, needs=needs, **description)
        return rule

    return register


@functools.cache
def registry() -> dict[str, Method]:
    """Return every method by name, in the order of the rule files."""
    importlib.import_module(".rules", __package__)
    return _METHODS


def find(name: str) -> Method:
    """Return a method by name.

    Raises:
        MethodError: there is none; the message names the nearest.
    """
    if not isinstance(name, str) or name not in registry():
        raise MethodError(f"There is no merge method {name!r}.{nearest(name, registry())}")
    return registry()[name]


def listing() -> dict[str, dict[str, str]]:
    """Return every method's parameters as ``{method: {parameter: meaning, range and default}}``."""
    return {name: {p: str(q) for p, q in found.parameters.items()} for name, found in registry().items()}
