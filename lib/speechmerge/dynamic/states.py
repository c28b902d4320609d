"""What a model makes of a clip: the mean of its encoder's states over the speech."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..audio import SAMPLE_RATE
from ..corpora import Clip
from ..evaluation.decoding import Decoder
from ..merging.listening import POSITION, put
from ..whisper.checkpoints import OnDemand

ENCODER = "model.encoder."


def lend(decoder: Decoder, state: Mapping[str, Tensor]) -> None:
    """Give a decoder the encoder of other weights; its own are put back by whoever decodes next."""
    put(decoder.model, OnDemand([name for name in state if name.startswith(ENCODER)], state.__getitem__))


@torch.inference_mode()
def mean_states(decoder: Decoder, clips: Sequence[Clip], layer: int = 0) -> Tensor:
    """Return the mean encoder state of each clip, ``[N, d]`` fp32, with the weights that the decoder has now.

    Only the frames of the speech go through, one clip at a time: a sixth of the time of a whole window for a clip of
    five seconds, and no clip depends on others.

    Args:
        decoder: whose encoder listens.
        clips: at most 30 s each.
        layer: after how many layers; 0 is the end, behind the last norm.
    """
    encoder, found = decoder.model.model.encoder, []
    blocks = encoder.layers[: layer or None]
    for clip in clips:
        size = min(math.ceil(clip.seconds * SAMPLE_RATE / POSITION) or 1, encoder.config.max_source_positions)
        frames = decoder.frames(clip)[None, :, : 2 * size].to(decoder.device)
        states = torch.nn.functional.gelu(encoder.conv1(frames))
        states = torch.nn.functional.gelu(encoder.conv2(states)).mT.contiguous()
        states = states + encoder.embed_positions.weight[:size]
        for block in blocks:
            states = block(states, None)
        states = states if layer and layer < len(encoder.layers) else encoder.layer_norm(states)
        found.append(states[0].float().mean(0).cpu())
    return torch.stack(found) if found else torch.zeros(0, encoder.config.d_model)
