"""Whisper weights in CTranslate2's ``model.bin``, the form that faster-whisper reads, as Hugging Face tensors.

The file holds named arrays in 32- or 16-bit floats; queries, keys and values lie in one matrix, and keys have a bias of
zeros that Whisper does not have.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import SourceError
from .conversion import Reader

VERSIONS = (5, 6)  # of the file's layout
FLOATS = {0: np.dtype("<f4"), 4: np.dtype("<f2")}  # by the file's number for them
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


def read_ctranslate2(folder: Path) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Read the ``model.bin`` of a CTranslate2 folder.

    Returns:
        The sizes (keys of ``WhisperConfig``) and the tensors by Hugging Face name, float32, without the tied head.

    Raises:
        SourceError: no such file, truncated, quantised weights, or a head that is not the token table.
    """
    path = Path(folder) / "model.bin"
    found = dict(_arrays(path))
    heads = {side: found.pop(f"{side}/num_heads", None) for side in ("encoder", "decoder")}
    table, head = found["decoder/embeddings/weight"], found.pop(HEAD, None)
    if head is not None and not np.array_equal(head, table):
        raise SourceError(f"{path}: {HEAD} is not the token table, but Whisper's head is; this is no Whisper.")
    tensors = {}
    for name, values in found.items():
        if values.ndim:  # single numbers say how to compute, which is Whisper's own way
            tensors |= _translated(path, name, np.ascontiguousarray(values, np.float32))
    return _sizes(tensors, heads), tensors


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of the file by name."""
    if not path.is_file():
        raise SourceError(f"{path} is missing; expected the weights of a CTranslate2 model.")
    reader = Reader(path)
    [version] = reader.integers(1, "the version")
    if version not in VERSIONS:
        raise SourceError(f"{path} has the layout version {version}, expected one of {VERSIONS}; convert it again.")
    _text(reader, "the name of the model's kind")
    reader.integers(1, "the revision")
    for i in range(*reader.integers(1, "the number of arrays")):
        name = _text(reader, f"the name of array {i}")
        [rank] = reader.take(1, f"the rank of {name}")
        shape = reader.integers(int(rank), f"the shape of {name}")
        [kind] = reader.take(1, f"the number format of {name}")
        data = reader.take(*reader.integers(1, f"the size of {name}"), name)
        if shape and int(kind) not in FLOATS:
            raise SourceError(f"{path}: {name} is quantised; take a conversion to float16 or float32.")
        yield name, data.view(FLOATS[int(kind)]).reshape(shape) if shape else _number(data)


def _text(reader: Reader, what: str) -> str:
    [length] = struct.unpack("<H", reader.take(2, what))
    return reader.take(length, what).tobytes().rstrip(b"\0").decode()


def _number(data: np.ndarray) -> np.ndarray:
    """Return a single integer; other single values are not needed."""
    return np.array(int.from_bytes(data.tobytes(), "little"))


def _translated(path: Path, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Return an array under Hugging Face's name, or the parts of one that holds several."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    joined = re.fullmatch(r"(.+\.)((?:\w\+)+\w)\.(weight|bias)", f"model.{name}")
    if joined is None:
        return {f"model.{name}": values}
    place, parts, kind = joined.groups()
    split = dict(zip(parts.split("+"), np.split(values, len(parts.split("+"))), strict=True))
    if kind == "bias" and split.pop("k").any():
        raise SourceError(f"{path}: the keys of {place} have a bias, but Whisper's have none; this is no Whisper.")
    return {f"{place}{part}_proj.{kind}": np.ascontiguousarray(own) for part, own in split.items()}


def _sizes(tensors: dict[str, np.ndarray], heads: dict[str, np.ndarray | None]) -> dict[str, int]:
    """Read the sizes off the tensors; heads are 64 wide where the file does not say how many there are."""
    vocabulary, width = tensors["model.decoder.embed_tokens.weight"].shape
    sizes = {"vocab_size": vocabulary, "d_model": width}
    sizes["num_mel_bins"] = tensors["model.encoder.conv1.weight"].shape[1]
    for side, positions in (("encoder", "source"), ("decoder", "target")):
        layers = {name.split(".")[3] for name in tensors if name.startswith(f"model.{side}.layers.")}
        sizes[f"{side}_layers"] = len(layers)
        sizes[f"{side}_attention_heads"] = width // 64 if heads[side] is None else int(heads[side])
        sizes[f"{side}_ffn_dim"] = len(tensors[f"model.{side}.layers.0.fc1.bias"])
        sizes[f"max_{positions}_positions"] = len(tensors[f"model.{side}.embed_positions.weight"])
    return sizes
