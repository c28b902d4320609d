"""From one format to another: what can be written is decided before anything is, and nothing is left half-written."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import SpeechMergeError, nearest
from ..files import atomic_file, atomic_folder, check_free, check_writable
from ..merging.output import MARKS, RECIPE, layout, write_weights
from ..whisper import companions
from ..whisper.checkpoints import fingerprint, most_precise
from ..whisper.configuration import RECORD
from ..whisper.number_formats import loses
from . import ctranslate2, ggml, openai, vocabulary
from .model import DTYPES as STORED
from .model import Model, check_widths
from .reading import KINDS, locate, open_model

EXACT = ("float32", "float16", "bfloat16")
WRITES = {  # the number formats of each
    "hf": EXACT,
    "ctranslate2": (*EXACT, "int8", "int8_float16"),
    "ggml": ("float16",),  # whisper.cpp 1.8.5 computes with no other filters of the first layers
    "openai": EXACT,
}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1.1, "int8_float16": 1.1}  # of a scalar, scales included
BESIDE = 10_000_000  # bytes of a tokenizer's files
TOLD = ("README.md", RECIPE)  # a merge's card and recipe, which go with it


@dataclass(frozen=True)
class Converted:
    """What was written: its format and number format, its size in bytes, and what was changed or added."""

    kind: str
    dtype: str
    bytes: int
    said: tuple[str, ...]


def convert(
    source: str | Path,
    output: Path,
    to: str,
    *,
    dtype: str | None = None,
    base: str | None = None,
    tokenizer: Path | None = None,
    overwrite: bool = False,
) -> Converted:
    """Write a model in another format, one tensor in memory at a time.

    Args:
        source: a file, a folder or the name of a base model.
        output: the folder (``hf``, ``ctranslate2``) or file (``ggml``, ``openai``) to write.
        to: one of :data:`WRITES`.
        dtype: number format of the result; by default the source's own, or the first of ``to`` where it has not got it.
        base: name or folder of an adapter's base; by default the one its configuration names.
        tokenizer: a folder whose tokenizer is the model's, where it has none itself.
        overwrite: whether ``output`` may be replaced.

    Raises:
        SpeechMergeError: the source cannot be read or not be written so; it has that very format already; the output
            exists, or the disk is full.
    """
    if to not in WRITES:
        raise SpeechMergeError(f"There is no format {to!r} to convert to.{nearest(to, WRITES)}")
    if dtype is not None and dtype not in WRITES[to]:
        raise SpeechMergeError(f"{to} is not written in {dtype}; known: {', '.join(WRITES[to])}.")
    path = locate(source)
    if output.exists() and output.resolve() in (path.resolve(), *path.resolve().parents):
        raise SpeechMergeError(f"{output} is what is to be converted, or holds it; choose another output.")
    _check_output(output, to, overwrite)
    model = open_model(path, base=base, tokenizer=tokenizer)
    kind = dtype or _own(model, to)
    rounded = dtype is None and kind in STORED and loses(most_precise([model.checkpoint]), STORED[kind])
    said = (*model.said, f"numbers are rounded to {kind}, the only format of {to}") if rounded else model.said
    if (model.kind, model.precision) == (to, kind):
        raise SpeechMergeError(
            f"{path} is a {KINDS[to]} in {kind} already, so there is nothing to convert; copy it, or choose another "
            "--dtype."
        )
    write = _writer(model, to, kind)
    check_writable(output, model.bytes(1) * BYTES[kind] + BESIDE)
    if to in ("hf", "ctranslate2"):
        with atomic_folder(output, overwrite=overwrite, marks=MARKS) as folder:
            write(folder)
    else:
        with atomic_file(output) as file:
            write(file)
    files = [file for file in output.rglob("*") if file.is_file()] if output.is_dir() else [output]
    return Converted(to, kind, sum(file.stat().st_size for file in files), said)


def _check_output(output: Path, to: str, overwrite: bool) -> None:
    """Raise where the output exists and may not be replaced, or is a folder where a file is written."""
    folder = to in ("hf", "ctranslate2")
    if output.exists() and output.is_dir() != folder:
        found, wanted = ("a file", "a folder") if folder else ("a folder", "a file")
        raise SpeechMergeError(f"{output} is {found}, and {to} is {wanted}; choose another output.")
    check_free(output, overwrite=overwrite, marks=MARKS)


def _own(model: Model, to: str) -> str:
    """Return the number format of the source if the target has it, else the target's first, mostly float32."""
    own = model.precision if model.precision in WRITES[to] else str(most_precise([model.checkpoint]))
    own = own.removeprefix("torch.")
    return own if own in WRITES[to] else WRITES[to][0]


def _writer(model: Model, to: str, dtype: str) -> Callable[[Path], None]:
    """Return what writes the model; whether it can is checked at once."""
    if to == "hf":
        return partial(_write_folder, model=model, dtype=dtype)
    if to == "ctranslate2":
        return partial(ctranslate2.write, model=model, dtype=dtype)
    module = {"ggml": ggml, "openai": openai}[to]
    vocabulary.check_order(model.about.tokenizer, model.rows(), str(model.path), module.PROGRAM)
    check_widths(model, module.PROGRAM)
    return partial(module.write, model=model, dtype=STORED[dtype])


def _write_folder(folder: Path, model: Model, dtype: str) -> None:
    """Write a Hugging Face folder, and note where it came from."""
    kind, names = STORED[dtype], model.checkpoint.shapes
    write_weights(folder, ((name, model.tensor(name, kind)) for name in names), layout(model.checkpoint, kind))
    companions.write(folder, model.about, dtype, model.checkpoint.folder)
    for name in TOLD if model.kind == "hf" else ():
        if (model.path / name).is_file():
            shutil.copyfile(model.path / name, folder / name)
    record = {"source": f"{KINDS[model.kind]}, {model.path.name}", "precision": model.precision}
    record |= {"fingerprint": fingerprint(folder), "said": list(model.said)}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
