"""The ``.pt`` files of openai/whisper, read without unpickling anything but tensors and written tensor by tensor.

Such a file is PyTorch's archive of ``{"dims": sizes, "model_state_dict": tensors}``. It is opened with tensors that
have no memory, which say where their numbers lie. The heads for word timestamps are no part of it: openai/whisper knows
them by the name of its own models. What is written here keeps them in a third entry, which ``load_model`` passes over:
``model.set_alignment_heads(torch.load(file)["alignment_heads"])``.
"""

import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.serialization import skip_data

from ..errors import CheckpointError
from ..whisper.conversion import hf_to_openai, openai_to_hf
from ..whisper.foreign import Foreign, of_entries, precision
from ..whisper.tensor_files import DTYPES, Entry
from . import alignment
from .model import TABLE, Model

PROGRAM = "openai/whisper"
HEADS = "alignment_heads"
DIMS = {  # sizes in the words of openai/whisper and of Hugging Face
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}


def open_openai(path: Path) -> Foreign:
    """Open a ``.pt`` file of openai/whisper.

    Raises:
        CheckpointError: not such a file, one that holds more than numbers and tensors, or a damaged one.
    """
    dims, tensors, heads = _contents(path)
    sizes = {DIMS[key]: dims[key] for key in DIMS}
    sizes |= {f"{side}_ffn_dim": 4 * sizes["d_model"] for side in ("encoder", "decoder")}
    entries = {openai_to_hf(name): _entry(path, name, tensor) for name, tensor in tensors.items()}
    if TABLE not in entries:
        raise CheckpointError(f"{path} holds no decoder.token_embedding.weight; expected a model of openai/whisper.")
    model = of_entries(path, entries)
    known = alignment.unpacked(heads, sizes) if isinstance(heads, str) else None
    return Foreign(sizes, model, precision(model.dtypes), alignment_heads=known or None)


def _contents(path: Path) -> tuple[dict[str, int], dict[str, Tensor], Any]:
    """Return sizes, tensors without memory, and what is said of heads for word timestamps."""
    try:
        with FakeTensorMode():
            found = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is a pickle that holds more than tensors, which can run code when opened, and is refused; save "
            'only {"dims": …, "model_state_dict": …} as openai/whisper does.'
        ) from error
    except Exception as error:  # whatever PyTorch's reader says of a damaged archive: RuntimeError, EOFError, KeyError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is truncated or damaged ({reason}); copy the file again.") from error
    dims, tensors = (found.get(key) if isinstance(found, dict) else None for key in ("dims", "model_state_dict"))
    if not isinstance(dims, dict) or not isinstance(tensors, dict):
        raise CheckpointError(
            f"{path} holds no dims with a model_state_dict; expected a model of openai/whisper. Of a model of "
            "transformers give the folder, saved with save_pretrained."
        )
    odd = [key for key in DIMS if not isinstance(dims.get(key), int)]
    if odd or dims["n_text_state"] != dims["n_audio_state"]:
        raise CheckpointError(f"{path}: dims lack {', '.join(odd) or 'one width for both halves'}; copy it again.")
    return dims, tensors, found.get(HEADS)


def _entry(path: Path, name: str, tensor: Any) -> Entry:
    """Return where a tensor lies in the archive, which stores it uncompressed."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or not tensor.is_contiguous():
        raise CheckpointError(f"{path}: {name!r} is no tensor in row order; save the model's state_dict again.")
    if tensor.dtype not in DTYPES.values():
        raise CheckpointError(f"{path}: {name!r} is stored as {tensor.dtype}; save the model in float32.")
    size = tensor.element_size()
    start = tensor.untyped_storage()._checkpoint_offset + tensor.storage_offset() * size
    return Entry(path, name, tensor.dtype, tuple(tensor.shape), start, size * tensor.numel())


def write(path: Path, model: Model, dtype: torch.dtype) -> None:
    """Write the file: first the archive with room for the tensors, then each at its place, with its checksum.

    Rows of the token table that only pad it are left out.
    """
    sizes = model.about.config | {"vocab_size": model.rows()}
    with FakeTensorMode():
        room = {
            hf_to_openai(name): torch.empty((sizes["vocab_size"], *shape[1:]) if name == TABLE else shape, dtype=dtype)
            for name, shape in model.checkpoint.shapes.items()
        }
    with skip_data(materialize_fake_tensors=True):
        dims = {key: sizes[name] for key, name in DIMS.items()}
        heads = model.about.generation.get("alignment_heads")
        told = {HEADS: alignment.packed(heads, sizes)} if heads else {}
        torch.save({"dims": dims, "model_state_dict": room} | told, path)
    _, tensors, _ = _contents(path)
    with zipfile.ZipFile(path) as archive:
        directory, offsets = archive.start_dir, {}
        for about in archive.infolist():
            offsets[about.filename.partition("/")[2]] = directory
            directory += 46 + len(about.orig_filename.encode()) + len(about.extra) + len(about.comment)
    with path.open("r+b") as file:
        for number, (name, tensor) in enumerate(tensors.items()):
            entry = _entry(path, name, tensor)
            values = model.tensor(openai_to_hf(name), dtype)
            data = memoryview(values.view(-1)[: tensor.numel()].view(torch.uint8).numpy())
            checksum = struct.pack("<I", zlib.crc32(data))
            file.seek(entry.start)
            file.write(data)
            file.seek(entry.start + entry.size + 4)  # behind the mark of the record's end
            file.write(checksum)
            file.seek(offsets[f"data/{number}"] + 16)
            file.write(checksum)
