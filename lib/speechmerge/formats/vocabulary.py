"""Whisper's vocabulary between a tokenizer and the bare list of byte strings that other programs store.

A byte-pair tokenizer joins the pair that makes the token with the lowest id first, so its merges follow from the list
alone; and Whisper's special tokens stand behind it in an order that openai/whisper and whisper.cpp count on.
"""

import itertools
from collections.abc import Mapping, Sequence

from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from ..errors import CheckpointError
from ..whisper.companions import built_tokenizer
from ..whisper.generation import END_OF_ENGLISH_ONLY, FIRST_TIMESTAMP, TASKS, TIMESTAMPS

END_OF_MULTILINGUAL = 50257  # id of <|endoftext|> behind the tokens of many languages
ENDS = (END_OF_ENGLISH_ONLY, END_OF_MULTILINGUAL)
MARKS = (*TASKS, "startoflm", "startofprev", "nospeech", "notimestamps")  # between languages and timestamps
OTHER_NAMES = {"<|nospeech|>": "<|nocaptions|>", "<|he|>": "<|iw|>"}  # in older tokenizers
FIXED = 2 + len(MARKS) + TIMESTAMPS  # special tokens beside the languages: end, start, marks, timestamps
PRINTED = (range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1), range(ord("®"), ord("ÿ") + 1))


def _letters() -> dict[int, str]:
    """Return GPT-2's letter for each byte: itself where it is printed, else the next letter from U+0100 on."""
    shown = {byte for part in PRINTED for byte in part}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


LETTERS = _letters()
BYTES = {letter: byte for byte, letter in LETTERS.items()}


def texts(tokenizer: WhisperTokenizer, rows: int) -> list[str]:
    """Return every token as the tokenizer spells it, by id; timestamps that it leaves out follow, then padding."""
    known = {i: text for text, i in tokenizer.get_vocab().items()}
    absent = 0 if FIRST_TIMESTAMP in known.values() else TIMESTAMPS
    more = [f"<|{0.02 * i:.2f}|>" for i in range(absent)]
    more += [f"<|padding{i}|>" for i in range(rows - len(known) - absent)]
    return [known.get(i, f"<|unused{i}|>") for i in range(min(rows, len(known)))] + more[: max(0, rows - len(known))]


def stored(tokenizer: WhisperTokenizer) -> list[bytes]:
    """Return the bytes of every token before ``<|endoftext|>``, by id.

    Raises:
        CheckpointError: a token is spelt with a letter that stands for no byte.
    """
    found = texts(tokenizer, tokenizer.eos_token_id)
    try:
        return [bytes(BYTES[letter] for letter in text) for text in found]
    except KeyError as error:
        raise CheckpointError(
            f"The tokenizer has a token with the letter {error.args[0]!r}, which stands for no byte; it is no "
            "Whisper's. Give the tokenizer of the model."
        ) from error


def check_order(tokenizer: WhisperTokenizer, rows: int, where: str, program: str) -> None:
    """Raise unless all special tokens have the ids that a program counts out for itself, from so many rows.

    Raises:
        CheckpointError: one has another id, or tokens were added.
    """
    known, end = tokenizer.get_vocab(), tokenizer.eos_token_id
    languages = [f"<|{code}|>" for code in LANGUAGES]
    count = sum(name in known or OTHER_NAMES.get(name) in known for name in languages)
    wanted = ["<|endoftext|>", "<|startoftranscript|>", *languages[:count], *(f"<|{mark}|>" for mark in MARKS)]
    for i, name in enumerate(wanted, end):
        found = known.get(name, known.get(OTHER_NAMES.get(name, "")))
        if end not in ENDS or found != i:
            raise CheckpointError(
                f"{where}: the tokenizer gives {name} the id {found}, and {program} takes it for "
                f"{i if end in ENDS else i - end + END_OF_MULTILINGUAL} whatever the tokenizer says; only the "
                "vocabularies of OpenAI's Whispers can be written for it. Convert to hf or ctranslate2."
            )
    if rows != end + FIXED + count:
        raise CheckpointError(
            f"{where}: the model has {rows} tokens, {rows - end - FIXED - count} more than an OpenAI Whisper of "
            f"{count} languages, and {program} would count the special tokens wrongly. Convert to hf or ctranslate2."
        )


def tokenizer(tokens: Sequence[bytes], rows: int, max_length: int, where: str) -> WhisperTokenizer:
    """Build a tokenizer from the bytes of its ordinary tokens.

    Args:
        tokens: by id; ``<|endoftext|>`` comes behind them.
        rows: tokens of the model, the special ones included.
        max_length: tokens of a whole output.
        where: the file, for messages.

    Raises:
        CheckpointError: the rows left for special tokens are not those of a Whisper.
    """
    languages = rows - len(tokens) - FIXED
    if not 0 < languages <= len(LANGUAGES) or len(set(tokens)) != len(tokens):
        raise CheckpointError(
            f"{where} holds {len(set(tokens))} different tokens for {rows} rows of the token table, which leaves "
            f"{languages} for languages; expected between 1 and {len(LANGUAGES)}. Give --tokenizer, a folder with the "
            "tokenizer of this model."
        )
    spelt = {_spelt(token): i for i, token in enumerate(tokens)}
    pairs = [(_spelt(a), _spelt(b)) for a, b in merges({token: i for i, token in enumerate(tokens)})]
    marks = ["endoftext", "startoftranscript", *list(LANGUAGES)[:languages], *MARKS]
    return built_tokenizer(spelt, pairs, marks, max_length)


def merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the merges of a byte-pair vocabulary, first to last: what each token is made of by those before it."""
    found = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1 and len(parts := _parts(token, rank, ranks)) == 2:
            found.append((parts[0], parts[1]))
    return found


def _parts(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Join the bytes of a token by the merges of lower rank alone."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        lowest, at = min(pairs)
        if lowest >= rank:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _spelt(token: bytes) -> str:
    return "".join(LETTERS[byte] for byte in token)
