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

A method that mergekit computes in another way than its paper runs in mergekit's, with mergekit's defaults, unless
``flavour: paper`` says so: the file's form is theirs, and so should be its numbers. A base that is listed among the
models counts as one of them where mergekit counts it (averages, SLERP, Karcher mean), and has no part elsewhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ..errors import MethodError, nearest
from . import engine, validation
from .dialect import ENGINE, NAMES, options
from .merge import Merge
from .methods import find

COUNTED = ("weight_average", "karcher", "slerp")  # where a base among the models is one of them
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
FIELDS = {
    "merge_method": (str, "a name"),
    "base_model": (str, "the folder or name of the model the others were fine-tuned from"),
    "models": (list, "a list of models"),
    "parameters": (dict, "names with values"),
    "dtype": (str, "one of " + ", ".join(DTYPES)),
}
REQUIRED = ("merge_method", "base_model", "models")


@dataclass(frozen=True)
class Recipe:
    """A merge as a file describes it; ``options`` are those of :class:`speechmerge.merging.merge.Merge`."""

    method: str
    base: str
    experts: tuple[str, ...]
    options: Mapping[str, Any]

    @property
    def strict(self) -> bool:
        """Whether all experts must differ from the base: not where it is one of the models to merge."""
        return self.base not in self.experts or self.method not in COUNTED

    def merge(self, resolve: Callable[[str], Path] = Path) -> Merge:
        """Open and check all models without merging; raises what a merge would raise beforehand."""
        experts = [resolve(expert) for expert in self.experts]
        merge = Merge(self.method, resolve(self.base), experts, **{"strict": self.strict} | self.options)
        if not self.strict:
            others = [e for name, e in zip(self.experts, merge.experts, strict=True) if name != self.base]
            validation.check_tokenizers(merge.base, others)
            validation.check_updates(merge.base, others, self.options.get("max_update", validation.MAX_UPDATE))
        validation.check_companions(merge.base.folder)
        return merge

    def run(self, output: Path, *, resolve: Callable[[str], Path] = Path, **more: Any) -> Path:
        """Merge into a folder; ``more`` are further arguments of :func:`speechmerge.merging.engine.merge_folders`."""
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
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise MethodError(
            f"{path} is not readable as a recipe ({reason}); expected a YAML file with {', '.join(REQUIRED)}."
        ) from error
    if not isinstance(content, dict):
        raise MethodError(f"{path} is no recipe: it holds {_found(content)}; expected {', '.join(REQUIRED)}.")
    if content.get("tokenizer_source") == "base":  # which is what a merge does
        del content["tokenizer_source"]
    for field, value in content.items():
        if field not in FIELDS:
            raise MethodError(f"{path}: {field!r} is not supported in a recipe.{nearest(str(field), FIELDS)}")
        kind, expected = FIELDS[field]
        if value is not None and not isinstance(value, kind):
            raise MethodError(f"{path}: {field} is {_found(value)}, expected {expected}.")
    for field in REQUIRED:
        if not content.get(field):
            raise MethodError(f"{path}: {field} is missing, expected {FIELDS[field][1]}.")
    models = [_model(path, number, entry) for number, entry in enumerate(content["models"], 1)]
    return _recipe(str(path), content, models)


def _found(value: Any) -> str:
    """Say what stands where something else was expected."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else repr(value)


def _model(path: Path, number: int, entry: Any) -> dict[str, Any]:
    """Return an entry of ``models`` as its name and parameters."""
    entry = entry if isinstance(entry, dict) else {"model": entry}
    for key in entry:
        if key not in ("model", "parameters"):
            raise MethodError(f"{path}: model {number} has {key!r}.{nearest(str(key), ('model', 'parameters'))}")
    if not isinstance(entry.get("model"), str):
        raise MethodError(f"{path}: model {number} is {_found(entry.get('model'))}, expected a folder.")
    parameters = entry.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise MethodError(
            f"{path}: parameters of {entry['model']} are {_found(parameters)}, expected names and values."
        )
    return {"model": entry["model"], "parameters": parameters}


def _recipe(path: str, content: Mapping[str, Any], models: list[dict]) -> Recipe:
    word, base = content["merge_method"], content["base_model"]
    method = find(NAMES.get(word, (word, {}))[0])
    others = [entry for entry in models if entry["model"] != base]
    if not others or len(models) - len(others) > 1:
        raise MethodError(f"{path}: models must name the base {base} at most once, and at least one other model.")
    if method.name == "slerp" and len(others) == 1:  # from the base to the model, in whatever order they stand
        models = [{"model": base, "parameters": {}}, *others]
    elif method.name not in COUNTED:
        models = others
    found = options(path, word, content.get("parameters") or {}, models)
    dtype = content.get("dtype")
    if dtype is not None:
        if dtype not in DTYPES:
            raise MethodError(f"{path}: dtype is {dtype!r}.{nearest(dtype, DTYPES)}")
        found["dtype"] = DTYPES[dtype]
    own = {key: value for key, value in found.items() if key not in (*ENGINE, "dtype")}
    method.check(own, experts=len(models))
    return Recipe(method.name, base, tuple(entry["model"] for entry in models), found)
