"""The ``smoke`` base: a Whisper small enough to train in seconds, made on the spot from a seed, with nothing learnt.

It has Whisper's architecture, special tokens and 30 s window, so every step of the study runs on it unchanged; its
text is spelled byte by byte.
"""

import math
from pathlib import Path

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel
from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from .companions import built_tokenizer
from .generation import TASKS
from .whisper_folder import made_companions, model_shapes, write_folder

SEED = 0
N_LANGUAGES = 99  # of whisper-tiny to -large-v2; Cantonese came later
EMBEDDING_STD = 0.05
SPECIAL_SCALE = 0.3
SIZES = {
    "num_mel_bins": 80,
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 128,
    "max_source_positions": 1500,
    "max_target_positions": 448,
}


def byte_tokenizer() -> WhisperTokenizer:
    """Return a tokenizer of 256 byte symbols, no merges, and Whisper's special tokens in Whisper's order."""
    symbols = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    marks = ["endoftext", "startoftranscript", *list(LANGUAGES)[:N_LANGUAGES], *TASKS]
    marks += ["startoflm", "startofprev", "nocaptions", "notimestamps"]
    return built_tokenizer(symbols, [], marks, SIZES["max_target_positions"])


def sinusoids(positions: int, channels: int) -> np.ndarray:
    """Return Whisper's fixed encoder positions, shape ``[positions, channels]``: sines, then cosines."""
    rates = np.exp(-np.log(10_000) / (channels // 2 - 1) * np.arange(channels // 2))
    angles = np.arange(positions)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def random_tensors(shapes: dict[str, tuple[int, ...]], first_special: int, seed: int = SEED) -> dict[str, np.ndarray]:
    """Draw weights in the order of their names: norms are the identity, biases zero, matrices have variance 1 / fan-in.

    NumPy's generator gives the same values on every machine, whatever the torch build. Special tokens, nearly nine
    tenths of the vocabulary, start with small embeddings: an untrained model then spells bytes rather than times.
    """
    generator = np.random.default_rng(seed)
    tensors = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith("bias"):
            values = np.zeros(shape)
        elif "layer_norm" in name:
            values = np.ones(shape)
        elif name == "model.encoder.embed_positions.weight":
            values = sinusoids(*shape)
        else:
            std = EMBEDDING_STD if "embed" in name else 1 / math.sqrt(math.prod(shape[1:]))
            values = generator.standard_normal(shape) * std
        if name == "model.decoder.embed_tokens.weight":
            values[first_special:] *= SPECIAL_SCALE
        tensors[name] = values.astype(np.float32)
    return tensors


def write_smoke(folder: Path) -> None:
    """Write the smoke base into ``folder``, laid out like every other base model."""
    tokenizer = byte_tokenizer()
    sizes = SIZES | {"vocab_size": len(tokenizer)}
    tensors = random_tensors(model_shapes(sizes), tokenizer.eos_token_id)
    write_folder(folder, tensors, made_companions(sizes, tokenizer, {}))
