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

What a method needs beside the models stands with them, in two words of the library's own: ``speech: asterisk:es`` (or a
list), or ``statistics: FOLDER``. With a field ``dynamic`` the models are merged while they listen
(:mod:`speechmerge.dynamic.systems`).

A method that mergekit computes in another way than its paper runs in mergekit's, with mergekit's defaults, unless
``flavour: paper`` says so: the file's form is theirs, and so should be its numbers. A base that is listed among the
models counts as one of them where mergekit counts it (averages, SLERP, Karcher mean), and has no part elsewhere; for
``linear`` and ``karcher`` it counts also where it is not listed, as in mergekit, unless the file has words of the
library's own (``weight_average``, ``space: weights``).

Several merges of the same models stand in one file as ``variants``, each with a name, parameters of its own that take
the place of the file's, and a method of its own if need be; all are made at once, and the models are read once:

    variants:
      - {name: half, parameters: {lambda: 0.5}}
      - {name: thin, merge_method: dare_linear, parameters: {density: 0.1}}

Means of models need no base. Then the result gets the configuration and tokenizer of the first model, or of the model
under the first adapter. An adapter may be written ``base+adapter``. Whatever ``dtype`` says, numbers are computed in
fp32, or fp64 where an input is; it is the precision that is written, unless ``out_dtype`` is there to say so.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MethodError
from . import adapters, engine, validation
from .dialect import all_or_none, method_of, options, own_words, space
from .merge import Merge, open_merge
from .methods import find
from .options import ENGINE
from .recipe_file import BASE, Entry, RecipeFile, read_file

log = logging.getLogger(__name__)

COUNTED = ("weight_average", "karcher", "slerp", "multi_slerp")  # where a base among the models is one of them
WITHOUT_BASE = ("linear", "nuslerp", "multislerp", "karcher", "weight_average", "multi_slerp")


@dataclass(frozen=True)
class Recipe:
    """A merge as a file describes it; ``options`` are those of :func:`speechmerge.merging.merge.open_merge`.

    ``speech`` and ``statistics`` are those of each expert, where the file names them
    (:class:`speechmerge.merging.given.Given`).
    """

    method: str
    base: str
    experts: tuple[str, ...]
    options: Mapping[str, Any]
    speech: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    dynamic: Mapping[str, Any] | None = None

    @property
    def strict(self) -> bool:
        """Whether all experts must differ from the base: not where it is one of the models to merge."""
        return self.base not in self.experts or self.method not in COUNTED

    def merge(self, resolve: Callable[[str], Path] = Path, **more: Any) -> Merge:
        """Open and check all models without merging; raises what a merge would raise beforehand.

        ``more`` are further arguments of :func:`speechmerge.merging.merge.open_merge`.
        """
        experts = [resolve(expert) for expert in self.experts]
        merge = open_merge(self.method, resolve(self.base), experts, **{"strict": self.strict} | self.options | more)
        if not self.strict:
            others = [e for name, e in zip(self.experts, merge.experts, strict=True) if name != self.base]
            validation.check_tokenizers(merge.base, others)
            validation.check_updates(merge.base, others, self.options.get("max_update", validation.MAX_UPDATE))
        validation.check_companions(merge.base.folder)
        return merge

    def check_static(self) -> None:
        """Raise if the models are merged while they listen, so that there is no merged model to write."""
        if self.dynamic is not None:
            raise MethodError(
                "the recipe has a field dynamic, so its models are merged while they listen: give it to `speechmerge "
                "decode` in the place of a model, or leave the field out."
            )

    def run(self, output: Path, *, resolve: Callable[[str], Path] = Path, **more: Any) -> Path:
        """Merge into a folder; ``more`` are further arguments of :func:`speechmerge.merging.engine.merge_folders`."""
        self.check_static()
        if not self.strict:
            self.merge(resolve)
        experts = [resolve(expert) for expert in self.experts]
        options = {"strict": self.strict} | self.options | more
        return engine.merge_folders(self.method, resolve(self.base), experts, output, **options)


def read(path: Path) -> Recipe:
    """Read a recipe file.

    Raises:
        MethodError: not YAML, a field, method or parameter that is not known, or a form that is not supported.
    """
    file = read_file(path)
    if file.variants:
        raise MethodError(
            f"{path} has {len(file.variants)} variants, which only `speechmerge merge` makes; leave one, as the file's "
            "own method and parameters."
        )
    return _described(path, file)


def read_variants(path: Path) -> dict[str, Recipe]:
    """Read the variants of a recipe file by name, in their order; none of a file without.

    Raises:
        MethodError: as :func:`read`, or two variants have one name, or they merge other models, or one needs speech.
    """
    file = read_file(path)
    found: dict[str, Recipe] = {}
    for variant in file.variants:
        if variant.name in found:
            raise MethodError(f"{path}: two variants are called {variant.name}; give each a name of its own.")
        own = {"merge_method": variant.merge_method or file.merge_method}
        own |= {"parameters": file.parameters | variant.parameters}
        found[variant.name] = _described(path, file.model_copy(update=own))
        _check_variant(path, variant.name, found[variant.name], next(iter(found.values())))
    return found


def _check_variant(path: Path, name: str, variant: Recipe, first: Recipe) -> None:
    """Raise unless a variant can be made together with the first one."""
    if (variant.base, variant.experts, variant.strict) != (first.base, first.experts, first.strict):
        raise MethodError(
            f"{path}: variant {name} ({variant.method}) merges {', '.join(variant.experts)} on {variant.base}, and the "
            f"first one ({first.method}) {', '.join(first.experts)} on {first.base}: of these methods one counts the "
            "base as a model; give it a file of its own."
        )
    if variant.options.get("max_update") != first.options.get("max_update"):
        raise MethodError(f"{path}: max_update of variant {name} differs from the first one's; give all the same.")
    if variant.dynamic is not None or variant.speech or variant.statistics or find(variant.method).data:
        raise MethodError(
            f"{path}: variant {name} ({variant.method}) is given speech or statistics, or needs them, which variants "
            "cannot have; make it by a file of its own."
        )


def merge_variants(
    variants: Mapping[str, Recipe], output: Path, *, resolve: Callable[[str], Path] = Path, **more: Any
) -> None:
    """Make the variants of a file, each in a folder of its name in ``output``.

    ``more`` are further arguments of :func:`speechmerge.merging.engine.merge_many`.
    """
    first = next(iter(variants.values()))
    if not first.strict:
        first.merge(resolve)
    merges = {output / name: {"method": one.method, **one.options} for name, one in variants.items()}
    experts = [resolve(expert) for expert in first.experts]
    engine.merge_many(resolve(first.base), experts, merges, **{"strict": first.strict} | more)


def _described(path: Path, file: RecipeFile) -> Recipe:
    """Return the recipe that a file's fields describe."""
    word, shared, based = file.merge_method, file.parameters, file.base_model is not None
    method = method_of(path, word)
    base, models = _based(path, word, file.base_model, file.models)
    names = [entry.model for entry in models]
    if twice := next((name for number, name in enumerate(names) if name in names[:number]), None):
        raise MethodError(f"{path}: models names {twice} twice; name it once, with the sum of its weights if need be.")
    _check_tokens(path, file, [base, *names])
    if based:
        models = _counted(path, word, base, models, shared)
    found = options(path, word, shared, models, based=based)
    if dtype := file.out_dtype or file.dtype:
        found["dtype"] = dtype
    own = {key: value for key, value in found.items() if key not in (*ENGINE, "dtype")}
    method.check(own, experts=len(models))
    data = {key: _of_each(path, key, models) for key in ("speech", "statistics")}
    return Recipe(method.name, base, tuple(entry.model for entry in models), found, **data, dynamic=file.dynamic)


def _of_each(path: Path, key: str, models: Sequence[Entry]) -> tuple[str, ...]:
    """Return what stands with every model; with none of them it is nothing."""
    given = [getattr(entry, key) for entry in models]
    all_or_none(
        path, key, [entry.model for entry in models], list(map(bool, given)), "give each model its own, or none"
    )
    return tuple(one if isinstance(one, str) else ",".join(one) for one in given if one)


def _based(path: Path, word: str, base: str | None, models: Sequence[Entry]) -> tuple[str, list[Entry]]:
    """Return the model that the others are compared with, and the models, adapters without the model under them."""
    pairs = [_parted(entry.model) for entry in models]
    if base and _parted(base)[1]:
        raise MethodError(f"{path}: base_model is a model with an adapter, {base}; {_full_model(*_parted(base))}.")
    if not base and word not in WITHOUT_BASE:
        use = "goes from it to the other one" if word == "slerp" else "merges what the models changed in it"
        raise MethodError(
            f"{path}: base_model is missing, expected {BASE}: {word} {use}. Without one work "
            f"{', '.join(WITHOUT_BASE[:4])}."
        )
    reference = base or next((model for model, adapter in pairs if adapter), pairs[0][0])
    for (model, adapter), entry in zip(pairs, models, strict=True):
        if adapter and Path(model) != Path(reference):
            raise MethodError(
                f"{path}: {entry.model} is an adapter of another model than {reference}; {_full_model(model, adapter)}."
            )
        if not base and not adapter and adapters.is_adapter(Path(model).expanduser()):
            raise MethodError(f"{path}: {model} is an adapter; name its base as base_model, or write BASE+{model}.")
    alone = [adapter or model for model, adapter in pairs]
    return reference, [entry.model_copy(update={"model": name}) for name, entry in zip(alone, models, strict=True)]


def _parted(name: str) -> tuple[str, str]:
    """Return the name of a model and of the adapter that follows it after a plus, if any."""
    model, _, adapter = name.partition("+")
    return (name, "") if not adapter or Path(name).expanduser().is_dir() else (model, adapter)


def _full_model(model: str, adapter: str) -> str:
    """Say how a full model is made of one with an adapter."""
    return (
        f"make a full model of it, `speechmerge merge task_arithmetic FOLDER {adapter} --base {model}`, and name that "
        "FOLDER"
    )


def _counted(path: Path, word: str, base: str, models: list[Entry], shared: Mapping[str, Any]) -> list[Entry]:
    """Return the models that are merged: with the base where it counts as one, else without."""
    method, own = method_of(path, word).name, Entry(model=base)
    others = [entry for entry in models if entry.model != base]
    if not others:
        raise MethodError(f"{path}: models must name at least one other model than the base {base}.")
    if method not in COUNTED or space(word, shared, based=True) == "deltas":
        return others
    if method == "slerp" and len(others) == 1:  # from the base to the model, in whatever order they stand
        return [own, *others]
    if len(others) < len(models) or own_words(shared) or word not in ("linear", "karcher"):
        return models
    weighed = word == "linear" and any("weight" in entry.parameters for entry in models)
    if weighed and "weight" not in shared:
        raise MethodError(
            f"{path}: base_model {base} is not listed and has no weight, but counts as one more model in {word}; leave "
            "base_model out, or list it with a weight."
        )
    log.warning(
        "%s: the base_model %s is not listed among the models; %s counts it as one more, as mergekit does. Leave "
        "base_model out to merge the listed models alone.",
        *(path, base, word),
    )
    return [*models, own]


def _check_tokens(path: Path, file: RecipeFile, models: Sequence[str]) -> None:
    """Check that a file asks for the tokens that all models must have anyway."""
    for source in (file.tokenizer.source, file.tokenizer_source):
        if source not in (None, "base", "union", *models):
            raise MethodError(
                f"{path}: the tokenizer comes from {source!r}, which is none of the models; they must all have the "
                "same tokens, so write base or leave it out."
            )
