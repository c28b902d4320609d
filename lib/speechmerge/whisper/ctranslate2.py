"""Whisper weights in CTranslate2's ``model.bin``, the form that faster-whisper reads, as Hugging Face tensors.

The file holds named arrays; queries, keys and values lie in one matrix, and keys have a bias of zeros that Whisper does
not have. Matrices may be 8-bit integers with one scale for each row: an integer ``q`` stands for ``q / scale``. Arrays
that are equal are stored once, and the others are aliases of it.
"""

import re
import struct
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import SourceError
from .conversion import Reader
from .foreign import Foreign, Source, checkpoint, precision
from .tensor_files import Entry, read_entry, read_if_there

VERSIONS = (5, 6)  # of the file's layout
KIND = b"WhisperSpec\0"
KINDS = {0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16, 5: torch.bfloat16}
NAMES = [  # CTranslate2's names and Hugging Face's, applied in this order
    (r"/layer_(\d+)/", r".layers.\1."),
    (r"ffn/layer_norm", "final_layer_norm"),
    (r"ffn/linear_0", "fc1"),
    (r"ffn/linear_1", "fc2"),
    (r"self_attention/layer_norm", "self_attn_layer_norm"),
    (r"(?<=\.)attention/layer_norm", "encoder_attn_layer_norm"),
    (r"self_attention/linear_0", "self_attn.q+k+v"),
    (r"self_attention/linear_1", "self_attn.out_proj"),
    (r"(?<=\.)attention/linear_0", "encoder_attn.q_proj"),
    (r"(?<=\.)attention/linear_1", "encoder_attn.k+v"),
    (r"(?<=\.)attention/linear_2", "encoder_attn.out_proj"),
    (r"embeddings/weight", "embed_tokens.weight"),
    (r"position_encodings/encodings", "embed_positions.weight"),
    (r"gamma$", "weight"),
    (r"beta$", "bias"),
    (r"/", "."),
]
HEAD = "decoder/projection/weight"  # the token table once more
TABLE = "decoder/embeddings/weight"
SCALE = "_scale"  # ends the name of the scales of a matrix


def read_ctranslate2(folder: Path) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Read the ``model.bin`` of a CTranslate2 folder, whole, as :func:`open_ctranslate2` opens it."""
    return open_ctranslate2(folder).loaded()


def is_ctranslate2(path: Path) -> bool:
    """Tell whether a file begins like the weights of a CTranslate2 Whisper."""
    with path.open("rb") as file:
        start = file.read(6 + len(KIND))
    return int.from_bytes(start[:4], "little") <= max(VERSIONS) and start[6:] == KIND


def open_ctranslate2(folder: Path) -> Foreign:
    """Open the ``model.bin`` of a CTranslate2 folder.

    Raises:
        SourceError: no such file, truncated, quantised otherwise than to 8 bits with one scale a row, or a head that is
            not the token table.
    """
    path = Path(folder) / "model.bin"
    arrays, numbers = _arrays(path)
    _check_head(path, arrays)
    parts: dict[str, Entry] = {}
    scales: dict[str, Entry] = {}
    for name, entry in arrays.items():
        if name.endswith(SCALE):
            continue
        own = _translated(path, name, entry)
        parts |= own
        if not entry.dtype.is_floating_point:
            scale = _scales(path, name, entry, arrays.get(name + SCALE))
            scales |= dict(zip(own, _split(scale, len(own)), strict=True))
    missing = [
        name for name in ("model.decoder.embed_tokens.weight", "model.encoder.conv1.weight") if name not in parts
    ]
    if missing:
        raise SourceError(f"{path} holds no {missing[0]}; expected a Whisper.")
    sources: dict[str, Source] = {
        name: partial(_dequantised, entry, scales[name]) if name in scales else entry for name, entry in parts.items()
    }
    shapes = {name: entry.shape for name, entry in parts.items()}
    dtypes = {name: torch.float32 if name in scales else entry.dtype for name, entry in parts.items()}
    model = checkpoint(path, sources, shapes, dtypes)
    halves = "_float16" if any(entry.dtype == torch.float16 for entry in parts.values()) else ""
    stored = f"int8{halves}" if scales else precision(dtypes)
    heads = {side: numbers.get(f"{side}/num_heads") for side in ("encoder", "decoder")}
    alignment = read_if_there(path.with_name("config.json")).get("alignment_heads")
    return Foreign(_sizes(shapes, heads), model, stored, alignment_heads=alignment)


def _arrays(path: Path) -> tuple[dict[str, Entry], dict[str, int]]:
    """Return where the arrays of the file lie, and its single whole numbers."""
    if not path.is_file():
        raise SourceError(f"{path} is missing; expected the weights of a CTranslate2 model.")
    reader = Reader(path)
    [version] = reader.integers(1, "the version")
    if version not in VERSIONS:
        raise SourceError(f"{path} has the layout version {version}, expected one of {VERSIONS}; convert it again.")
    _text(reader, "the name of the model's kind")
    reader.integers(1, "the revision")
    arrays, numbers = {}, {}
    for i in range(*reader.integers(1, "the number of arrays")):
        name = _text(reader, f"the name of array {i}")
        [rank] = reader.take(1, f"the rank of {name}")
        shape = reader.integers(int(rank), f"the shape of {name}")
        [kind] = reader.take(1, f"the number format of {name}")
        [size] = struct.unpack("<I", reader.take(4, f"the size of {name}"))
        start, data = reader.at, reader.take(size, name)
        if not shape:
            numbers[name] = int.from_bytes(data.tobytes(), "little", signed=True)
        elif int(kind) not in KINDS:
            raise SourceError(f"{path}: {name} has the unknown number format {kind}; convert the model again.")
        else:
            arrays[name] = Entry(path, name, KINDS[int(kind)], shape, start, size)
    for i in range(*reader.integers(1, "the number of aliases")):
        alias, name = (_text(reader, f"alias {i}") for _ in range(2))
        arrays |= {alias + end: arrays[name + end] for end in ("", SCALE) if name + end in arrays}
    return arrays, numbers


def _text(reader: Reader, what: str) -> str:
    [length] = struct.unpack("<H", reader.take(2, what))
    return reader.take(length, what).tobytes().rstrip(b"\0").decode(errors="replace")


def _check_head(path: Path, arrays: dict[str, Entry]) -> None:
    """Take out the output head, which must be the token table."""
    head, scale, table = arrays.pop(HEAD, None), arrays.pop(HEAD + SCALE, None), arrays.get(TABLE)
    for one, other in ((head, table), (scale, arrays.get(TABLE + SCALE))):
        if one is None or one == other:
            continue
        count = int(np.prod(one.shape))
        if (
            other is None
            or one.shape != other.shape
            or not torch.equal(read_entry(one, 0, count), read_entry(other, 0, count))
        ):
            raise SourceError(f"{path}: {HEAD} is not the token table, but Whisper's head is; this is no Whisper.")


def _scales(path: Path, name: str, entry: Entry, scale: Entry | None) -> Entry:
    """Return the scales of the rows of an 8-bit matrix."""
    if entry.dtype != torch.int8 or scale is None or scale.shape != entry.shape[:1]:
        found = "no scales" if scale is None else f"scales of shape {list(scale.shape)}"
        raise SourceError(
            f"{path}: {name} is quantised to {str(entry.dtype).removeprefix('torch.')} with {found}; expected 8 bits "
            "with one scale a row. Take a conversion to float16, float32 or int8."
        )
    return scale


def _dequantised(entry: Entry, scale: Entry, start: int, stop: int) -> Tensor:
    """Return a range of the scalars of an 8-bit matrix in float32."""
    width = int(np.prod(entry.shape[1:]))
    first, last = start // width, -(-stop // width)
    rows = read_entry(entry, first * width, last * width).float().view(-1, width)
    rows /= read_entry(scale, first, last).float()[:, None]
    return rows.view(-1)[start - first * width : stop - first * width]


def _split(entry: Entry, count: int) -> list[Entry]:
    """Part an array into as many of equally many rows."""
    rows, size = entry.shape[0] // count, entry.size // count
    shape = (rows, *entry.shape[1:])
    return [
        Entry(entry.file, entry.stored_name, entry.dtype, shape, entry.start + i * size, size) for i in range(count)
    ]


def _translated(path: Path, name: str, entry: Entry) -> dict[str, Entry]:
    """Return an array under Hugging Face's name, or the parts of one that holds several."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    joined = re.fullmatch(r"(.+\.)((?:\w\+)+\w)\.(weight|bias)", f"model.{name}")
    if joined is None:
        return {f"model.{name}": entry}
    place, letters, kind = joined.groups()
    parts = letters.split("+")
    split = dict(zip(parts, _split(entry, len(parts)), strict=True))
    if kind == "bias" and read_entry(keys := split.pop("k"), 0, keys.shape[0]).any():
        raise SourceError(f"{path}: the keys of {place} have a bias, but Whisper's have none; this is no Whisper.")
    return {f"{place}{part}_proj.{kind}": own for part, own in split.items()}


def _sizes(shapes: dict[str, tuple[int, ...]], heads: dict[str, int | None]) -> dict[str, int]:
    """Read the sizes off the tensors; heads are 64 wide where the file does not say how many there are."""
    vocabulary, width = shapes["model.decoder.embed_tokens.weight"]
    sizes = {"vocab_size": vocabulary, "d_model": width}
    sizes["num_mel_bins"] = shapes["model.encoder.conv1.weight"][1]
    for side, positions in (("encoder", "source"), ("decoder", "target")):
        layers = {name.split(".")[3] for name in shapes if name.startswith(f"model.{side}.layers.")}
        sizes[f"{side}_layers"] = len(layers)
        sizes[f"{side}_attention_heads"] = heads[side] or width // 64
        sizes[f"{side}_ffn_dim"] = shapes.get(f"model.{side}.layers.0.fc1.bias", (0,))[0]
        sizes[f"max_{positions}_positions"] = shapes.get(f"model.{side}.embed_positions.weight", (0,))[0]
    return sizes
