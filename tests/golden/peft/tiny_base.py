"""A Whisper of a few thousand scalars, the base of the vectors beside this file; needs transformers only."""

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

SIZES = {
    "vocab_size": 48,
    "num_mel_bins": 5,
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "max_source_positions": 10,
    "max_target_positions": 9,
}
CONFIG = WhisperConfig(**SIZES, bos_token_id=0, eos_token_id=0, pad_token_id=0, decoder_start_token_id=0)


def tensors() -> dict[str, torch.Tensor]:
    """Return the base's tensors, the same on every machine."""
    with torch.device("meta"):
        shapes = {name: x.shape for name, x in WhisperForConditionalGeneration(CONFIG).state_dict().items()}
    generator = np.random.default_rng(7)
    drawn = {name: generator.standard_normal(shapes[name]).astype(np.float32) for name in sorted(shapes)}
    return {name: torch.from_numpy(0.5 * x) for name, x in drawn.items() if name != "proj_out.weight"}
