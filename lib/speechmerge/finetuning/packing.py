"""Short clips packed into Whisper's 30 s window, and windows turned into training batches.

A window holds several clips with a short pause between them and one label sequence with their texts joined, so that an
epoch costs as many encoder passes as there are windows, not clips. Half of the windows are cut at a random length, so
that the model keeps seeing short inputs followed by silence, which is what it meets when it transcribes single clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..audio import SAMPLE_RATE, WINDOW_SAMPLES
from ..corpora import Clip
from ..whisper.prompts import prompt_ids
from .training_recipe import FULL_SECONDS

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor, WhisperTokenizer

PAUSE_SECONDS = 0.3  # silence between two clips of a window
MAX_LABELS = 440  # Whisper's decoder has 448 positions; some are the prompt
IGNORED = -100  # label value that the cross-entropy leaves out


@dataclass(frozen=True)
class Window:
    """Clips of one language and task that share one 30 s input."""

    clips: tuple[Clip, ...]
    language: str
    task: str

    @property
    def texts(self) -> list[str]:
        """Target texts: transcripts for ``asr``, English translations for ``st``."""
        return [clip.text if self.task == "asr" else clip.translation for clip in self.clips]


def pack(clips: Sequence[Clip], language: str, task: str, rng: np.random.Generator | None) -> list[Window]:
    """Fill windows greedily with clips.

    Args:
        clips: clips of one language, each at most 28 s.
        language: Whisper's code.
        task: ``"asr"`` or ``"st"``.
        rng: shuffles clips and draws window lengths; None keeps the order and fills every window (for evaluation).
    """
    order = np.arange(len(clips)) if rng is None else rng.permutation(len(clips))
    windows: list[Window] = []
    current: list[Clip] = []
    used, limit = 0.0, _draw_limit(rng)
    for clip in (clips[i] for i in order):
        if current and used + PAUSE_SECONDS + clip.seconds > limit:
            windows.append(Window(tuple(current), language, task))
            current, used, limit = [], 0.0, _draw_limit(rng)
        used += clip.seconds + (PAUSE_SECONDS if current else 0.0)
        current.append(clip)
    if current:
        windows.append(Window(tuple(current), language, task))
    return windows


def _draw_limit(rng: np.random.Generator | None) -> float:
    """Seconds after which a window is closed: full half of the time, else short (2-8 s) or anything (8-28 s)."""
    if rng is None or rng.random() < 0.5:
        return FULL_SECONDS
    return rng.uniform(2.0, 8.0) if rng.random() < 0.5 else rng.uniform(8.0, FULL_SECONDS)


def collate(
    windows: Sequence[Window], tokenizer: "WhisperTokenizer", extractor: "WhisperFeatureExtractor"
) -> dict[str, torch.Tensor]:
    """Turn windows into the model's arguments.

    Returns:
        ``input_features`` ``[B, mel, frames]`` fp32, ``decoder_input_ids`` and ``labels`` ``[B, L]`` int64. The prompt
        (start, language, task, no timestamps) is input only: its labels are ignored, because decoding forces it.
    """
    inputs, labels = [], []
    for window in windows:
        prompt = prompt_ids(tokenizer, window.language, window.task)
        target = tokenizer(" ".join(window.texts), add_special_tokens=False).input_ids[:MAX_LABELS]
        target.append(tokenizer.eos_token_id)
        inputs.append(prompt + target[:-1])
        labels.append([IGNORED] * (len(prompt) - 1) + target)
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_features": sounds(windows, extractor),
        "decoder_input_ids": pad([torch.tensor(i) for i in inputs], True, tokenizer.eos_token_id),
        "labels": pad([torch.tensor(i) for i in labels], True, IGNORED),
    }


def sounds(windows: Sequence[Window], extractor: "WhisperFeatureExtractor") -> torch.Tensor:
    """Return the log-mel frames of windows, ``[B, mel, frames]`` fp32; their texts are not read."""
    waves = [_join(window.clips) for window in windows]
    return extractor(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features


def _join(clips: Sequence[Clip]) -> np.ndarray:
    """Concatenate clips with pauses, shape ``[n]``, at most one window long."""
    pause = np.zeros(int(PAUSE_SECONDS * SAMPLE_RATE), dtype=np.float32)
    parts = [part for clip in clips for part in (clip.samples(), pause)][:-1]
    return np.concatenate(parts)[:WINDOW_SAMPLES]
