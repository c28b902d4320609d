"""Models of five tensors for the tests of merging, and folders of them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

NAMES = {
    "model.encoder.embed_positions.weight": (5, 4),
    "model.encoder.layers.0.fc1.weight": (6, 4),
    "model.encoder.layers.0.fc1.bias": (6,),
    "model.decoder.layers.0.fc1.weight": (6, 4),
    "model.decoder.embed_tokens.weight": (9, 4),
}


def model(seed: int, base: dict | None = None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    fresh = {n: torch.randn(s, generator=generator) for n, s in NAMES.items()}
    if base is None:
        return fresh
    moved = {n: base[n] + 0.01 * fresh[n] for n in NAMES}
    return moved | {"model.encoder.embed_positions.weight": base["model.encoder.embed_positions.weight"].clone()}


def folder(path: Path, state: dict[str, torch.Tensor], **config: object) -> Path:
    """Save a state as a model folder."""
    path.mkdir()
    save_file({n: x.contiguous() for n, x in state.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"vocab_size": 9, "torch_dtype": "float16"} | config))
    wanted = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
    (path / "generation_config.json").write_text(json.dumps(dict.fromkeys(wanted, 1) | {"is_multilingual": True}))
    (path / "optimizer.pt").write_bytes(b"never copied")
    return path
