"""Hidden states of any Hugging Face speech encoder: Whisper, Moonshine, wav2vec 2.0, HuBERT, WavLM, data2vec."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, PreTrainedModel

from .. import hub
from ..audio import HOP, SAMPLE_RATE
from ..errors import SourceError
from ..whisper import models
from .upstreams import FRAME, Upstream, frozen, weights_of

SILENCE = SAMPLE_RATE  # samples after a clip in a window that is cut to it


class WhisperEncoder:
    """The encoder of a Whisper: states before its first block, after each, the last one after the final norm.

    It hears 30 s, and frames beyond the clip are cut off. With ``window="clip"`` it hears the clip and a second of
    silence, which takes about a sixth of the time and changes the states a little: rows must say so.
    """

    rate = SAMPLE_RATE / FRAME

    def __init__(self, encoder: nn.Module, extractor: object, window: str = "full") -> None:
        self.encoder, self.extractor, self.window = frozen(encoder), extractor, window
        self.layers, self.width = encoder.config.encoder_layers + 1, encoder.config.d_model
        self.fingerprint = weights_of(encoder)

    @torch.inference_mode()
    def states(self, samples: np.ndarray) -> Tensor:
        """Return the hidden states of a clip of at most 30 s."""
        mel = self.extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        if self.window == "full":
            found = self.encoder(mel, output_hidden_states=True).hidden_states
        else:
            found = self._cut(mel, len(samples))
        return torch.cat(tuple(found))[:, : -(-len(samples) // FRAME)]

    def _cut(self, mel: Tensor, samples: int) -> list[Tensor]:
        """Run the blocks on the beginning of the window."""
        frames = min(mel.shape[-1] * HOP // FRAME, -(-(samples + SILENCE) // FRAME))
        stem = functional.gelu(self.encoder.conv1(mel[..., : FRAME // HOP * frames]))
        stem = functional.gelu(self.encoder.conv2(stem)).transpose(1, 2).contiguous()
        found = [stem + self.encoder.embed_positions.weight[:frames]]
        for block in self.encoder.layers:
            found.append(block(found[-1], None))
        return [*found[:-1], self.encoder.layer_norm(found[-1])]


class WaveEncoder:
    """An encoder that hears the waveform, one clip at a time: padding would change every frame of some of them.

    Args of its making:
        model: with ``hidden_states``; of one with a decoder the encoder is taken.
        normalise: whether each clip is brought to mean 0 and variance 1, as the model's card says.
    """

    def __init__(self, model: PreTrainedModel, *, normalise: bool = False) -> None:
        config = model.config
        self.model = frozen(model.get_encoder() if config.is_encoder_decoder else model)
        self.normalise = normalise
        blocks = getattr(config, "encoder_num_hidden_layers", None) or config.num_hidden_layers
        self.layers, self.width = blocks + 1, config.hidden_size
        self.hop = math.prod(getattr(config, "conv_stride", None) or (64, 3, 2))  # Moonshine's stem has no name for it
        self.rate, self.fingerprint = SAMPLE_RATE / self.hop, weights_of(self.model)

    @torch.inference_mode()
    def states(self, samples: np.ndarray) -> Tensor:
        """Return the hidden states of a clip."""
        wave = torch.from_numpy(samples).float()[None]
        if self.normalise:
            wave = (wave - wave.mean()) / (wave.var(correction=0) + 1e-7).sqrt()
        return torch.cat(self.model(wave, output_hidden_states=True).hidden_states)


def whisper(name: str | Path, window: str = "full", weights: Mapping[str, Tensor] | None = None) -> Upstream:
    """Load the encoder of a base model, or of a Whisper folder, such as a merged expert's.

    Args:
        name: of a base model, or a folder.
        window: what the encoder hears.
        weights: of a whole model, such as a merge in memory, in the place of the folder's.
    """
    folder = models.base_model(name)
    model = models.load_model(folder)
    if weights is not None:
        model.load_state_dict(dict(weights), strict=False)  # the head is tied to the tokens' table, which is there
    return WhisperEncoder(model.model.encoder, models.load_feature_extractor(folder), window)


def encoder(name: str, window: str = "full") -> Upstream:
    """Load any speech encoder: a folder, or a repository on the hub, in the layout of Hugging Face.

    Raises:
        SourceError: it is not there, its weights are no safetensors, or it is no encoder of speech.
    """
    local = Path(name).expanduser()
    folder = local if local.is_dir() else hub.snapshot(name)
    if folder is None or not (folder / "config.json").is_file():
        raise SourceError(
            f"{name} is no folder with config.json, and neither the hub nor its local cache has a model of that name "
            "in safetensors; give a folder, or the name of a known upstream."
        )
    kind = AutoConfig.from_pretrained(folder)
    if kind.model_type == "whisper":
        return whisper(folder if local.is_dir() else name, window)
    if not hasattr(kind, "conv_stride") and kind.model_type != "moonshine":
        raise SourceError(
            f"{name} is a {kind.model_type}, expected an encoder of speech that hears the waveform (wav2vec2, hubert, "
            "wavlm, data2vec-audio, moonshine) or a Whisper."
        )
    with models.without_bars():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    asks = (folder / "preprocessor_config.json").is_file()
    return WaveEncoder(model, normalise=asks and bool(AutoFeatureExtractor.from_pretrained(folder).do_normalize))
