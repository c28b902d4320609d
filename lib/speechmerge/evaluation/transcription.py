"""Recordings of any length transcribed: short ones as test clips are, longer ones with transformers' long-form search.

The long-form search goes through a recording window by window, each beginning where the last whole sentence ended by
the model's own times. It is given ten minutes at a time; what it finds in the last window of them is heard again with
what follows, so nothing is cut at that border.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..audio import HOP, SAMPLE_RATE, WINDOW_SAMPLES, WINDOW_SECONDS, encode_flac
from ..corpora import Clip
from ..corpora.own import languages
from ..errors import CheckpointError, CorpusError, nearest
from ..whisper.prompts import TASK_NAMES
from .decoding import TEMPERATURES, Decoder, seed_of
from .decoding_settings import MAX_TOKENS
from .predictions import Prediction
from .recordings import Recording

PART_SECONDS = 600  # of a long recording in memory at once
FRAMES_A_SECOND = SAMPLE_RATE // HOP
AUTO = "auto"
# The last two are Whisper's own. Whisper's first is 2.4 for the text, but transformers compresses token ids: 1.8 finds
# loops of four rounds and more as often as 2.4 of text does, and seldom takes a transcript for one. 1.35, common with
# transformers, takes up to a fifth of the transcripts of short prompts for loops.
REPETITIVE, UNLIKELY, SILENT = 1.8, -1.0, 0.6


@dataclass(frozen=True)
class Segment:
    """What is said between two times, in seconds from the start of the recording."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Transcript:
    """What is said in a recording: the hypothesis, its language, and its segments where times were searched for."""

    prediction: Prediction
    language: str
    segments: tuple[Segment, ...] | None = None


def check_language(decoder: Decoder, language: str, task: str) -> None:
    """Raise if the model does not know the language or task.

    Raises:
        CheckpointError: it does not; the nearest language is named.
    """
    if not decoder.multilingual:
        if language not in (AUTO, "en") or task != "asr":
            raise CheckpointError(f"{decoder.folder} is an English-only model; it transcribes en and nothing else.")
        return
    known = [code.strip("<|>") for code in decoder.model.generation_config.lang_to_id]
    if language != AUTO and language not in known:
        code = languages.code(language)
        close = f" Did you mean {code!r}?" if code in known else nearest(language, [AUTO, *known])
        raise CheckpointError(f"{decoder.folder} knows no language {language!r}.{close}")


def transcribe(
    decoder: Decoder,
    recordings: Mapping[str, Path],
    language: str = AUTO,
    task: str = "asr",
    *,
    segments: bool = False,
    progress: bool = True,
    failed: dict[str, CorpusError] | None = None,
) -> Iterator[Transcript]:
    """Yield the transcript of each recording, in order.

    Args:
        decoder: the model; its guard against repetition also holds for long recordings.
        recordings: files by id.
        language: Whisper's code, or ``"auto"``: what the model hears in the first 30 s.
        task: ``"asr"`` or ``"st"``.
        segments: search for times in short recordings too; long ones always have them.
        progress: show bars.
        failed: takes up the recordings that cannot be read to their end, and why; the others are transcribed. None: the
            first one ends the work.

    Raises:
        CorpusError: a file is not readable as audio.
        CheckpointError: the model does not know the language or task.
    """
    check_language(decoder, language, task)
    waiting: list[tuple[Clip, str]] = []  # short ones, decoded together
    with tqdm(total=len(recordings), unit="file", desc="decode", disable=not progress, leave=False) as bar:
        for name, path in recordings.items():
            recording, start = None, np.empty(0)
            with _noted(name, failed):
                recording = Recording(path)
                start = recording.more(WINDOW_SAMPLES + 1)
            if not len(start):
                bar.update()
                continue
            spoken = detect(decoder, start) if language == AUTO else language
            short = recording.ended and len(start) <= WINDOW_SAMPLES and not segments
            if short:
                waiting.append((_clip(name, start), spoken))
                if len(waiting) < decoder.batch:
                    continue
            yield from _short(decoder, waiting, task)
            bar.update(len(waiting))
            waiting = []
            if short:
                continue
            found = None
            with _noted(name, failed):
                found = tuple(_long(decoder, name, recording, start, spoken, task, progress))
            bar.update()
            if found is None:
                continue
            text = " ".join(segment.text for segment in found)
            ran_away = any(Prediction(name, segment.text).runaway for segment in found)
            yield Transcript(Prediction(name, text, ran_away, long=True), spoken, found)
        yield from _short(decoder, waiting, task)
        bar.update(len(waiting))


@contextlib.contextmanager
def _noted(name: str, failed: dict[str, CorpusError] | None) -> Iterator[None]:
    """Note that a recording cannot be read, or raise where nobody takes it up."""
    try:
        yield
    except CorpusError as error:
        if failed is None:
            raise
        failed[name] = error


def detect(decoder: Decoder, samples: np.ndarray) -> str:
    """Return the language that the model hears in the first 30 s of a waveform."""
    if not decoder.multilingual:
        return "en"
    features = _features(decoder, samples[:WINDOW_SAMPLES])
    [found] = decoder.model.detect_language(features).tolist()
    codes = {token: code for code, token in decoder.model.generation_config.lang_to_id.items()}
    return codes[found].strip("<|>")


def _clip(name: str, samples: np.ndarray) -> Clip:
    about = {"text": "", "translation": None, "language": "", "domain": "", "speaker": "", "split": "test"}
    return Clip(name, encode_flac(samples), seconds=len(samples) / SAMPLE_RATE, source="", licence="", **about)


def _short(decoder: Decoder, waiting: list[tuple[Clip, str]], task: str) -> Iterator[Transcript]:
    if waiting:
        clips, spoken = zip(*waiting, strict=True)
        heard = decoder.decode(clips, spoken, task, progress=False)
        yield from (Transcript(one, language) for one, language in zip(heard, spoken, strict=True))


def _features(decoder: Decoder, samples: np.ndarray) -> torch.Tensor:
    """Return log-mel frames ``[1, mel, frames]``, of at least one window."""
    short = len(samples) <= WINDOW_SAMPLES
    options = {} if short else {"truncation": False, "padding": "longest"}
    found = decoder.extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt", **options)
    return found.input_features.to(decoder.device, decoder.dtype)


def _long(
    decoder: Decoder, name: str, recording: Recording, samples: np.ndarray, language: str, task: str, progress: bool
) -> Iterator[Segment]:
    """Yield the segments of a recording of which the first ``samples`` are read, ten minutes at a time."""
    part, border, done = PART_SECONDS * SAMPLE_RATE, (PART_SECONDS - WINDOW_SECONDS), 0.0
    total = recording.seconds and round(recording.seconds)
    with tqdm(total=total, unit="s", desc=name, disable=not progress, leave=False) as bar:
        while True:
            samples = np.concatenate([samples, recording.more(part + 1 - len(samples))])
            last = recording.ended and len(samples) <= part
            heard = functools.partial(_show, bar, done)
            found = _segments(decoder, f"{name}|{done}", samples[:part], language, task, heard)
            kept = found if last else [segment for segment in found if segment.start < border]
            yield from (Segment(round(done + s.start, 2), round(done + s.end, 2), s.text) for s in kept if s.text)
            if last:
                return
            reached = max([border, *(segment.end for segment in kept[-1:])])
            done, samples = done + reached, samples[round(reached * SAMPLE_RATE) :]


def _show(bar: tqdm, done: float, frames: torch.Tensor) -> None:
    """Move a bar to where the search is in a part that begins at ``done`` seconds, ``frames`` ``[1, 2]`` into it."""
    bar.update(round(done + float(frames[0, 0]) / FRAMES_A_SECOND) - bar.n)


@torch.inference_mode()
def _segments(
    decoder: Decoder,
    key: str,
    samples: np.ndarray,
    language: str,
    task: str,
    heard: Callable[[torch.Tensor], None] | None = None,
) -> list[Segment]:
    """Return the segments that transformers' long-form search finds; random numbers are the part's own."""
    first_time = decoder.model.generation_config.no_timestamps_token_id + 1
    guarded = {"temperature": (0.0, *TEMPERATURES), "compression_ratio_threshold": REPETITIVE}
    guarded |= {"logprob_threshold": UNLIKELY, "no_speech_threshold": SILENT}
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(key))
        found = decoder.model.generate(
            _features(decoder, samples),
            **({"language": language, "task": TASK_NAMES[task]} if decoder.multilingual else {}),
            return_timestamps=True,
            return_segments=True,
            max_new_tokens=MAX_TOKENS,
            num_beams=decoder.settings.beams,
            condition_on_prev_tokens=False,
            logits_processor=decoder.processors,
            monitor_progress=heard,
            **(guarded if decoder.settings.guard else {"temperature": 0.0}),
        )
    seconds, segments = len(samples) / SAMPLE_RATE, []
    for segment in found["segments"][0]:
        text = decoder.tokenizer.decode([t for t in segment["tokens"].tolist() if t < first_time], True).strip()
        start, end = float(segment["start"]), min(float(segment["end"]), seconds)
        segments.append(Segment(min(start, end), end, text))
    return segments
