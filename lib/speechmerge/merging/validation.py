"""Checks of experts against their base, made before any heavy work."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CheckpointError, MethodError, SpeechMergeError, nearest
from ..whisper.checkpoints import Checkpoint, fingerprint
from ..whisper.configuration import is_whisper, lacking, padded, tokens
from ..whisper.number_formats import alike
from ..whisper.parameter_classes import MATRIX, classify
from ..whisper.tensor_files import read_if_there
from .methods import MEASURES, STATISTICS, Method

if TYPE_CHECKING:
    from ..whisper.companions import Companions

MAX_UPDATE = 0.5  # ‖τ‖/‖θ0‖ of the linear maps: fine-tunes measured 0.0006 to 0.02, an unrelated model about 1.4
TIMESTAMP = re.compile(r"<\|\d+\.\d+\|>")
SAMPLE = (32, 1 << 15)  # how many tensors, and scalars of each, tell a wrong base or equal experts before the merge


def check_tensors(base: Checkpoint, experts: Sequence[Checkpoint]) -> None:
    """Check that all experts have the base's tensors, by name, shape and kind of number.

    Raises:
        CheckpointError: no expert, missing or extra tensors, another shape, or a changed integer tensor.
    """
    if not experts:
        raise CheckpointError("No expert was given; a merge needs at least one model fine-tuned from the base.")
    for expert in experts:
        missing = [name for name in base.shapes if name not in expert.shapes]
        extra = [name for name in expert.shapes if name not in base.shapes]
        if missing or extra:
            close = nearest(missing[0], extra) if missing and extra else ""
            said = [f"lacks {_counted(missing)} of the base {base.label}"] if missing else []
            said += [f"has {_counted(extra)} that the base {base.label} lacks"] if extra else []
            raise CheckpointError(
                f"{expert.label} {' and '.join(said)}; experts must be fine-tunes of this base.{close}"
            )
        for name, shape in base.shapes.items():
            if expert.shapes[name] != shape:
                raise CheckpointError(
                    f"{expert.label}: tensor {name!r} has shape {list(expert.shapes[name])}, the base {base.label} has "
                    f"{list(shape)}; vocabulary, mel bins and positions must be the base's own."
                )
            kinds = (base.dtypes[name].is_floating_point, expert.dtypes[name].is_floating_point)
            same = kinds == (True, True) or (
                kinds == (False, False) and torch.equal(base.read(name), expert.read(name))
            )
            if not same:
                kinds = f"{expert.dtypes[name]} in the expert and {base.dtypes[name]} in the base"
                raise CheckpointError(
                    f"{expert.label}: tensor {name!r} differs from the base's and is {kinds}; only floating-point "
                    "tensors are merged, any other must equal the base's."
                )


def _counted(names: Sequence[str]) -> str:
    """Return how many tensors these are, with the names of the first three."""
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'} ({', '.join(names[:3])}{more})"


def check_updates(base: Checkpoint, experts: Sequence[Checkpoint], max_update: float) -> None:
    """Check on a sample of the tensors that experts are fine-tunes of this base and differ from it and each other.

    Raises:
        CheckpointError: ‖τ_t‖/‖θ0‖ is above ``max_update`` (wrong base), or an expert equals the base or another one.
    """
    names = sample(base)
    models = [base, *experts]
    squares = torch.zeros(len(models), dtype=torch.float64)
    alike = torch.ones(len(models), len(models), dtype=torch.bool).triu(1)
    for name in names:
        kind = torch.promote_types(base.dtypes[name], torch.float32)
        stop = min(math.prod(base.shapes[name]), SAMPLE[1])
        start, *tuned = values = [model.block(name, 0, stop).to(kind) for model in models]
        norms = [torch.linalg.vector_norm(x, dtype=torch.float64) for x in (start, *(x - start for x in tuned))]
        squares += torch.stack(norms).square()
        for i, j in alike.nonzero().tolist():
            alike[i, j] = torch.equal(values[i], values[j]) or (i and _rounded(models[i], models[j], name, stop))
    ratios = (squares[1:] / squares[0].clamp(min=1e-300)).sqrt().tolist()
    for expert, ratio in zip(experts, ratios, strict=True):
        if ratio > max_update:
            raise CheckpointError(
                f"{expert.label} is no fine-tune of {base.label}: the update is {ratio:.3g} of the base's norm, "
                f"expected under {max_update:g} (fingerprints: expert {fingerprint(expert)[:16]}, base "
                f"{fingerprint(base)[:16]}). Give the base it was trained from, or raise max_update (--max-update; in "
                "a recipe under parameters) if the training really went so far."
            )
    for i, j in alike.nonzero().tolist():
        if all(
            torch.equal(models[i].read(n).double(), models[j].read(n).double())
            or (i and _rounded(models[i], models[j], n, math.prod(shape)))
            for n, shape in base.shapes.items()
        ):
            but = " but for the rounding of stored numbers" if models[i].stored or models[j].stored else ""
            raise CheckpointError(
                f"{models[j].label} holds the same weights as {models[i].label}{but}; an expert must differ from the "
                "base and from the other experts. Remove it, or give the model that was meant."
            )


def _rounded(one: Checkpoint, other: Checkpoint, name: str, stop: int) -> bool:
    """Tell whether a tensor's first scalars are those of another expert but for the rounding of one of them."""
    pair = [(model.stored or model).block(name, 0, stop) for model in (one, other)]
    return pair[0].dtype != pair[1].dtype and alike(*pair)


def sample(base: Checkpoint) -> list[str]:
    """Choose tensors spread over the model, linear maps first."""
    floating = [n for n in sorted(base.shapes) if base.dtypes[n].is_floating_point]
    maps = [n for n in floating if classify(n, base.shapes[n]) == MATRIX] or floating
    return maps[:: math.ceil(len(maps) / SAMPLE[0])] if maps else []


def check_tokenizers(base: Checkpoint, experts: Sequence[Checkpoint]) -> None:
    """Check that experts in folders speak the base's tokens: vocabulary, special tokens, multilingual or not.

    Raises:
        CheckpointError: a token or the vocabulary's size differs; ``.en`` and multilingual models never mix.
    """
    for expert in experts:
        if base.folder is None or expert.folder is None:
            continue
        ours, theirs = (tokens(model.folder) for model in (base, expert))
        if ours and theirs:
            _check_tokens(base.label, expert.label, ours, theirs)
        about, other = (_about(model.folder) for model in (base, expert))
        for what in about.keys() & other.keys():
            if about[what] != other[what]:
                raise CheckpointError(_other_size(base, expert, what, about[what], other[what], len(ours or theirs)))


def _check_tokens(base: str, expert: str, ours: Mapping[int, str], theirs: Mapping[int, str]) -> None:
    """Raise at the first token that differs; either tokenizer may leave out the timestamps."""
    for i in sorted(ours.keys() | theirs.keys()):
        one, other = ours.get(i), theirs.get(i)
        absent = None in (one, other) and TIMESTAMP.fullmatch(one or other)
        if one != other and not absent:
            raise CheckpointError(
                f"{expert}: token {i} of its tokenizer is {other!r}, the base {base} has {one!r} there; models with "
                "different tokens (such as an English-only and a multilingual Whisper) cannot be merged."
            )


def _other_size(base: Checkpoint, expert: Checkpoint, what: str, ours: object, theirs: object, named: int) -> str:
    """Say that two models differ in the size of their vocabulary, which may be padding, or in their languages."""
    told = f"{expert.label}: {what} is {theirs}, the base {base.label} has {ours}; "
    if what == "vocab_size" and named and all(padded(rows, named) for rows in (ours, theirs)):
        return told + (
            f"both have the same {named} tokens, the other rows are padding. Give both models as many rows with "
            f"resize_token_embeddings({min(ours, theirs)}) and save them again."
        )
    return told + "models with different tokens (such as an English-only and a multilingual Whisper) cannot be merged."


def _about(folder: Path) -> dict[str, object]:
    """What a folder's settings say about its tokens; only what is there."""
    about = {}
    for file, key in (("config.json", "vocab_size"), ("generation_config.json", "is_multilingual")):
        if key in (content := read_if_there(folder / file)):
            about[key] = content[key]
    return about


def check_companions(folder: Path) -> "Companions | None":
    """Read what lies beside the base's weights, so that what is written can generate and be read again.

    Returns:
        ``None`` where ``config.json`` does not describe a Whisper with all its sizes.

    Raises:
        CheckpointError: see :func:`speechmerge.whisper.models.open_model`; or the generation settings cannot generate.
    """
    if is_whisper(folder):
        from ..whisper import models  # heavy, and of no use to other models

        return models.open_model(folder)[1]
    path = folder / "generation_config.json"
    if missing := lacking(read_if_there(path)):
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}, so a merge of this base could not generate; copy the file of the base "
            "model as it was published."
        )
    return None


def check_extras(method: Method, extras: Mapping[str, Any], experts: int) -> dict[str, Any]:
    """Check that what the method needs beside the models is there.

    Raises:
        MethodError: an unknown key, not one statistic for each expert, or no function to measure models by.
    """
    known = (*STATISTICS.values(), *MEASURES)
    for key in extras:
        if key not in known:
            raise MethodError(f"extras has no key {key!r}.{nearest(key, known)}")
    for need, key in STATISTICS.items():
        found = extras.get(key, ())
        listed = isinstance(found, Sequence) and all(isinstance(item, Mapping) for item in found)
        if need in method.needs and (not listed or len(found) != experts):
            raise MethodError(
                f"{method.name} needs extras={{{key!r}: [...]}} with one item per expert ({experts}), got "
                f"{len(found) if listed else 'no list of mappings'}; collect them with the experts' own data."
            )
    if method.measure and not callable(extras.get(method.measure)):
        raise MethodError(
            f"{method.name} learns from {'unlabelled' if method.measure == 'entropy' else 'dev'} data: give "
            f"extras={{{method.measure!r}: function of a merged state dict}}."
        )
    return dict(extras)


MEMINFO = Path("/proc/meminfo")
IN_BLOCKS = "choose a method that works in blocks (task_arithmetic, ties, ...)"


def check_memory(needed: int, *, work: str = "the merge", otherwise: str = IN_BLOCKS) -> None:
    """Check before heavy work that ``needed`` bytes of memory are free, where the system tells.

    Args:
        needed: bytes.
        work: what takes them, and
        otherwise: what takes less, both for the message.

    Raises:
        SpeechMergeError: they are not.
    """
    lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines()) if MEMINFO.is_file() else {}
    free = int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else needed
    if needed > free:
        raise SpeechMergeError(
            f"{work} takes about {needed / 1e9:.2f} GB of memory and {free / 1e9:.2f} GB are free; close other "
            f"programs, or {otherwise}."
        )
