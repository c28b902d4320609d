"""A Whisper model as a Hugging Face folder: its configuration, its generation settings, writing and checking it."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from ..errors import CheckpointError

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
POSITIONS_A_SECOND = 50  # one encoder position covers 20 ms
TIMESTAMPS = 1501  # <|0.00|> to <|30.00|>, every 20 ms
TASKS = ("translate", "transcribe")
END_OF_ENGLISH_ONLY = 50256  # id of <|endoftext|> in GPT-2's vocabulary, which the .en models keep
RECORD = "speechmerge.json"  # what the library notes in a folder it wrote: source, precision, fingerprint
LAYOUT = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "normalizer.json",
)

# Symbols that no transcript contains; the rule is that of openai/whisper, tokenizer.py, ``non_speech_tokens``.
SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))"),
    *("[[", "]]", "{{", "}}", "♪♪", "♪♪♪"),
)
MUSIC = "♩♪♫♬♭♮♯"


def config_for(sizes: Mapping[str, int], tokenizer: WhisperTokenizer) -> WhisperConfig:
    """Return a configuration with these ``SIZES``, no dropout, and nothing that belongs to generation."""
    end = tokenizer.eos_token_id
    return WhisperConfig(
        **{key: sizes[key] for key in SIZES},
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
        begin_suppress_tokens=None,
        architectures=["WhisperForConditionalGeneration"],
    )


def suppressed_tokens(tokenizer: WhisperTokenizer) -> list[int]:
    """Return the ids that decoding never emits: symbols that are not speech, and the task tokens.

    On Whisper's own tokenizer this is exactly the official list. A single byte that other characters share, as in the
    ``smoke`` tokenizer, stays allowed.
    """

    def pieces(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def shared(token: int) -> bool:
        return len(tokenizer.convert_ids_to_tokens(token)) == 1 and tokenizer.decode([token]) in (" ", "\ufffd")

    ids = {pieces(" -")[0], pieces(" '")[0]}
    for symbol in [*SYMBOLS, *MUSIC]:
        for found in (pieces(symbol), pieces(" " + symbol)):
            if len(found) == 1 or symbol in MUSIC:
                ids.add(found[0])
    known = tokenizer.get_vocab()
    special = ("startoftranscript", *TASKS, "startoflm", "startofprev", "nocaptions", "nospeech")
    marks = {known[f"<|{name}|>"] for name in special if f"<|{name}|>" in known}
    return sorted({i for i in ids if not shared(i)} | marks)


def generation_config(
    tokenizer: WhisperTokenizer, max_length: int = 448, alignment_heads: list[list[int]] | None = None
) -> GenerationConfig:
    """Build the settings with which ``generate(language=…, task=…, max_new_tokens=…)`` works in every language.

    Args:
        tokenizer: the model's tokenizer; every id is looked up in it.
        max_length: tokens of a whole output where ``generate`` is called without ``max_new_tokens``.
        alignment_heads: ``[layer, head]`` pairs for word timestamps, where the source gives them.
    """
    known = tokenizer.get_vocab()
    end = tokenizer.eos_token_id
    settings: dict[str, object] = {
        "is_multilingual": end != END_OF_ENGLISH_ONLY,
        "no_timestamps_token_id": known["<|notimestamps|>"],
        "suppress_tokens": suppressed_tokens(tokenizer),
        "begin_suppress_tokens": [tokenizer.encode(" ", add_special_tokens=False)[0], end],
        "max_initial_timestamp_index": POSITIONS_A_SECOND,  # the first timestamp lies in the first second
        "return_timestamps": False,
        "max_length": max_length,
    }
    if settings["is_multilingual"]:
        settings["lang_to_id"] = {f"<|{code}|>": known[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in known}
        settings["task_to_id"] = {task: known[f"<|{task}|>"] for task in TASKS}
    if alignment_heads:
        settings["alignment_heads"] = alignment_heads
    start = known["<|startoftranscript|>"]
    return GenerationConfig(
        bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=start, **settings
    )


def _whispers_own_note(record: logging.LogRecord) -> bool:
    """Drop what ``generate`` of transformers 5 says about arguments that its own Whisper code adds or never reads.

    Whisper's encoder has no attention mask: the 30 s window is always full.
    """
    own = ("Both `max_new_tokens`", "Passing `generation_config` together with", "The attention mask is not set")
    return not record.getMessage().startswith(own)


logging.getLogger("transformers.generation.utils").addFilter(_whispers_own_note)


def check_generation(folder: Path) -> None:
    """Check that the folder's generation settings can ``generate`` with a language and a task.

    Raises:
        CheckpointError: the file is missing, lacks an entry, or forces tokens in the old way.
    """
    path = folder / "generation_config.json"
    cure = "Copy generation_config.json from the base model's folder."
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, so the model cannot generate. {cure}")
    found = json.loads(path.read_text(encoding="utf-8"))
    needed = ["decoder_start_token_id", "eos_token_id", "no_timestamps_token_id", "is_multilingual"]
    needed += ["lang_to_id", "task_to_id"] if found.get("is_multilingual") else []
    missing = [key for key in needed if found.get(key) is None]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}, which generate() needs to choose a language. {cure}")
    if found.get("forced_decoder_ids"):
        raise CheckpointError(f"{path} sets forced_decoder_ids, which overrides language and task. {cure}")


def check_tokenizer(tokenizer: WhisperTokenizer, vocab_size: int, where: str) -> None:
    """Check that a tokenizer has as many tokens as the model; it may leave out the timestamps, which are the last.

    Raises:
        CheckpointError: another number, such as a tokenizer of an English-only model beside multilingual weights.
    """
    if vocab_size - len(tokenizer) not in (0, TIMESTAMPS):
        raise CheckpointError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens and the model {vocab_size}; an English-only (.en) and "
            "a multilingual Whisper differ by one. Put the tokenizer of this very model into the folder."
        )


def check_shapes(shapes: Mapping[str, tuple[int, ...]], config: WhisperConfig, where: str) -> None:
    """Compare names and shapes of tensors with the model that ``config`` describes, without allocating it.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape.
    """
    expected = model_shapes(config)
    missing, unknown = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{where} has {len(shapes)} tensors, expected {len(expected)} by its configuration: missing "
            f"{', '.join(missing[:3]) or 'none'}, unknown {', '.join(unknown[:3]) or 'none'}. Give a Whisper model."
        )
    for name, shape in expected.items():
        if tuple(shapes[name]) != shape:
            raise CheckpointError(
                f"{where}: tensor {name} has shape {list(shapes[name])}, its configuration expects {list(shape)}; "
                "weights and config.json belong to different models."
            )


def model_shapes(config: WhisperConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor but the tied ``proj_out.weight``."""
    with torch.device("meta"):
        state = WhisperForConditionalGeneration(config).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if name != "proj_out.weight"}


def write_folder(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    config: WhisperConfig,
    tokenizer: WhisperTokenizer,
    normalizer: Mapping[str, str],
    alignment_heads: list[list[int]] | None = None,
) -> None:
    """Write weights (float32, without the tied ``proj_out``), configuration, tokenizer and normaliser into ``folder``.

    Raises:
        CheckpointError: the tensors are not those of ``config``, or one holds a value that is not finite.
    """
    check_shapes({name: values.shape for name, values in tensors.items()}, config, "The model to be written")
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"Tensor {name} holds a value that is not finite; its source is damaged, fetch it again."
            )
    weights = folder / "model.safetensors"
    save_file(dict(tensors), weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    config.save_pretrained(folder)
    generation_config(tokenizer, config.max_target_positions, alignment_heads).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    seconds = config.max_source_positions // POSITIONS_A_SECOND
    WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=seconds).save_pretrained(folder)
    (folder / "normalizer.json").write_text(json.dumps(dict(normalizer), ensure_ascii=False), encoding="utf-8")
