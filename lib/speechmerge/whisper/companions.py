"""What lies beside a Whisper's weights: read in every form that transformers reads, written in one that all tools read.

transformers writes ``tokenizer.json`` and, since version 5, the feature extractor inside ``processor_config.json``;
older folders hold ``vocab.json`` and ``merges.txt``. Converters to other formats open ``vocab.json``,
``added_tokens.json`` and ``preprocessor_config.json``. What is written here holds all of these.
"""

import functools
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import WhisperFeatureExtractor, WhisperTokenizer

from ..errors import CheckpointError
from ..files import state
from .configuration import read_config, tokens
from .generation import POSITIONS_A_SECOND, TIMESTAMPS, settings
from .tensor_files import read_if_there, read_json

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
NEEDED = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")
NOT_OF_THE_MODEL = ("forced_decoder_ids", "max_length", "torch_dtype", "transformers_weights")  # in old config.json
_MARK = re.compile(r"<\|(?!\d)[^|]+\|>")  # a special token; the timestamps are ordinary ones


@dataclass(frozen=True)
class Companions:
    """All that a model folder says beside its weights.

    Attributes:
        config: ``config.json``, without what belongs to generation or to the files of the weights.
        tokenizer, extractor: as transformers loads them.
        generation: settings that choose a language and a task (:func:`speechmerge.whisper.generation.settings`).
        normalizer: the spelling table of the English normaliser, where there is one.
        said: what was changed in the generation settings.
    """

    config: dict[str, Any]
    tokenizer: WhisperTokenizer
    extractor: WhisperFeatureExtractor
    generation: dict[str, Any]
    normalizer: dict[str, str] | None = None
    said: tuple[str, ...] = ()


def read(folder: Path) -> Companions:
    """Read what lies beside the weights, and check that it belongs to one model that can generate.

    What was read is kept until a file changes: building a tokenizer takes ten times as long as mapping the weights of a
    small model. It must not be changed.

    Raises:
        CheckpointError: a file is missing or damaged, or they belong to different models.
    """
    files = [
        path for path in sorted(folder.absolute().glob("*")) if path.suffix in (".json", ".txt") and path.is_file()
    ]
    return _read(folder, tuple(map(state, files)))


@functools.lru_cache(maxsize=4)
def _read(folder: Path, _: tuple[tuple[str, int, int], ...]) -> Companions:
    config = read_config(folder)
    tokenizer = load_tokenizer(folder)
    extractor = load_feature_extractor(folder)
    if extractor.feature_size != config["num_mel_bins"]:
        raise CheckpointError(
            f"{folder}: the feature extractor makes {extractor.feature_size} mel bins, config.json expects "
            f"{config['num_mel_bins']}; copy preprocessor_config.json from this very model."
        )
    found = read_if_there(folder / "generation_config.json")
    generation, said = settings(found, tokenizer, config, str(folder))
    config = {key: value for key, value in config.items() if key not in NOT_OF_THE_MODEL}
    config |= {"suppress_tokens": None, "begin_suppress_tokens": None}
    config["tie_word_embeddings"] = True  # whatever is stored, one table is read and written for both
    table = folder / "normalizer.json"
    return Companions(
        config, tokenizer, extractor, generation, read_json(table) if table.is_file() else None, tuple(said)
    )


def load_tokenizer(folder: Path) -> WhisperTokenizer:
    """Load the tokenizer of a Whisper folder, with the spelling table for its English normaliser.

    Raises:
        CheckpointError: there is none, it is damaged, or it is not Whisper's.
    """
    whole = (folder / "tokenizer.json").is_file()
    if not whole and not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise CheckpointError(
            f"{folder} holds no tokenizer (tokenizer.json, or vocab.json with merges.txt and added_tokens.json); copy "
            "the tokenizer's files of the model it was trained from."
        )
    try:
        tokenizer = WhisperTokenizer.from_pretrained(folder, clean_up_tokenization_spaces=False)
    except Exception as error:  # what the tokenizers library raises on a damaged file is Exception itself
        raise CheckpointError(f"{folder}: the tokenizer cannot be loaded ({error}); copy its files again.") from error
    known = tokenizer.get_vocab()
    if missing := [name for name in NEEDED if name not in known]:
        raise CheckpointError(f"{folder}: the tokenizer lacks {', '.join(missing)}; copy one of a Whisper.")
    if not whole:  # older files leave open which of the added tokens are special
        marks = sorted((name for name in tokenizer.get_added_vocab() if _MARK.fullmatch(name)), key=known.get)
        tokenizer.add_special_tokens({"additional_special_tokens": marks})
    return tokenizer


def built_tokenizer(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], marks: Iterable[str], max_length: int
) -> WhisperTokenizer:
    """Build a tokenizer of ordinary tokens, with special ones behind them: marks in their order, then timestamps.

    Args:
        vocabulary: ids of the ordinary tokens.
        merges: of pairs of them, first to last.
        marks: names of the special tokens, ``"endoftext"`` the first.
        max_length: tokens of a whole output.
    """
    tokenizer = WhisperTokenizer(
        vocab=vocabulary,
        merges=merges,
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<|{mark}|>" for mark in marks]})
    tokenizer.add_tokens([f"<|{0.02 * i:.2f}|>" for i in range(TIMESTAMPS)])
    tokenizer.set_prefix_tokens()
    return tokenizer


def load_feature_extractor(folder: Path) -> WhisperFeatureExtractor:
    """Load the feature extractor of a Whisper folder, log-mel frames of a 30 s window; without one, make it."""
    if any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        try:
            return WhisperFeatureExtractor.from_pretrained(folder)
        except (OSError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: the feature extractor cannot be loaded ({error}); copy preprocessor_config.json again."
            ) from error
    return feature_extractor(read_config(folder))


def feature_extractor(sizes: Mapping[str, int]) -> WhisperFeatureExtractor:
    """Return the feature extractor that belongs to these sizes."""
    seconds = sizes["max_source_positions"] // POSITIONS_A_SECOND
    return WhisperFeatureExtractor(feature_size=sizes["num_mel_bins"], chunk_length=seconds)


def write(folder: Path, about: Companions, dtype: str, source: Path | None = None) -> None:
    """Write all companions; the tokenizer's own files are taken from ``source`` as they are, where they say it all."""
    if source and all((source / name).is_file() for name in TOKENIZER) and len(tokens(source)) == len(about.tokenizer):
        for name in (*TOKENIZER, "special_tokens_map.json"):
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    else:
        about.tokenizer.save_pretrained(folder)
    about.extractor.save_pretrained(folder)
    length = {"max_length": about.config["max_target_positions"]}  # read here by older converters to ggml
    _write_json(folder / "config.json", about.config | length | {"dtype": dtype})
    _write_json(folder / "generation_config.json", about.generation)
    if about.normalizer is not None:
        _write_json(folder / "normalizer.json", about.normalizer)
    _write_vocabulary(folder)


def _write_vocabulary(folder: Path) -> None:
    """Write ``vocab.json``, ``merges.txt`` and ``added_tokens.json``, which hold what is in ``tokenizer.json``."""
    content = read_json(folder / "tokenizer.json")
    vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
    added = {t["content"]: t["id"] for t in content["added_tokens"] if t["content"] not in vocabulary}
    _write_json(folder / "vocab.json", vocabulary)
    _write_json(folder / "added_tokens.json", added)
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
