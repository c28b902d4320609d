"""A Whisper model as a Hugging Face folder: its configuration, the shapes of its tensors, writing it whole."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer

from ..errors import CheckpointError
from . import companions
from .companions import Companions
from .configuration import SIZES
from .generation import generation_config

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
LAYOUT = ("config.json", "generation_config.json", "preprocessor_config.json", *companions.TOKENIZER)


def config_for(sizes: Mapping[str, int], tokenizer: WhisperTokenizer) -> WhisperConfig:
    """Return a configuration with these ``SIZES``, no dropout, and nothing that belongs to generation."""
    end = tokenizer.eos_token_id
    return WhisperConfig(
        **{key: sizes[key] for key in SIZES},
        **dict.fromkeys(TOKENS[:3], end),
        decoder_start_token_id=tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
        begin_suppress_tokens=None,
        architectures=["WhisperForConditionalGeneration"],
    )


def check_shapes(shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], where: str) -> None:
    """Compare names and shapes of tensors with the model of these ``SIZES``, without allocating it.

    Raises:
        CheckpointError: a tensor is missing, unknown or of another shape.
    """
    expected = model_shapes(sizes)
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


def model_shapes(sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor but the tied ``proj_out.weight``."""
    config = WhisperConfig(**{key: sizes[key] for key in SIZES}, **dict.fromkeys(TOKENS, 0))
    with torch.device("meta"):
        state = WhisperForConditionalGeneration(config).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if name != "proj_out.weight"}


def made_companions(
    sizes: Mapping[str, int],
    tokenizer: WhisperTokenizer,
    normalizer: Mapping[str, str] | None,
    alignment_heads: list[list[int]] | None = None,
) -> Companions:
    """Return what lies beside the weights of a model of these ``SIZES``, all of it made here but the tokenizer."""
    config = json.loads(config_for(sizes, tokenizer).to_json_string())
    generation = generation_config(tokenizer, sizes["max_target_positions"], alignment_heads)
    given = {key: value for key, value in generation.to_dict().items() if value is not None}
    return Companions(config, tokenizer, companions.feature_extractor(sizes), given, normalizer)


def write_folder(folder: Path, tensors: Mapping[str, np.ndarray], about: Companions) -> None:
    """Write weights (float32, without the tied ``proj_out``) and all that lies beside them into ``folder``.

    Raises:
        CheckpointError: the tensors are not those of the configuration, or one holds a value that is not finite.
    """
    check_shapes({name: values.shape for name, values in tensors.items()}, about.config, "The model to be written")
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"Tensor {name} holds a value that is not finite; its source is damaged, fetch it again."
            )
    weights = folder / "model.safetensors"
    save_file(dict(tensors), weights, metadata={"format": "pt"})
    companions.write(folder, about, "float32")
