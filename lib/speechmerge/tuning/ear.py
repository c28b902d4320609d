"""One model in memory that takes on the weights of any candidate, measures its dev loss, and transcribes with it."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from ..corpora import Clip
from ..errors import CheckpointError
from ..evaluation import scoring
from ..evaluation.decoding import Decoder
from ..evaluation.decoding_settings import Decoding
from ..evaluation.predictions import Prediction
from ..finetuning.packing import pack
from ..merging.measuring import Forced, forced, label_length
from .speech import CHOOSE, Speech, draw

WINDOWS = 4  # that go through the model at once
BATCH, ROOM = 32, 4e8  # clips that are decoded at once, and the bytes that what they keep of the encoder may take
SHARE, LEAST = 1 / 4, 12  # of the clips that choose: what the first rounds hear, and how many of them at least

Weights = Iterable[tuple[str, Tensor]]


class Ear:
    """Hears the speech of a tuning with the weights it was given last.

    Args:
        base: the base's folder.
        speeches: what is heard.
        settings: how to decode.
        seed: of the draw of the clips that the first rounds hear.
    """

    def __init__(self, base: Path, speeches: Sequence[Speech], settings: Decoding, seed: int) -> None:
        self.speeches = speeches
        self.decoder = Decoder(base, settings)
        self.model = self.decoder.model
        self.decoder.batch = batch(self.model)
        self.places: Mapping[str, Tensor] = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        parts = {
            "all": [speech.choose for speech in speeches],
            "some": [draw(speech.choose, max(LEAST, round(SHARE * len(speech.choose))), seed) for speech in speeches],
        }
        self.hearings = {
            name: [_hearing(base, clips, speech) for clips, speech in zip(own, speeches, strict=True)]
            for name, own in parts.items()
        }

    def share(self, fidelity: str) -> float:
        """Return what a measurement costs beside one on all clips that choose."""
        return sum(h.windows for h in self.hearings[fidelity]) / sum(h.windows for h in self.hearings["all"])

    def wear(self, weights: Weights) -> None:
        """Take on weights, tensor by tensor, so that no second model is in memory.

        Raises:
            CheckpointError: a tensor the model does not have, or one of another shape.
        """
        with torch.no_grad():
            for name, values in weights:
                place = self.places.get(name)
                if place is None or place.shape != values.shape:
                    raise CheckpointError(
                        f"tensor {name!r} of shape {list(values.shape)} does not fit the model in "
                        f"{self.decoder.folder}; give experts of this base."
                    )
                place.copy_(values)

    @torch.inference_mode()
    def losses(self, fidelity: str, which: Sequence[int] | None = None) -> list[float]:
        """Return nats a target token on each speech, or on those named; NaN where the loss is not a number."""
        found = []
        for number in range(len(self.speeches)) if which is None else which:
            hearing = self.hearings[fidelity][number]
            found.append(hearing.nats(self.model) / hearing.tokens)
        return found

    def transcribe(self, numbers: Sequence[int], part: str = CHOOSE) -> list[list[Prediction]]:
        """Decode the clips of some speeches that choose or report, together, for full batches take less time."""
        found: dict[int, list[Prediction]] = {}
        for task in dict.fromkeys(self.speeches[i].task for i in numbers):
            own = [i for i in numbers if self.speeches[i].task == task]
            clips = [clip for i in own for clip in self.speeches[i].part(part)]
            spoken = [self.speeches[i].language for i in own for _ in self.speeches[i].part(part)]
            heard = iter(self.decoder.decode(clips, spoken, task, progress=False))
            found |= {i: list(itertools.islice(heard, len(self.speeches[i].part(part)))) for i in own}
        return [found[i] for i in numbers]


def batch(model: WhisperForConditionalGeneration) -> int:
    """Return how many clips are decoded at once: each keeps keys and values of the encoder for every layer."""
    told = model.config
    each = 2 * told.decoder_layers * told.max_source_positions * told.d_model * model.dtype.itemsize
    return int(min(BATCH, max(1, ROOM // each)))


def _hearing(base: Path, clips: Sequence[Clip], speech: Speech) -> Forced:
    """Pack clips into windows, the shortest labels first, and read them."""
    return forced(base, sorted(pack(clips, speech.language, speech.task, None), key=label_length), WINDOWS)


def scored(predictions: Sequence[Prediction], clips: Sequence[Clip], speech: Speech) -> scoring.Scores:
    """Score by what choices go by: word errors, at most as many as a clip has words; chrF of translations."""
    found = scoring.score(predictions, clips, speech.language, speech.task)
    return found.by_chrf() if speech.task == "st" else found.capped()


def error(scores: scoring.Scores, task: str) -> float:
    """Return what is to be small, as a fraction: the capped word error rate, or one minus chrF."""
    return 1 - scores.rate if task == "st" else scores.rate
