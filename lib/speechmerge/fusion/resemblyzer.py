"""Resemblyzer's voice encoder (GE2E, arXiv 1710.10467): three LSTM layers and the embedding layer, frame by frame.

The package cuts speech into pieces of 1.6 s, leaves out silence and averages the last states of the pieces. Here the
whole clip goes through the network and every frame is kept, at half the rate: two frames are averaged.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from ..audio import HOP, SAMPLE_RATE
from ..packages import wheel
from .upstreams import FRAME, Upstream, frozen, weights_of

WHEEL = ("Resemblyzer==0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f")
FILE, SIZE = "resemblyzer/pretrained.pt", 15_747_704
WINDOW, MELS, WIDTH, LSTMS = 400, 40, 256, 3
LOUDNESS = -30.0  # decibels of full scale: quieter speech is raised to it


class Resemblyzer(nn.Module):
    """The network and its front end."""

    layers, width, rate = LSTMS + 1, WIDTH, SAMPLE_RATE / FRAME

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.ModuleList(nn.LSTM(WIDTH if n else MELS, WIDTH, batch_first=True) for n in range(LSTMS))
        self.linear = nn.Linear(WIDTH, WIDTH)
        bank = mel_filter_bank(WINDOW // 2 + 1, MELS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, "slaney", "slaney")
        self.register_buffer("bank", torch.from_numpy(bank).float())

    def read(self, path: Path) -> "Resemblyzer":
        """Take the published weights."""
        known = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        for place, lstm in enumerate(self.lstm):
            lstm.load_state_dict({name: known[f"lstm.{name[:-1]}{place}"] for name in lstm.state_dict()})
        self.linear.load_state_dict({name: known[f"linear.{name}"] for name in ("weight", "bias")})
        self.fingerprint = weights_of(self)
        return frozen(self)

    @torch.inference_mode()
    def states(self, samples: np.ndarray) -> Tensor:
        """Return the hidden states of a clip."""
        wave = torch.from_numpy(samples).float()
        level = wave.square().mean().sqrt().clamp(min=1e-9)
        wave = wave * max(1.0, 10 ** (LOUDNESS / 20) / float(level))
        told = {"window": torch.hann_window(WINDOW), "pad_mode": "constant", "return_complex": True}
        states = (torch.stft(wave, WINDOW, HOP, **told).abs().square().T @ self.bank)[None]
        found = []
        for lstm in self.lstm:
            states, _ = lstm(states)
            found.append(states)
        whole = torch.cat([*found, self.linear(states).relu()])
        frames = -(-len(samples) // FRAME)
        whole = torch.cat([whole, whole[:, -1:]], 1)[:, : 2 * frames]  # the last frame is repeated where one is missing
        return whole.unflatten(1, (frames, 2)).mean(2)


def load() -> Upstream:
    """Fetch, check and load the encoder; the wheel is unpacked, not installed.

    Raises:
        SourceError: the wheel cannot be had or is not the expected one.
    """
    return Resemblyzer().read(wheel(*WHEEL, keep=FILE, size=SIZE) / FILE)
