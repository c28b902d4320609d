"""The cross-attention heads that follow the words in time, as published for each Whisper.

They are constants of openai/whisper (``whisper/__init__.py``, ``_ALIGNMENT_HEADS``, release 20250625), unpacked; the
models' generation settings on the Hugging Face hub say the same. A fine-tune or merge keeps those of its base.
"""

import base64
import gzip
import zlib
from collections.abc import Mapping, Sequence

HEADS = {  # "layer.head" of the decoder
    "tiny.en": "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    "tiny": "2.2 3.0 3.2 3.3 3.4 3.5",
    "base.en": "3.3 4.7 5.1 5.5 5.7",
    "base": "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    "small.en": "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4",
    "small": "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    "medium.en": "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 20.9 20.14 21.12",
    "medium": "13.15 15.4 15.15 16.1 20.0 23.4",
    "large-v1": "9.19 11.2 11.4 11.17 22.7 22.11 22.17 23.2 23.15",
    "large-v2": "10.12 13.17 16.11 16.12 16.13 17.15 17.16 18.4 18.11 18.19 19.11 21.2 21.3 22.3 22.9 22.12 23.5 23.7 "
    "23.13 25.5 26.1 26.12 27.15",
    "large-v3": "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    "large-v3-turbo": "2.4 2.11 3.3 3.6 3.11 3.14",
}
ENGLISH_ONLY = 51_864  # tokens of the models that know no other language
BY_SIZE = {  # width, decoder layers and mel bins; large-v1 and -v2 have the same, so sizes alone do not tell them apart
    (384, 4, 80): "tiny",
    (512, 6, 80): "base",
    (768, 12, 80): "small",
    (1024, 24, 80): "medium",
    (1280, 32, 128): "large-v3",
    (1280, 4, 128): "large-v3-turbo",
}


def published(sizes: Mapping[str, int]) -> tuple[str, list[list[int]]] | None:
    """Return the Whisper that has these sizes and its ``[layer, head]`` pairs; None where no one Whisper has."""
    key = (sizes["d_model"], sizes["decoder_layers"], sizes["num_mel_bins"])
    name = BY_SIZE.get(key, "") + (".en" if sizes["vocab_size"] == ENGLISH_ONLY else "")
    if name not in HEADS:
        return None
    return name, [[int(number) for number in pair.split(".")] for pair in HEADS[name].split()]


def packed(heads: Sequence[Sequence[int]], sizes: Mapping[str, int]) -> str:
    """Return ``[layer, head]`` pairs as openai/whisper's ``set_alignment_heads`` takes them, base 85 of a mask."""
    mask = bytearray(sizes["decoder_layers"] * sizes["decoder_attention_heads"])
    for layer, head in heads:
        mask[layer * sizes["decoder_attention_heads"] + head] = 1
    return base64.b85encode(gzip.compress(bytes(mask), mtime=0)).decode()


def unpacked(text: str, sizes: Mapping[str, int]) -> list[list[int]]:
    """Return the pairs of what :func:`packed` gave; none where it is nothing of these sizes."""
    layers, heads = sizes["decoder_layers"], sizes["decoder_attention_heads"]
    try:
        mask = gzip.decompress(base64.b85decode(text))
    except (ValueError, OSError, EOFError, zlib.error):
        return []
    return [list(divmod(i, heads)) for i, used in enumerate(mask) if used] if len(mask) == layers * heads else []


def last_half(sizes: Mapping[str, int]) -> list[list[int]]:
    """Return all heads of the last half of the decoder's layers, which openai/whisper takes where none are known."""
    layers, heads = sizes["decoder_layers"], sizes["decoder_attention_heads"]
    return [[layer, head] for layer in range(layers // 2, layers) for head in range(heads)]
