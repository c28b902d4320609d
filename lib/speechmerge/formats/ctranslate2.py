"""Writing CTranslate2's folder, which faster-whisper reads, tensor by tensor and as its own converter writes it.

The converter of the package ``ctranslate2`` holds the whole model in memory, some parts of it twice; this one holds a
tensor. Byte for byte, both write the same ``model.bin`` (specification 3 of ``WhisperSpec``, layout version 6).
"""

import hashlib
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from ..whisper import companions
from ..whisper.ctranslate2 import HEAD, KIND, KINDS, SCALE, VERSIONS
from . import alignment, vocabulary
from .model import TABLE, Model

REVISION = 3
GELU = 3  # CTranslate2's number for the activation
SETTINGS = {  # single numbers of the decoder, with their format: how a Whisper computes
    "activation": (GELU, torch.int8),
    "alibi": (0, torch.int8),
    "alibi_use_positive_positions": (0, torch.int8),
    "alignment_heads": (1, torch.int16),
    "alignment_layer": (-1, torch.int16),
    "pre_norm": (1, torch.int8),
    "scale_alibi": (0, torch.int8),
    "scale_embeddings": (0, torch.int8),
    "start_from_zero_embedding": (0, torch.int8),
}
SELF = {"linear_0": ("q_proj", "k_proj", "v_proj"), "linear_1": ("out_proj",)}
CROSS = {"linear_0": ("q_proj",), "linear_1": ("k_proj", "v_proj"), "linear_2": ("out_proj",)}
BESIDE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json")
BESIDE += ("normalizer.json",)
EPSILON = 127 / torch.finfo(torch.float32).max  # smallest largest number of a row whose scale is finite

Parts = tuple[tuple[str, int], ...]  # names of tensors joined to one array, and the rows of each; no tensor is zeros


def write(folder: Path, model: Model, dtype: str) -> None:
    """Write ``model.bin``, its configuration and vocabulary, and what faster-whisper reads: tokenizer, features.

    Args:
        folder: an empty one.
        model: what is written.
        dtype: ``"float32"``, ``"float16"``, ``"bfloat16"``, or ``"int8"`` or ``"int8_float16"``, where all but the
            matrices is 32- or 16-bit floats.
    """
    _write_weights(folder / "model.bin", model, dtype)
    about, rows = model.about, model.about.config["vocab_size"]
    _write_json(folder / "config.json", _config(model))
    _write_json(folder / "vocabulary.json", vocabulary.texts(about.tokenizer, rows))
    with tempfile.TemporaryDirectory() as place:
        companions.write(Path(place), about, "float32", model.checkpoint.folder)
        for name in BESIDE:
            if (Path(place) / name).is_file():
                shutil.copyfile(Path(place) / name, folder / name)


def _config(model: Model) -> dict[str, Any]:
    """Return what the folder's ``config.json`` says: tokens never decoded, languages, heads for word timestamps."""
    settings, known = model.about.generation, model.about.tokenizer.get_vocab()
    languages = sorted(known[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in known)
    return {
        "alignment_heads": settings.get("alignment_heads") or alignment.last_half(model.about.config),
        "lang_ids": languages,
        "suppress_ids": settings.get("suppress_tokens"),
        "suppress_ids_begin": settings.get("begin_suppress_tokens"),
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(path: Path, model: Model, dtype: str) -> None:
    """Write the arrays in the order of their names; one that equals an earlier one is written as its alias."""
    config = model.about.config
    numbers = {f"decoder/{name}": number for name, number in SETTINGS.items()}
    heads = {side: config[f"{side}_attention_heads"] for side in ("encoder", "decoder")}
    numbers |= {f"{side}/num_heads": (count, torch.int16) for side, count in heads.items()}
    places, first, aliases, count = places_of(model), {}, [], 0
    with path.open("wb") as file:
        file.write(struct.pack("<I", VERSIONS[-1]) + struct.pack("<H", len(KIND)) + KIND + struct.pack("<I", REVISION))
        counted = file.tell()
        file.write(bytes(4))
        for name in sorted([*places, *numbers]):
            if name in numbers:
                number, kind = numbers[name]
                count += _write_array(file, name, torch.tensor(number, dtype=kind))
                continue
            values = _joined(model, places[name])
            mark = (values.dtype, values.shape, _digest(values))
            if (known := first.setdefault(mark, name)) != name:
                aliases.append((name, known))
            else:
                for end, array in _stored(name, values, model, dtype).items():
                    count += _write_array(file, name + end, array)
        file.write(struct.pack("<I", len(aliases)))
        for pair in aliases:
            file.write(b"".join(map(_text, pair)))
        file.seek(counted)
        file.write(struct.pack("<I", count))


def places_of(model: Model) -> dict[str, Parts]:
    """Return the arrays of the file, and the tensors that each is made of."""
    config, width = model.about.config, model.about.config["d_model"]
    found: dict[str, Parts] = {"decoder/embeddings/weight": ((TABLE, 0),), HEAD: ((TABLE, 0),)}
    for side in ("encoder", "decoder"):
        found[f"{side}/position_encodings/encodings"] = ((f"model.{side}.embed_positions.weight", 0),)
        pairs = {f"{side}/layer_norm": f"model.{side}.layer_norm"}
        for i in range(config[f"{side}_layers"]):
            here, there = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            attentions = {"self_attention": ("self_attn", SELF)}
            attentions |= {"attention": ("encoder_attn", CROSS)} if side == "decoder" else {}
            for attention, (own, linears) in attentions.items():
                pairs[f"{here}/{attention}/layer_norm"] = f"{there}.{own}_layer_norm"
                for linear, parts in linears.items():
                    found |= _joint(f"{here}/{attention}/{linear}", [f"{there}.{own}.{part}" for part in parts], width)
            pairs[f"{here}/ffn/layer_norm"] = f"{there}.final_layer_norm"
            for j in (1, 2):
                found |= _joint(f"{here}/ffn/linear_{j - 1}", [f"{there}.fc{j}"], 0)
        for place, name in pairs.items():
            found |= {f"{place}/gamma": ((f"{name}.weight", 0),), f"{place}/beta": ((f"{name}.bias", 0),)}
    for part in ("conv1", "conv2"):
        found |= _joint(f"encoder/{part}", [f"model.encoder.{part}"], 0)
    return found


def _joint(place: str, names: list[str], rows: int) -> dict[str, Parts]:
    """Return weight and bias of a layer made of several; keys have no bias, and zeros take its place."""
    bias = tuple(("" if name.endswith("k_proj") else f"{name}.bias", rows) for name in names)
    return {f"{place}/weight": tuple((f"{name}.weight", rows) for name in names), f"{place}/bias": bias}


def _joined(model: Model, parts: Parts) -> Tensor:
    """Read what an array is made of, in the widest of the formats they are stored in."""
    own = [model.checkpoint.read(name) if name else torch.zeros(rows) for name, rows in parts]
    kind = next(values.dtype for values, (name, _) in zip(own, parts, strict=True) if name)
    return torch.cat([values.to(kind) for values in own]) if len(own) > 1 else own[0]


def _digest(values: Tensor) -> bytes:
    """Hash an array by value: minus zero counts as zero."""
    return hashlib.sha256((values + 0).contiguous().view(-1).view(torch.uint8).numpy()).digest()


def _stored(name: str, values: Tensor, model: Model, dtype: str) -> dict[str, Tensor]:
    """Return an array as it is stored, by what is added to its name: itself, and its scales if it is 8-bit."""
    if dtype.startswith("int8") and name.endswith("/weight"):
        flat = values.float().view(len(values), -1)
        largest = flat.abs().amax(1)
        largest = torch.where(largest == 0, 127.0, largest).clamp(min=EPSILON)
        scale = torch.full_like(largest, 127.0) / largest  # a number before the stroke is multiplied by the reciprocal
        return {"": (flat * scale[:, None]).round_().to(torch.int8).view(values.shape), SCALE: scale}
    kind = {"int8": torch.float32, "int8_float16": torch.float16}.get(dtype) or getattr(torch, dtype)
    return {"": model.narrowed(name, values, kind)}


def _write_array(file: BinaryIO, name: str, values: Tensor) -> int:
    """Write one array with its name, shape and number format; return 1, for one was written."""
    number = next(number for number, kind in KINDS.items() if kind == values.dtype)
    data = memoryview(values.contiguous().view(-1).view(torch.uint8).numpy())
    head = struct.pack("<B", values.ndim) + struct.pack(f"<{values.ndim}I", *values.shape)
    file.write(_text(name) + head + struct.pack("<BI", number, len(data)))
    file.write(data)
    return 1


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"
