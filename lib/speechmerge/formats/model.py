"""A model on its way from one format to another: tensors read one at a time, and what is said beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..whisper.checkpoints import Checkpoint, finite
from ..whisper.companions import Companions
from ..whisper.generation import unnamed

TABLE = "model.decoder.embed_tokens.weight"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """A model that was opened and checked.

    Attributes:
        path: what was given.
        kind: its format, one of :data:`speechmerge.formats.reading.KINDS`.
        checkpoint, about: its tensors, and all else.
        precision: how its tensors are stored, as in :class:`speechmerge.whisper.foreign.Foreign`; more than one word
            where they differ.
        said: what was changed or added.
    """

    path: Path
    kind: str
    checkpoint: Checkpoint
    about: Companions
    precision: str
    said: tuple[str, ...] = ()

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return a tensor in a number format.

        Raises:
            CheckpointError: it holds a value that is not finite, or one that is too large for the format.
        """
        return self.narrowed(name, self.checkpoint.read(name), dtype)

    def narrowed(self, name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Return numbers of a tensor in a number format; otherwise as :meth:`tensor`."""
        found = values.to(dtype)
        if values.is_floating_point() and not finite(found):
            largest = values.abs().max().item()
            raise CheckpointError(
                f"{self.path}: tensor {name!r} holds numbers up to {largest:g}, more than "
                f"{str(dtype).removeprefix('torch.')} can hold ({torch.finfo(dtype).max:g}); give --dtype float32."
            )
        return found.contiguous()

    def rows(self) -> int:
        """Return how many rows of the token table stand for a token; padding follows them."""
        return unnamed(self.about.tokenizer, self.about.config, str(self.path)).start

    def bytes(self, size: int) -> int:
        """Return how many bytes its scalars take at so many each."""
        return size * sum(torch.Size(shape).numel() for shape in self.checkpoint.shapes.values())


def check_widths(model: Model, program: str) -> None:
    """Raise unless the inner layers are four times as wide as the model, which some programs count on."""
    config: Mapping[str, int] = model.about.config
    for side in ("encoder", "decoder"):
        if config[f"{side}_ffn_dim"] != 4 * config["d_model"]:
            raise CheckpointError(
                f"{model.path}: {side}_ffn_dim is {config[f'{side}_ffn_dim']}, and {program} takes it for four times "
                f"d_model, {4 * config['d_model']}; convert to hf or ctranslate2."
            )
