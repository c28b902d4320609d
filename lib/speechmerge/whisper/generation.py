"""Whisper's generation settings: built from a tokenizer, or a folder's own where ``generate`` can use them."""

import logging
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from ..errors import CheckpointError
from .configuration import lacking, padded

POSITIONS_A_SECOND = 50  # one encoder position covers 20 ms
TIMESTAMPS = 1501  # <|0.00|> to <|30.00|>, every 20 ms
FIRST_TIMESTAMP, LAST_TIMESTAMP = "<|0.00|>", "<|30.00|>"
TASKS = ("translate", "transcribe")
END_OF_ENGLISH_ONLY = 50256  # id of <|endoftext|> in GPT-2's vocabulary, which the .en models keep
ALWAYS = ("eos_token_id", "is_multilingual")  # said by every settings of today
OLD = ("forced_decoder_ids", "_from_model_config")  # of older files; they override what else is said
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")  # idle without sampling, and then refused on saving

# Symbols that no transcript contains; the rule is that of openai/whisper, tokenizer.py, ``non_speech_tokens``.
SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))"),
    *("[[", "]]", "{{", "}}", "♪♪", "♪♪♪"),
)
MUSIC = "♩♪♫♬♭♮♯"


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


def settings(
    found: Mapping[str, Any], tokenizer: WhisperTokenizer, config: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], list[str]]:
    """Return generation settings that choose a language, and what was changed in those found to get there.

    Settings that can choose one are kept. Others are completed from the tokenizer; what they do say stays. Tokens that
    older files force are left out, for they name one language; rows of the table without a token are suppressed.

    Raises:
        CheckpointError: they belong to another tokenizer.
    """
    whole = generation_config(tokenizer, config["max_target_positions"]).to_dict()
    left_out = OLD if found.get("do_sample") else (*OLD, *SAMPLING)
    kept, said = {key: value for key, value in found.items() if key not in left_out}, []
    if missing := [*lacking(found), *(key for key in ALWAYS if found.get(key) is None)]:
        kept = {key: value for key, value in (whole | _given(kept)).items() if key not in OLD}
        said.append(f"generation_config.json lacks {', '.join(missing)}, made anew from the tokenizer")
    if found.get("forced_decoder_ids") or config.get("forced_decoder_ids"):
        said.append("forced_decoder_ids, which fix a language and a task, are left out")
    _check_tokens(kept, whole, tokenizer, where)
    suppressed = {i for i in kept.get("suppress_tokens") or () if 0 <= i < config["vocab_size"]}
    if nameless := set(unnamed(tokenizer, config, where)) - suppressed:
        said.append(f"{len(nameless)} rows of the token table stand for no token and are suppressed")
    kept["suppress_tokens"] = sorted(suppressed | nameless) or None
    return _given(kept), said


def _given(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value is not None}


def _check_tokens(found: Mapping[str, Any], whole: Mapping[str, Any], tokenizer: WhisperTokenizer, where: str) -> None:
    """Raise if settings and tokenizer disagree about a token's id."""
    known = tokenizer.get_vocab()
    pairs = [(key, found[key], whole[key]) for key in ("decoder_start_token_id", "no_timestamps_token_id")]
    pairs += [(name, i, known.get(name, i)) for name, i in (found.get("lang_to_id") or {}).items()]
    for name, told, right in pairs:
        if told != right:
            raise CheckpointError(
                f"{where}: generation_config.json gives {name} the id {told}, the tokenizer {right}; one of the two is "
                "another model's. Copy both from one model."
            )


def unnamed(tokenizer: WhisperTokenizer, config: Mapping[str, Any], where: str) -> range:
    """Return the rows of the token table that stand for no token: it may be padded to a round number.

    A tokenizer may leave out the timestamps, which are Whisper's last tokens.

    Raises:
        CheckpointError: another number of tokens, such as an English-only tokenizer beside multilingual weights.
    """
    rows, known = config["vocab_size"], tokenizer.get_vocab()
    absent = 0 if FIRST_TIMESTAMP in known else TIMESTAMPS
    named = len(tokenizer) + (absent if rows >= len(tokenizer) + absent else 0)
    whole = (FIRST_TIMESTAMP in known) == (LAST_TIMESTAMP in known)
    same = config.get("eos_token_id", tokenizer.eos_token_id) == tokenizer.eos_token_id
    if not padded(rows, named) or (rows > named and not (whole and same)):
        raise CheckpointError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens and the model {rows}; an English-only (.en) and "
            "a multilingual Whisper differ by one. Put the tokenizer of this very model into the folder."
        )
    return range(named, rows)
