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

import torch
import yaml

from ..errors import MethodError, nearest
from . import adapters, engine, validation
from .dialect import ENGINE, all_or_none, method_of, options, own_words, space
from .forms import reference
from .merge import Merge, open_merge
from .methods import find

log = logging.getLogger(__name__)

COUNTED = ("weight_average", "karcher", "slerp", "multi_slerp")  # where a base among the models is one of them
WITHOUT_BASE = ("linear", "nuslerp", "multislerp", "karcher", "weight_average", "multi_slerp")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
FIELDS = {
    "merge_method": (str, "a name"),
    "base_model": (str, "the folder or name of the model the others were fine-tuned from"),
    "models": (list, "a list of models"),
    "parameters": (dict, "names with values"),
    "dtype": (str, "one of " + ", ".join(DTYPES)),
    "out_dtype": (str, "one of " + ", ".join(DTYPES)),
    "tokenizer_source": (str, "base, as all models must have its tokens"),
    "tokenizer": (dict, "{source: base}, as all models must have its tokens"),
    "name": (str, "a name for the merge, which changes nothing"),
    "dynamic": (dict, "{system: ...}, for models that are merged while they listen"),
    "variants": (list, "a list of merges of the same models, each with a name"),
}
LACKING = {  # fields of mergekit's that have no meaning here, and what to write
    "slices": "layers stay at their place in a merge of Whisper: list the sources under models, and say include or "
    "policy for parts",
    "modules": "list the models under models, and say include: encoder or include: decoder for a part",
    "chat_template": "Whisper has none, so leave it out",
}
REQUIRED = ("merge_method", "models")
ENTRY = ("model", "parameters", "speech", "statistics")  # of a model
VARIANT = {  # fields of a variant
    "name": (str, "the name of its folder, without a slash or a dot in front"),
    "merge_method": FIELDS["merge_method"],
    "parameters": FIELDS["parameters"],
}


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
    content = _content(path)
    if content.get("variants"):
        raise MethodError(
            f"{path} has {len(content['variants'])} variants, which only `speechmerge merge` makes; leave one, as the "
            "file's own method and parameters."
        )
    return _described(path, content)


def read_variants(path: Path) -> dict[str, Recipe]:
    """Read the variants of a recipe file by name, in their order; none of a file without.

    Raises:
        MethodError: as :func:`read`, or two variants have one name, or they merge other models, or one needs speech.
    """
    content = _content(path)
    found: dict[str, Recipe] = {}
    for number, entry in enumerate(content.get("variants") or [], 1):
        name, own = _variant(path, number, entry)
        if name in found:
            raise MethodError(f"{path}: two variants are called {name}; give each a name of its own.")
        shared = content.get("parameters") or {}
        varied = content | own | {"parameters": shared | own.get("parameters", {}), "variants": None}
        found[name] = _described(path, varied)
        _check_variant(path, name, found[name], next(iter(found.values())))
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


def _variant(path: Path, number: int, entry: Any) -> tuple[str, dict[str, Any]]:
    """Return a variant's name and the fields that it has of its own."""
    if not isinstance(entry, dict):
        raise MethodError(f"{path}: variant {number} is {_found(entry)}, expected {{name: ..., parameters: ...}}.")
    for key, value in entry.items():
        if key not in VARIANT:
            raise MethodError(f"{path}: variant {number} has {key!r}.{nearest(str(key), VARIANT)}")
        kind, expected = VARIANT[key]
        if not isinstance(value, kind):
            raise MethodError(f"{path}: {key} of variant {number} is {_found(value)}, expected {expected}.")
    name = entry.get("name", "")
    if not name or name != Path(name).name or name.startswith("."):
        raise MethodError(f"{path}: the name of variant {number} is {name!r}, expected {VARIANT['name'][1]}.")
    return name, {key: value for key, value in entry.items() if key != "name"}


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


def _content(path: Path) -> dict[str, Any]:
    """Return the fields of a recipe file, checked for what they are."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise MethodError(
            f"{path} is not readable as a recipe ({reason}); expected a YAML file with {', '.join(REQUIRED)}."
        ) from error
    if not isinstance(content, dict):
        raise MethodError(f"{path} is no recipe: it holds {_found(content)}; expected {', '.join(REQUIRED)}.")
    content = content | {"base_model": reference(content.get("base_model"))}
    for field, value in content.items():
        if field in LACKING and value:
            raise MethodError(f"{path}: {field!r} is not supported in a recipe; {LACKING[field]}.")
        if field in ENGINE:
            raise MethodError(f"{path}: {field!r} stands at the top of the recipe; write it under parameters.")
        if field not in FIELDS and field not in LACKING:
            raise MethodError(f"{path}: {field!r} is not supported in a recipe.{nearest(str(field), FIELDS)}")
        kind, expected = FIELDS.get(field, (object, ""))
        if value is not None and not isinstance(value, kind):
            raise MethodError(f"{path}: {field} is {_found(value)}, expected {expected}.")
    for field in REQUIRED:
        if not content.get(field):
            raise MethodError(f"{path}: {field} is missing, expected {FIELDS[field][1]}.")
    return content


def _described(path: Path, content: Mapping[str, Any]) -> Recipe:
    """Return the recipe that a file's fields describe."""
    models = [_model(path, number, entry) for number, entry in enumerate(content["models"], 1)]
    return _recipe(str(path), content, models)


def _found(value: Any) -> str:
    """Say what stands where something else was expected."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else repr(value)


def _model(path: Path, number: int, entry: Any) -> dict[str, Any]:
    """Return an entry of ``models`` as its name and parameters."""
    entry = entry if isinstance(entry, dict) else {"model": entry}
    for key in entry:
        if key not in ENTRY:
            raise MethodError(f"{path}: model {number} has {key!r}.{nearest(str(key), ENTRY)}")
    model = reference(entry.get("model"))
    if not isinstance(model, str):
        raise MethodError(f"{path}: model {number} is {_found(model)}, expected a folder.")
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise MethodError(f"{path}: parameters of {model} are {_found(parameters)}, expected names and values.")
    speech, statistics = entry.get("speech") or [], entry.get("statistics")
    speech = [speech] if isinstance(speech, str) else speech
    if not isinstance(speech, list) or not all(isinstance(one, str) for one in speech):
        raise MethodError(f"{path}: speech of {model} is {_found(speech)}, expected WHERE:LANGUAGE, or a list of them.")
    if statistics is not None and not isinstance(statistics, str):
        raise MethodError(f"{path}: statistics of {model} are {_found(statistics)}, expected a folder.")
    return {"model": model, "parameters": parameters, "speech": ",".join(speech), "statistics": statistics}


def _recipe(path: str, content: Mapping[str, Any], models: list[dict]) -> Recipe:
    word, given, shared = content["merge_method"], content.get("base_model"), content.get("parameters") or {}
    method = method_of(path, word)
    base, models = _based(path, word, given, models)
    names = [entry["model"] for entry in models]
    if twice := next((name for number, name in enumerate(names) if name in names[:number]), None):
        raise MethodError(f"{path}: models names {twice} twice; name it once, with the sum of its weights if need be.")
    _check_tokens(path, content, [base, *names])
    if given:
        models = _counted(path, word, base, models, shared)
    found = options(path, word, shared, models, based=bool(given))
    for field in ("dtype", "out_dtype"):  # the second has the say
        if content.get(field):
            found["dtype"] = _dtype(path, field, content[field])
    own = {key: value for key, value in found.items() if key not in (*ENGINE, "dtype")}
    method.check(own, experts=len(models))
    data = {key: _of_each(path, key, models) for key in ("speech", "statistics")}
    experts = tuple(entry["model"] for entry in models)
    return Recipe(method.name, base, experts, found, **data, dynamic=content.get("dynamic"))


def _of_each(path: str, key: str, models: Sequence[dict]) -> tuple[str, ...]:
    """Return what stands with every model; with none of them it is nothing."""
    having = [bool(entry.get(key)) for entry in models]
    all_or_none(path, key, [entry["model"] for entry in models], having, "give each model its own, or none")
    return tuple(entry[key] for entry in models) if any(having) else ()


def _dtype(path: str, field: str, word: str) -> torch.dtype:
    if word.removeprefix("torch.") not in DTYPES:
        raise MethodError(f"{path}: {field} is {word!r}.{nearest(word, DTYPES)}")
    return DTYPES[word.removeprefix("torch.")]


def _based(path: str, word: str, base: str | None, models: list[dict]) -> tuple[str, list[dict]]:
    """Return the model that the others are compared with, and the models, adapters without the model under them."""
    pairs = [_parted(entry["model"]) for entry in models]
    if base and _parted(base)[1]:
        raise MethodError(f"{path}: base_model is a model with an adapter, {base}; {_full_model(*_parted(base))}.")
    if not base and word not in WITHOUT_BASE:
        use = "goes from it to the other one" if word == "slerp" else "merges what the models changed in it"
        raise MethodError(
            f"{path}: base_model is missing, expected {FIELDS['base_model'][1]}: {word} {use}. Without one work "
            f"{', '.join(WITHOUT_BASE[:4])}."
        )
    reference = base or next((model for model, adapter in pairs if adapter), pairs[0][0])
    for (model, adapter), entry in zip(pairs, models, strict=True):
        if adapter and Path(model) != Path(reference):
            raise MethodError(
                f"{path}: {entry['model']} is an adapter of another model than {reference}; "
                f"{_full_model(model, adapter)}."
            )
        if not base and not adapter and adapters.is_adapter(Path(model).expanduser()):
            raise MethodError(f"{path}: {model} is an adapter; name its base as base_model, or write BASE+{model}.")
    return reference, [
        entry | {"model": adapter or model} for (model, adapter), entry in zip(pairs, models, strict=True)
    ]


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


def _counted(path: str, word: str, base: str, models: list[dict], shared: Mapping[str, Any]) -> list[dict]:
    """Return the models that are merged: with the base where it counts as one, else without."""
    method, own = method_of(path, word).name, {"model": base, "parameters": {}}
    others = [entry for entry in models if entry["model"] != base]
    if not others:
        raise MethodError(f"{path}: models must name at least one other model than the base {base}.")
    if method not in COUNTED or space(word, shared, based=True) == "deltas":
        return others
    if method == "slerp" and len(others) == 1:  # from the base to the model, in whatever order they stand
        return [own, *others]
    if len(others) < len(models) or own_words(shared) or word not in ("linear", "karcher"):
        return models
    weighed = word == "linear" and any("weight" in entry["parameters"] for entry in models)
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


def _check_tokens(path: str, content: Mapping[str, Any], models: Sequence[str]) -> None:
    """Check that a file asks for the tokens that all models must have anyway, in either of mergekit's ways."""
    asked = content.get("tokenizer") or {}
    more = [key for key, value in asked.items() if key != "source" and value]
    if more:
        raise MethodError(
            f"{path}: tokenizer has {', '.join(map(str, more))}, but tokens stay the base's; leave that out."
        )
    for source in (reference(asked.get("source")), reference(content.get("tokenizer_source"))):
        if source not in (None, "base", "union", *models):
            raise MethodError(
                f"{path}: the tokenizer comes from {source!r}, which is none of the models; they must all have the "
                "same tokens, so write base or leave it out."
            )
