"""LoRA experts: peft folders read as if they were full models, base plus low-rank update."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..whisper.checkpoints import Checkpoint, header, read_entry, read_json
from ..whisper.weight_files import holds_model

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PLACE = re.compile(r"^base_model\.model\.(.+)$")
_PART = re.compile(r"^(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(?:\.weight)?$")


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds a peft adapter instead of a model."""
    return (folder / CONFIG).is_file() and not holds_model(folder)


def open_adapter(folder: Path, base: Checkpoint) -> Checkpoint:
    """Open a peft LoRA folder as the model it makes of ``base``: W0 + s·BA, with s = α/r, or α/√r for rank-stabilised.

    Tensors the adapter stores whole (``modules_to_save``, biases) replace the base's.

    Raises:
        CheckpointError: not a LoRA, a variant that is no plain low-rank update, or it does not fit the base.
    """
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise CheckpointError(
            f"{folder} is a {'DoRA' if config.get('use_dora') else config.get('peft_type')} adapter; only plain LoRA "
            "can be read as a task vector. Merge the adapter into its model first, and give that model's folder."
        )
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder} holds no {WEIGHTS}; save the adapter with safe_serialization=True.")
    whole, parts = {}, {}
    for entry in header(folder / WEIGHTS):
        place = _PLACE.match(entry.stored_name)
        name = place[1] if place else entry.stored_name
        if found := _PART.match(name):
            parts.setdefault(f"{found[1]}.weight", {})[found[2]] = entry
        else:
            whole[name.replace(".modules_to_save", "").replace(".base_layer", "")] = entry
    for name in (*whole, *parts):
        if name not in base.shapes:
            raise CheckpointError(f"{folder}: the adapter changes {name!r}, which the base {base.label} does not have.")
    updates = {name: _update(folder, config, name, pair, base) for name, pair in parts.items()}
    for name, entry in whole.items():
        updates[name] = partial(read_entry, entry, 0, math.prod(base.shapes[name]))
    return _patched(base, folder, updates, set(whole))


def _update(folder: Path, config: dict, name: str, pair: dict, base: Checkpoint) -> Callable[[], Tensor]:
    """Return a function that gives one tensor's s·BA, flat, in fp32."""
    kinds = sorted(pair)
    if len(kinds) != 2 or len(base.shapes[name]) != 2:
        raise CheckpointError(
            f"{folder}: {name!r} has {', '.join(kinds)}; expected lora_A and lora_B of a linear map or table."
        )
    first, second = pair[kinds[0]], pair[kinds[1]]
    if len(first.shape) != 2 or len(second.shape) != 2 or first.shape[0] != second.shape[1]:
        raise CheckpointError(
            f"{folder}: {kinds[0]} and {kinds[1]} of {name!r} have shapes {list(first.shape)} and "
            f"{list(second.shape)}; expected [rank, n] and [m, rank]. The adapter is damaged, save it again."
        )
    table = kinds[0] == "lora_embedding_A"
    rank = first.shape[0]
    alpha = _alpha(folder, config, name.removesuffix(".weight"))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    turned = table or config.get("fan_in_fan_out", False)
    made = (first.shape[1], second.shape[0]) if turned else (second.shape[0], first.shape[1])
    if made != base.shapes[name]:
        raise CheckpointError(
            f"{folder}: the adapter's update of {name!r} has shape {list(made)}, the base's tensor "
            f"{list(base.shapes[name])}; the adapter was trained on another base."
        )

    def update() -> Tensor:
        a, b = (read_entry(e, 0, math.prod(e.shape)).float().view(e.shape) for e in (first, second))
        product = scale * (b @ a)
        return (product.mT if turned else product).reshape(-1)

    return update


def _alpha(folder: Path, config: dict, module: str) -> float:
    """Return a module's α, its own or the adapter's."""
    special = config.get("alpha_pattern") or {}
    own = (value for pattern, value in special.items() if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module))
    alpha = next(own, config.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise CheckpointError(
            f"{folder / CONFIG}: lora_alpha is {alpha!r}, expected a number; copy the file saved with the adapter."
        )
    return alpha


def _patched(base: Checkpoint, folder: Path, updates: dict[str, Callable[[], Tensor]], whole: set[str]) -> Checkpoint:
    """Return ``base`` with some tensors updated; the last one made is kept for reading in blocks."""
    made: dict[str, Tensor] = {}

    def reader(name: str, start: int, stop: int, room: Tensor | None = None) -> Tensor:
        if name not in updates:
            return base.reader(name, start, stop, room)
        if name not in made:
            made.clear()
            made[name] = updates[name]()
        part = made[name][start:stop]
        return part if name in whole else base.reader(name, start, stop).to(torch.float32) + part

    dtypes = base.dtypes | {name: torch.float32 for name in updates if name not in whole}
    return replace(base, label=str(folder), folder=None, dtypes=dtypes, head=None, reader=reader)
