"""One training on a store of random states: ``python fuses.py STORE CLIPS``."""

import sys

import numpy as np
import torch

from speechmerge.audio import SAMPLE_RATE, encode_flac
from speechmerge.corpora import Clip
from speechmerge.fusion import answering, features, hearing, training
from speechmerge.fusion.examples import Example, Fold, Task

SECONDS = 4.0  # of a clip
SHORT = 0.01  # seconds of sound that stand for it
TEXT = "a clip of noise"


class Noise:
    """An upstream that hears nothing and answers with random states."""

    rate, fingerprint = 50.0, "noise"

    def __init__(self, layers: int, width: int) -> None:
        self.layers, self.width = layers, width

    def states(self, samples: np.ndarray) -> torch.Tensor:
        """Return states of :data:`SECONDS`, whatever the samples are: ``[layers, frames, width]``."""
        return torch.randn(self.layers, round(SECONDS * self.rate), self.width)


def fold(clips: int) -> Fold:
    """Return clips of which one in ten is for dev and one for test; each has its own sound, which tells it apart."""
    splits = ["dev", "test", *["train"] * 8]
    return [_example(number, splits[number % len(splits)]) for number in range(clips)]


def _example(number: int, split: str) -> Example:
    sound = np.random.default_rng(number).standard_normal(round(SHORT * SAMPLE_RATE)).astype(np.float32) / 10
    told = {"language": "en", "domain": "noise", "speaker": "nobody", "source": "noise", "licence": "CC0-1.0"}
    flac = encode_flac(sound)
    clip = Clip(id=str(number), text=TEXT, translation=None, seconds=SECONDS, split=split, flac=flac, **told)
    return Example(clip, TEXT, split, str(number))


def main() -> None:
    """Train once through the clips."""
    store, clips = sys.argv[1], int(sys.argv[2])
    examples = fold(clips)
    task = Task("noise", "Noise", "characters", (clips, clips, clips), lambda sizes: [examples], "of random numbers")
    heard = hearing.Hearing([features.opened(store)], whole=True)
    options = answering.Options(epochs=1, evaluations=1, rate=1e-3)
    system = training.train(task, examples, heard, "hconv", options)
    print(f"{system.dev:.3f}")


if __name__ == "__main__":
    main()
