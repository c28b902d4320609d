"""The tensors of an adapter's file, sorted by what peft makes of them and named as the base names them."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..whisper.checkpoints import strip_wrappers, with_head
from ..whisper.tensor_files import Entry, header, read_entry

WEIGHTS = "adapter_model.safetensors"
_NAME = r"(?:\.(?!(?:weight|bias)$)([^.]+))?"  # an adapter's name, where the keys carry one
_PART = re.compile(
    rf"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector){_NAME}(\.weight|\.bias)?"
)
_ROWS = re.compile(rf"(.+?)(?:\.token_adapter)?\.trainable_tokens_delta{_NAME}")
_INNER = re.compile(rf"\.(?:modules_to_save{_NAME}|token_adapter|base_layer)(?=\.)")
_UNUSED = re.compile(  # once trained
    r".+\.(lora_velora_embed|lora_monteclora_sampler|trainable_tokens_original|original_module)(\..+)?"
)


@dataclass
class Stored:
    """What an adapter's file holds.

    Attributes:
        whole: tensors that take the place of the base's, by name.
        inner: names in ``whole`` that peft stored as those of a layer it works on.
        parts: A, B and DoRA's norms by module, and the bias of B as ``"bias"``.
        rows: trained rows of a table by module.
    """

    whole: dict[str, Entry] = field(default_factory=dict)
    inner: set[str] = field(default_factory=set)
    parts: dict[str, dict[str, Entry]] = field(default_factory=dict)
    rows: dict[str, Entry] = field(default_factory=dict)


def read_file(folder: Path, *, bare: bool = False) -> Stored:
    """Sort the tensors of an adapter's file.

    Those of an adapter of ``WhisperModel``, the model without its head, get the whole model's names, unless the base is
    ``bare`` as well.

    Raises:
        CheckpointError: there is no such file, or it holds several adapters.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no {WEIGHTS}; save the adapter with safe_serialization=True.")
    found, names = Stored(), {}
    for entry in header(file):
        name = strip_wrappers(strip_wrappers(entry.stored_name).removeprefix("base_model.model."))
        name = name if bare else with_head(name)
        if _UNUSED.fullmatch(name):
            continue
        if match := _PART.fullmatch(name):
            place, key = found.parts.setdefault(match[1], {}), "bias" if match[4] == ".bias" else match[2]
            own = match[3]
        elif match := _ROWS.fullmatch(name):
            place, key, own = found.rows, match[1], match[2]
        else:
            match, place, key = _INNER.search(name), found.whole, _INNER.sub("", name)
            own = match and match[1]
            found.inner |= {key} if match else set()
        if place is found.whole and key in place and _equal(entry, place[key]):
            continue  # with bias="all" peft stores a bias of modules_to_save also under its plain name
        if key in place or (own and names.setdefault("", own) != own):
            raise CheckpointError(
                f"{file} holds several adapters: {entry.stored_name!r} and others are for the same place or carry "
                "other names; save each adapter into a folder of its own."
            )
        place[key] = entry
    return found


def _equal(one: Entry, other: Entry) -> bool:
    values = (read_entry(entry, 0, math.prod(entry.shape)).view(entry.shape) for entry in (one, other))
    return torch.equal(*values)


def refuse_several(folder: Path) -> None:
    """Refuse a folder that is neither model nor adapter, but holds named adapters.

    Raises:
        CheckpointError: naming them.
    """
    named = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
    if named and not (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} holds no model but {len(named)} adapter folders: {', '.join(named)}; give one of them, such as "
            f"{folder / named[0]}."
        )
