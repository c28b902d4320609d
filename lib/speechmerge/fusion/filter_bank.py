"""Controls without training: log-mel energies with their slopes, and random layers for tests."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank

from ..audio import HOP, SAMPLE_RATE
from ..files import digest
from .upstreams import FRAME

WINDOW, MELS, REACH = 400, 80, 2  # samples; bands; frames to each side from which a slope is taken


def energies(samples: np.ndarray, hop: int) -> Tensor:
    """Return log-mel energies, ``[T, 80]``: one frame for each ``hop`` samples that begin within the clip."""
    bank = torch.from_numpy(mel_filter_bank(WINDOW // 2 + 1, MELS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE)).float()
    told = {"window": torch.hann_window(WINDOW), "pad_mode": "constant", "return_complex": True}
    spectrum = torch.stft(torch.from_numpy(samples).float(), WINDOW, hop, **told)
    return (spectrum.abs().square().T @ bank).clamp(min=1e-10).log10()[: -(-len(samples) // hop)]


def slopes(values: Tensor) -> Tensor:
    """Return the slope of each band over five frames, as a line fitted to them has it; ends are repeated."""
    steps = torch.arange(-REACH, REACH + 1, dtype=torch.float32)
    padded = functional.pad(values.T[:, None], (REACH, REACH), mode="replicate")
    return functional.conv1d(padded, (steps / steps.square().sum())[None, None])[:, 0].T


class FilterBank:
    """Log-mel energies, their slopes and the slopes of these: one layer, 50 frames a second."""

    layers, width, rate = 1, 3 * MELS, SAMPLE_RATE / FRAME
    fingerprint = digest(["filter bank", WINDOW, HOP, MELS, REACH])

    def states(self, samples: np.ndarray) -> Tensor:
        """Return the features of a clip as a single layer; pairs of 10 ms frames are averaged."""
        fine = energies(samples, HOP)
        first = slopes(fine)
        found = torch.cat([fine, first, slopes(first)], 1)
        frames = -(-len(samples) // FRAME)
        found = torch.cat([found, found[-1:]])[: 2 * frames]
        return found.unflatten(0, (frames, 2)).mean(1)[None]


class RandomLayers:
    """Three layers of fixed random maps of the filter bank, for tests and the smoke profile: no speech model."""

    layers = 3

    def __init__(self, width: int, rate: float) -> None:
        draw = torch.Generator().manual_seed(width)
        self.width, self.rate, self.hop = width, rate, math.floor(SAMPLE_RATE / rate)
        self.maps = [torch.randn(n, width, generator=draw) / n**0.5 for n in (MELS, width, width)]
        self.fingerprint = digest(["random layers", width, rate])

    def states(self, samples: np.ndarray) -> Tensor:
        """Return the layers of a clip."""
        found = [(energies(samples, self.hop) + 4) @ self.maps[0]]
        for mix in self.maps[1:]:
            found.append(torch.tanh(found[-1] @ mix) + found[-1])
        return torch.stack(found)
