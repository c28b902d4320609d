"""Whisper weights of other formats as Hugging Face tensors: whisper.cpp ggml files and quantised ONNX graphs.

Both readers return the model's sizes and its tensors as ``{name: float32 array}``, with Hugging Face's names and
without the tied ``proj_out.weight``; nothing here knows where files come from or where tensors go.
"""

import json
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..errors import SourceError
from .foreign import Foreign, of_entries
from .tensor_files import Entry

GGML_MAGIC = struct.pack("<I", 0x67676D6C)  # "ggml", little endian
GGML_FLOATS = {0: torch.float32, 1: torch.float16}
GGML_HEADER = (
    "vocab_size",
    "max_source_positions",
    "d_model",
    "encoder_attention_heads",
    "encoder_layers",
    "max_target_positions",
    "decoder_state",
    "decoder_attention_heads",
    "decoder_layers",
    "num_mel_bins",
    "file_type",
)

# From the names of openai/whisper, which ggml keeps, to those of Hugging Face; applied in this order.
OPENAI_TO_HF = [
    (r"blocks", "layers"),
    (r"mlp_ln", "final_layer_norm"),
    (r"mlp\.0", "fc1"),
    (r"mlp\.2", "fc2"),
    (r"\.attn_ln", ".self_attn_layer_norm"),
    (r"cross_attn_ln", "encoder_attn_layer_norm"),
    (r"\.attn\.", ".self_attn."),
    (r"cross_attn", "encoder_attn"),
    (r"\.(q|k|v)\w+\.(?=weight|bias)", r".\1_proj."),
    (r"attn\.out\.", "attn.out_proj."),
    (r"^encoder\.ln_post\.", "encoder.layer_norm."),
    (r"^decoder\.ln\.", "decoder.layer_norm."),
    (r"token_embedding\.", "embed_tokens."),
    (r"positional_embedding$", "embed_positions.weight"),
]

# The way back, applied in this order.
HF_TO_OPENAI = [
    (r"^model\.", ""),
    (r"\blayers\b", "blocks"),
    (r"encoder_attn_layer_norm", "cross_attn_ln"),
    (r"self_attn_layer_norm", "attn_ln"),
    (r"final_layer_norm", "mlp_ln"),
    (r"fc1", "mlp.0"),
    (r"fc2", "mlp.2"),
    (r"self_attn", "attn"),
    (r"encoder_attn", "cross_attn"),
    (r"q_proj", "query"),
    (r"k_proj", "key"),
    (r"v_proj", "value"),
    (r"out_proj", "out"),
    (r"^encoder\.layer_norm", "encoder.ln_post"),
    (r"^decoder\.layer_norm", "decoder.ln"),
    (r"embed_tokens", "token_embedding"),
    (r"embed_positions\.weight$", "positional_embedding"),
]

ONNX_PARTS = {"encoder": "encoder_model_quantized.onnx", "decoder": "decoder_model_merged_quantized.onnx"}


def openai_to_hf(name: str) -> str:
    """Translate a tensor name of openai/whisper into the Hugging Face one (``model.encoder.…``)."""
    for pattern, replacement in OPENAI_TO_HF:
        name = re.sub(pattern, replacement, name)
    return f"model.{name}"


def hf_to_openai(name: str) -> str:
    """Translate a Hugging Face tensor name into that of openai/whisper, which whisper.cpp keeps."""
    for pattern, replacement in HF_TO_OPENAI:
        name = re.sub(pattern, replacement, name)
    return name


class Reader:
    """A cursor over a memory-mapped file that refuses to read past its end."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.at = path, np.memmap(path, np.uint8, mode="r"), 0

    def take(self, count: int, what: str) -> np.ndarray:
        """Return the next ``count`` bytes without copying them."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise SourceError(
                f"{self.path} is truncated: it has {len(self.data)} bytes and {what} ends at byte {end}; delete it and "
                "fetch it again."
            )
        self.at = end
        return self.data[end - count : end]

    def integers(self, count: int, what: str) -> tuple[int, ...]:
        """Return the next ``count`` 32-bit integers."""
        return struct.unpack(f"<{count}i", self.take(4 * count, what))

    @property
    def done(self) -> bool:
        """Whether the whole file was read."""
        return self.at == len(self.data)


def read_ggml(path: Path) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Read a whisper.cpp model file whose tensors are 32- or 16-bit floats, whole, as :func:`open_ggml` opens it."""
    return open_ggml(path).loaded()


def open_ggml(path: Path) -> Foreign:
    """Open a whisper.cpp model file whose tensors are 32- or 16-bit floats.

    Args:
        path: the ``.bin`` file.

    Raises:
        SourceError: not a ggml file, truncated, or a quantised tensor in it.
    """
    with path.open("rb") as file:
        if file.read(4) != GGML_MAGIC:
            raise SourceError(f"{path} does not begin with ggml's magic number; expected a whisper.cpp model file.")
    reader = Reader(path)
    reader.take(4, "the magic number")
    header = dict(zip(GGML_HEADER, reader.integers(len(GGML_HEADER), "the header"), strict=True))
    reader.take(4 * math.prod(reader.integers(2, "the filter bank's size")), "the mel filter bank")
    tokens = tuple(
        reader.take(*reader.integers(1, f"the length of token {i}"), f"token {i}").tobytes()
        for i in range(*reader.integers(1, "the vocabulary's size"))
    )
    entries = {}
    while not reader.done:
        entry = _ggml_tensor(reader)
        entries[openai_to_hf(entry.stored_name)] = entry
    sizes = {key: size for key, size in header.items() if key not in ("decoder_state", "file_type")}
    sizes |= {f"{part}_ffn_dim": 4 * header["d_model"] for part in ONNX_PARTS}
    return Foreign(sizes, of_entries(path, entries), {0: "float32"}.get(header["file_type"], "float16"), tokens)


def _ggml_tensor(reader: Reader) -> Entry:
    """Find one tensor: dimensions, name length, type, shape (innermost first), name, values."""
    dimensions, letters, kind = reader.integers(3, "a tensor's header")
    shape = reader.integers(dimensions, "a tensor's shape")[::-1]
    name = reader.take(letters, "a tensor's name").tobytes().decode(errors="replace")
    if kind not in GGML_FLOATS:
        raise SourceError(
            f"{reader.path}: tensor {name} has ggml type {kind}, a quantised one; expected 32- or 16-bit floats "
            "(types 0 and 1). Use the unquantised file of this model."
        )
    dtype, start = GGML_FLOATS[kind], reader.at
    reader.take(math.prod(shape) * dtype.itemsize, f"tensor {name}")
    if re.search(r"conv\d\.bias$", name):
        shape = (math.prod(shape),)  # ggml stores these as [n, 1]
    return Entry(reader.path, name, dtype, shape, start, reader.at - start)


def read_onnx(folder: Path) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Read a Whisper whose weight matrices were quantised to 8 bits, one scale for each tensor, and de-quantise them.

    A stored integer ``q`` stands for ``(q - zero_point) * scale``. Biases, norms and positions are stored as floats.

    Args:
        folder: holds ``config.json`` and ``onnx/{encoder_model,decoder_model_merged}_quantized.onnx``.

    Returns:
        The sizes (keys of ``WhisperConfig``) and the tensors by Hugging Face name, float32.

    Raises:
        SourceError: the package ``onnx`` is not installed, or a graph cannot be read or has another layout.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise SourceError(
            f"Reading {folder} needs the Python package 'onnx', which is not installed; run `pip install onnx` "
            "and try again."
        ) from error
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors: dict[str, np.ndarray] = {}
    for part, file in ONNX_PARTS.items():
        path = folder / "onnx" / file
        try:
            graph = onnx.load(path).graph
        except (OSError, DecodeError) as error:
            raise SourceError(f"{path} is truncated or no ONNX model ({error}); delete it and fetch again.") from error
        for name, values in onnx_tensors(graph, path):
            tensors[f"model.{part}.{re.sub(rf'^model[.]{part}[.]', '', name)}"] = values
    return sizes, tensors


def onnx_tensors(graph: "onnx.GraphProto", path: Path) -> Iterator[tuple[str, np.ndarray]]:  # noqa: F821
    """Yield the named weights of a graph and its sub-graphs, de-quantised, as ``(name, float32 array)``.

    A matrix without a name of its own (``onnx::MatMul_603``) is called after the node that multiplies by it, and
    transposed: ONNX stores ``[in, out]``, Hugging Face ``[out, in]``.

    Raises:
        SourceError: a matrix has one scale for each channel, or cannot be named.
    """
    from onnx import numpy_helper

    graphs = list(_graphs(graph))
    stored = {tensor.name: tensor for part in graphs for tensor in part.initializer}
    user = {name: node.name for part in graphs for node in part.node for name in node.input if name in stored}
    for full_name, tensor in stored.items():
        name = full_name.removesuffix("_quantized")
        if name.endswith(("_scale", "_zero_point")) or not tensor.dims or tensor.data_type == tensor.INT64:
            continue  # these serve another tensor, or are shapes
        values = numpy_helper.to_array(tensor)
        if name != full_name:
            scale, zero = (numpy_helper.to_array(stored[f"{name}_{what}"]) for what in ("scale", "zero_point"))
            if scale.size != 1:
                raise SourceError(
                    f"{path}: {full_name} has {scale.size} scales, expected one for the whole tensor; this "
                    "quantisation is not supported, use the float model."
                )
            values = (values.astype(np.float32) - np.float32(zero.item())) * np.float32(scale.item())
        name = re.sub(r"_merged_\d+$", "", name)
        if name.startswith("onnx::"):
            scope = re.fullmatch(r"/(.+)/MatMul(_quant)?", user.get(full_name, ""))
            if scope is None:
                raise SourceError(f"{path}: {full_name} is used by no matrix product, so its place is unknown.")
            name, values = scope[1].replace("/", ".") + ".weight", values.T
        yield name, np.ascontiguousarray(values, np.float32)


def _graphs(graph: "onnx.GraphProto") -> Iterator["onnx.GraphProto"]:  # noqa: F821
    """Yield a graph and the graphs in its nodes' attributes (the branches of an ``If``)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
