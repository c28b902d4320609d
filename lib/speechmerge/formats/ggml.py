"""Writing whisper.cpp's model file: header, mel filters, vocabulary, tensors.

Matrices and filters are 16-bit floats. The format knows 32 bits too, but whisper.cpp 1.8.5 stops at the first layer of
such a file, whose filters must be 16-bit floats.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ..whisper.conversion import GGML_FLOATS, GGML_HEADER, GGML_MAGIC, hf_to_openai
from . import vocabulary
from .model import TABLE, Model

PROGRAM = "whisper.cpp"
NUMBERS = {dtype: number for number, dtype in GGML_FLOATS.items()}


def write(path: Path, model: Model, dtype: torch.dtype) -> None:
    """Write the model file, one tensor at a time; rows of the token table that only pad it are left out.

    Norms, biases and positions are 32-bit floats in every such file, and only matrices and filters are ``dtype``.
    """
    rows = model.rows()
    sizes = {**model.about.config, "vocab_size": rows, "file_type": NUMBERS[dtype]}
    sizes["decoder_state"] = sizes["d_model"]
    filters = np.ascontiguousarray(model.about.extractor.mel_filters.T, "<f4")
    with path.open("wb") as file:
        file.write(GGML_MAGIC + struct.pack(f"<{len(GGML_HEADER)}i", *(sizes[key] for key in GGML_HEADER)))
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        tokens = vocabulary.stored(model.about.tokenizer)
        file.write(struct.pack("<i", len(tokens)))
        for token in tokens:
            file.write(struct.pack("<i", len(token)) + token)
        for name in model.checkpoint.shapes:
            _write_tensor(file, model, name, dtype, rows)


def _write_tensor(file: BinaryIO, model: Model, name: str, dtype: torch.dtype, rows: int) -> None:
    """Write one tensor: dimensions, name length, type, shape (innermost first), name, values."""
    shape = model.checkpoint.shapes[name]
    kind = torch.float32 if len(shape) < 2 or "embed_positions" in name else dtype
    values = model.tensor(name, kind)
    if name == TABLE:
        values = values[:rows]
    if name.endswith(("conv1.bias", "conv2.bias")):
        values = values[:, None]  # added to [channels, frames]
    letters = hf_to_openai(name).encode()
    head = struct.pack("<3i", values.ndim, len(letters), NUMBERS[kind])
    file.write(head + struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + letters)
    file.write(memoryview(values.view(-1).numpy()).cast("B"))
