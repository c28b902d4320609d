"""Random models of Whisper's shapes: a base, and experts whose updates are of the size that fine-tuning makes."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from speechmerge.merging.output import layout, write_weights
from speechmerge.whisper.checkpoints import Checkpoint, open_checkpoint

SIZES = {  # width, layers of each stack, mel bins, vocabulary
    "tiny": (384, 4, 80, 51865),
    "base": (512, 6, 80, 51865),
    "small": (768, 12, 80, 51865),
    "medium": (1024, 24, 80, 51865),
    "large-v3": (1280, 32, 128, 51866),
}
FRAMES, TOKENS = 1500, 448  # positions of encoder and decoder
UPDATE = 1e-3  # size of an expert's update relative to the base
COMMON = 0.2  # cosine between the updates of two experts
POOL = (1 << 24) + 43  # normal numbers drawn for one model; longer models read them again, at other places
SINUSOID, TABLE, HEAD = "model.encoder.embed_positions.weight", "model.decoder.embed_tokens.weight", "proj_out.weight"


def shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a Whisper of this size, the tied head included."""
    width, layers, mels, vocabulary = SIZES[size]
    found = {"model.encoder.conv1.weight": (width, mels, 3), "model.encoder.conv1.bias": (width,)}
    found |= {"model.encoder.conv2.weight": (width, width, 3), "model.encoder.conv2.bias": (width,)}
    found |= {SINUSOID: (FRAMES, width), TABLE: (vocabulary, width)}
    found |= {"model.decoder.embed_positions.weight": (TOKENS, width)}
    for stack in ("encoder", "decoder"):
        for i in range(layers):
            found |= _layer(f"model.{stack}.layers.{i}", width, crossed=stack == "decoder")
        found |= {f"model.{stack}.layer_norm.{kind}": (width,) for kind in ("weight", "bias")}
    return dict(sorted((found | {HEAD: (vocabulary, width)}).items()))


def _layer(name: str, width: int, *, crossed: bool) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one block."""
    found = {}
    for attention in ("self_attn", "encoder_attn")[: 1 + crossed]:
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found[f"{name}.{attention}.{part}.weight"] = (width, width)
            if part != "k_proj":
                found[f"{name}.{attention}.{part}.bias"] = (width,)
        found |= {f"{name}.{attention}_layer_norm.{kind}": (width,) for kind in ("weight", "bias")}
    found |= {f"{name}.fc1.weight": (4 * width, width), f"{name}.fc1.bias": (4 * width,)}
    found |= {f"{name}.fc2.weight": (width, 4 * width), f"{name}.fc2.bias": (width,)}
    return found | {f"{name}.final_layer_norm.{kind}": (width,) for kind in ("weight", "bias")}


def make(folder: Path, size: str, experts: int, dtype: torch.dtype = torch.float32) -> list[Path]:
    """Write a base and experts below ``folder``; returns their folders, the base first."""
    base = _write(folder / "base", size, _random(size, seed=0), dtype)
    tuned = []
    model = open_checkpoint(base)
    for i in range(experts):
        updates = zip(
            _random(size, seed=1, still=(SINUSOID,)), _random(size, seed=i + 2, still=(SINUSOID,)), strict=True
        )
        moved = (
            (n, model.read(n if n != HEAD else TABLE).float() + UPDATE * (COMMON**0.5 * a + (1 - COMMON) ** 0.5 * b))
            for (n, a), (_, b) in updates
        )
        tuned.append(_write(folder / f"expert{i}", size, moved, dtype))
    return [base, *tuned]


def kept(folder: Path, size: str, experts: int = 5) -> list[Path]:
    """Return the folders of a base and experts of a size below ``folder``, made unless they are there."""
    models = folder / size
    folders = [models / name for name in ("base", *(f"expert{i}" for i in range(experts)))]
    return folders if folders[-1].is_dir() else make(models, size, experts)


def _random(size: str, *, seed: int, still: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Yield views of a pool of normal numbers of standard deviation 0.02, the tied head equal to its table."""
    pool = 0.02 * torch.randn(POOL, generator=torch.Generator().manual_seed(seed))
    start, table = 0, None
    for name, shape in shapes(size).items():
        count = math.prod(shape)
        values = torch.empty(count)
        done = 0
        while done < count:
            some = min(count - done, POOL - start)
            values[done : done + some] = pool[start : start + some]
            start, done = (start + some) % POOL, done + some
        table = values.view(shape) if name == TABLE else table
        yield name, torch.zeros(shape) if name in still else table if name == HEAD else values.view(shape)


def _write(folder: Path, size: str, tensors: Iterator[tuple[str, Tensor]], dtype: torch.dtype) -> Path:
    """Write a model folder tensor by tensor, the tied head stored as in a model's own state dict."""
    folder.mkdir(parents=True)
    plan = layout(Checkpoint(size, None, shapes(size), dict.fromkeys(shapes(size), dtype), None, None), dtype)
    write_weights(folder, ((name, tensor.to(dtype)) for name, tensor in tensors), plan)
    (folder / "config.json").write_text(json.dumps(_config(size)))
    wanted = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
    (folder / "generation_config.json").write_text(json.dumps(dict.fromkeys(wanted, 1) | {"is_multilingual": True}))
    return folder


def _config(size: str) -> dict:
    """Return a configuration that lets mergekit 0.1.5 merge the folder.

    Its table of Whisper's tensors misspells the decoder's, and without the table it merges the decoder alone. Seven
    heads fit no width, so that no model can be built from the file, and it then goes by the names it finds.
    """
    width, layers, mels, vocabulary = SIZES[size]
    heads = {"encoder_attention_heads": 7, "decoder_attention_heads": 7}
    names = {"architectures": ["SpeechForConditionalGeneration"], "model_type": "whisper"}
    sizes = {"d_model": width, "encoder_layers": layers, "decoder_layers": layers, "num_hidden_layers": layers}
    return names | heads | sizes | {"num_mel_bins": mels, "vocab_size": vocabulary}
