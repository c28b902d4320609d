"""A Whisper of OpenAI's vocabulary and next to no width, for the tests of conversion."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from speechmerge.formats import vocabulary
from speechmerge.whisper.smoke import random_tensors
from speechmerge.whisper.whisper_folder import made_companions, model_shapes, write_folder

ROWS = 51_865
HEADS = [[0, 1], [1, 0]]
SIZES = {
    "vocab_size": ROWS,
    "num_mel_bins": 80,
    "d_model": 8,
    "max_source_positions": 1500,
    "max_target_positions": 448,
}
SIZES |= {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("ffn_dim", 32))}
SIZES |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}


def tokens() -> list[bytes]:
    """As many ordinary tokens as the multilingual Whispers have: the bytes, then pairs of them."""
    singles = [bytes([i]) for i in range(256)]
    pairs = (a + b for a, b in itertools.product(singles, singles))
    return [*singles, *itertools.islice(pairs, vocabulary.END_OF_MULTILINGUAL - 256)]


def write_whisper(folder: Path) -> Path:
    """Write a random model whose numbers 16-bit floats hold exactly."""
    folder.mkdir()
    tokenizer = vocabulary.tokenizer(tokens(), ROWS, 448, "made up")
    tensors = random_tensors(model_shapes(SIZES), tokenizer.eos_token_id)
    generator = np.random.default_rng(1)
    for name, values in tensors.items():
        moved = values + 0.1 * generator.standard_normal(values.shape) if "encoder.embed_pos" not in name else values
        tensors[name] = moved.astype(np.float16).astype(np.float32)
    write_folder(folder, tensors, made_companions(SIZES, tokenizer, {"colour": "color"}, HEADS))
    return folder


def changed(folder: Path, target: Path, *, config: dict | None = None, **tensors: np.ndarray) -> Path:
    """Copy a model folder and change tensors of it, ``__`` for a point in a name, and its configuration."""
    shutil.copytree(folder, target)
    found = load_file(target / "model.safetensors") | {n.replace("__", "."): x for n, x in tensors.items()}
    save_file({n: np.ascontiguousarray(x) for n, x in found.items()}, target / "model.safetensors")
    about = json.loads((target / "config.json").read_text()) | (config or {})
    (target / "config.json").write_text(json.dumps(about))
    return target


def state(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a Hugging Face folder."""
    from speechmerge.whisper.checkpoints import open_checkpoint

    model = open_checkpoint(folder)
    return {name: model.read(name) for name in model.shapes}
