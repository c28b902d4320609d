"""``config.json`` and ``generation_config.json`` as files: what they must say for a folder to be a Whisper."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .tensor_files import read_if_there, read_json

SIZES = (
    "vocab_size",
    "num_mel_bins",
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_layers",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "max_source_positions",
    "max_target_positions",
)
RECORD = "speechmerge.json"  # what the library notes in a folder it wrote: source, precision, fingerprint
PADDING = (8, 128)  # a padded table has a multiple of the first many rows, and fewer than the second too many
RENAMED = {"<|nocaptions|>": "<|nospeech|>", "<|iw|>": "<|he|>"}  # old names of special tokens
NEEDED = ("decoder_start_token_id", "no_timestamps_token_id")
FOR_LANGUAGES = ("lang_to_id", "task_to_id")


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a Whisper.

    Raises:
        CheckpointError: it is missing, describes another model or lacks a size.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json; expected a Hugging Face Whisper folder.")
    config = read_json(path)
    missing = [key for key in SIZES if key not in config]
    if config.get("model_type") != "whisper" or missing:
        raise CheckpointError(
            f"{path} describes a model of type {config.get('model_type')!r} and lacks {', '.join(missing) or 'no size'}"
            "; expected type 'whisper' with all its sizes."
        )
    return config


def is_whisper(folder: Path) -> bool:
    """Tell whether ``config.json`` describes a Whisper with all its sizes."""
    config = read_if_there(folder / "config.json")
    return config.get("model_type") == "whisper" and all(key in config for key in SIZES)


def lacking(found: Mapping[str, Any]) -> list[str]:
    """Return what ``generate(language=…, task=…)`` needs and these settings do not give."""
    needed = (*NEEDED, *(FOR_LANGUAGES if found.get("is_multilingual", True) else ()))
    return [key for key in needed if found.get(key) is None]


def padded(rows: int, named: int) -> bool:
    """Tell whether a table of so many rows may be that of so many tokens, padded to a round number."""
    return rows >= named and (rows == named or (rows % PADDING[0] == 0 and rows - named < PADDING[1]))


def tokens(folder: Path) -> dict[int, str]:
    """Return the tokens of a folder's tokenizer by id, under their newest names; none where it has no tokenizer."""
    whole, added = folder / "tokenizer.json", folder / "added_tokens.json"
    known = {} if whole.is_file() else read_if_there(folder / "vocab.json")
    if whole.is_file():
        content = read_json(whole)
        try:
            known = dict(content["model"]["vocab"])
            known |= {token["content"]: token["id"] for token in content.get("added_tokens", ())}
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{whole}: the tokenizer cannot be loaded ({error!r}); copy it again.") from error
    if known and added.is_file():  # transformers adds what the other files lack
        known = read_json(added) | known
    return {i: RENAMED.get(name, name) for name, i in known.items()}
