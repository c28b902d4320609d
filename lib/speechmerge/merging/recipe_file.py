"""The fields of a recipe file, mergekit's and the library's own, and what each of them may hold."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ..checked import Checked, Fault, parse, read, said
from ..errors import MethodError, SpeechMergeError, nearest
from .forms import reference
from .options import ENGINE

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
LACKING = {  # fields of mergekit's that have no meaning here, and what to write
    "slices": "layers stay at their place in a merge of Whisper: list the sources under models, and say include or "
    "policy for parts",
    "modules": "list the models under models, and say include: encoder or include: decoder for a part",
    "chat_template": "Whisper has none, so leave it out",
}
BASE = "the folder or name of the model the others were fine-tuned from"
VARIANT = "the name of its folder, without a slash or a dot in front"


def _dtype(word: str) -> torch.dtype:
    if word.removeprefix("torch.") not in DTYPES:
        raise Fault(f"is {word!r}.{nearest(word, DTYPES)}")
    return DTYPES[word.removeprefix("torch.")]


def _folder_name(name: str) -> str:
    if name != Path(name).name or name.startswith("."):
        raise ValueError(VARIANT)
    return name


Method = Annotated[str, said("a name")]
Model = Annotated[str, BeforeValidator(reference), said("a folder")]
Parameters = Annotated[dict, said("names with values")]
Dtype = Annotated[str, said(f"one of {', '.join(DTYPES)}"), AfterValidator(_dtype)]
Speech = Annotated[
    tuple[str, ...],
    Field(strict=False),
    BeforeValidator(lambda found: [found] if isinstance(found, str) else found),
    said("WHERE:LANGUAGE, or a list of them"),
]


class RecipePart(Checked):
    """Part of a recipe; a field that stands empty is one that is not there, as in the files that mergekit writes."""

    error: ClassVar[type[SpeechMergeError]] = MethodError

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, found: Any) -> Any:
        if not isinstance(found, dict):
            return found
        return {name: value for name, value in found.items() if value not in (None, "", [], {})}


class Entry(RecipePart):
    """A model to merge, with what is its own."""

    model: Model
    parameters: Parameters = {}
    speech: Speech = ()
    statistics: Annotated[str, said("a folder")] | None = None


Listed = Annotated[Entry, BeforeValidator(lambda found: found if isinstance(found, dict) else {"model": found})]


class Variant(RecipePart):
    """A merge of the same models; what it says takes the place of what the file says."""

    name: Annotated[str, said(VARIANT), AfterValidator(_folder_name)]
    merge_method: Method | None = None
    parameters: Parameters = {}


class Tokenizer(RecipePart):
    """Whose tokens the result has, in the longer of mergekit's two ways to say it."""

    source: Model | None = None

    @model_validator(mode="before")
    @classmethod
    def _changes_none(cls, found: Any) -> Any:
        known = found if isinstance(found, dict) else {}
        if more := [str(name) for name, value in known.items() if name not in cls.model_fields and value]:
            raise Fault(f"has {', '.join(more)}, but tokens stay the base's; leave that out.")
        return found


class RecipeFile(RecipePart):
    """A whole file."""

    merge_method: Method
    models: Annotated[tuple[Listed, ...], Field(strict=False)]
    base_model: Annotated[Model, said(BASE)] | None = None
    parameters: Parameters = {}
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Model | None = None
    tokenizer: Tokenizer = Tokenizer()
    name: str = ""  # of the merge, which changes nothing
    dynamic: Annotated[dict, said("{system: ...}, for models that are merged while they listen")] | None = None
    variants: Annotated[tuple[Variant, ...], Field(strict=False)] = ()

    @model_validator(mode="before")
    @classmethod
    def _stands_in_its_place(cls, found: dict) -> dict:
        for field, value in found.items():
            if field in LACKING and value:
                raise Fault(f"has {field!r}, which is not supported in a recipe; {LACKING[field]}.")
            if field in ENGINE:
                raise Fault(f"has {field!r} at its top; write it under parameters.")
        return found


def read_file(path: Path) -> RecipeFile:
    """Read a recipe file as it stands.

    Raises:
        MethodError: it cannot be read, is not YAML, or a field is unknown, missing, stands twice or has a value that it
            may not have.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise MethodError(
            f"{path} is not readable as a recipe ({error.strerror}); expected a YAML file with merge_method and models."
        ) from error
    return read(RecipeFile, parse(path, text, MethodError), path)
