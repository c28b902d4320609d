"""Merged models measured on dev speech, and everything a method needs beside the models in one call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from ..corpora import Clip
from ..devices import autocast, best_device, number_format, release_memory
from ..errors import MethodError
from ..evaluation import scoring
from ..evaluation.decoding import Decoder
from ..evaluation.decoding_settings import Decoding
from ..evaluation.resampling import dev_error, pooled
from ..finetuning.packing import IGNORED, Window, pack
from ..whisper import models
from . import calibration, methods
from .entropy import unsureness
from .listening import batches, log_likelihood, put

WINDOWS = 16  # of each expert, by default

Speech = Sequence[tuple[Sequence[Clip], str, str]]  # clips, language, task


def scorer(base: Path, speech: Speech, settings: Decoding | None = None) -> Callable[[Mapping[str, Tensor]], float]:
    """Return the function ``score`` of greedy soups: the :func:`dev_error` of a merged state dict.

    Args:
        base: the base's folder.
        speech: dev clips, language and task, one entry for each.
        settings: how to decode.
    """
    decoder = Decoder(base, settings)
    return lambda state: decoded_error(decoder, state, speech)["error"]


def decoded_error(decoder: Decoder, state: Mapping[str, Tensor], speech: Speech) -> dict[str, float]:
    """Return the ``error`` of a merged state dict on dev speech (:func:`dev_error`), and its ``wer`` or ``bleu``."""
    decoder.use(state)
    by_task: dict[str, list[scoring.Scores]] = {}
    for clips, language, task in speech:
        heard = decoder.decode(clips, language, task, progress=False)
        by_task.setdefault(task, []).append(scoring.score(heard, clips, language, task))
    release_memory()
    rates = {task: pooled(scores) for task, scores in by_task.items()}
    return {scoring.METRICS[task]: rate for task, rate in rates.items()} | {"error": dev_error(rates)}


@dataclass(frozen=True)
class Loss:
    """Teacher-forced cross-entropy of one language and task: nats, summed over the target tokens, and their number."""

    task: str
    nats: float
    tokens: int


def listener(
    base: Path, speech: Speech, *, precision: str = "auto", size: int = 8
) -> Callable[[Mapping[str, Tensor]], list[Loss]]:
    """Return the function that gives the dev losses of a merged state dict, one for each entry of ``speech``.

    All clips are packed into windows, as in training, and nothing is decoded: many times faster than transcribing them,
    and a smooth function of λ. The weights are used in the number format that decoding takes.

    Args:
        base: the base's folder.
        speech: dev clips, language and task, one entry for each.
        precision: ``"auto"`` (bf16 where it pays), ``"bf16"`` or ``"fp32"``.
        size: windows that go through the model at once.
    """
    return _losses(
        base, [(task, pack(clips, language, task, None)) for clips, language, task in speech], precision, size
    )


def _losses(
    base: Path, parts: Sequence[tuple[str, Sequence[Window]]], precision: str = "auto", size: int = 8
) -> Callable[[Mapping[str, Tensor]], list[Loss]]:
    """Return the function that gives the losses of a merged state dict, one for each task and its windows."""
    device = best_device()
    whisper = models.load_model(base).to(device, number_format(device, precision))
    given = [forced(base, sorted(own, key=label_length), size) for _, own in parts]

    def losses(state: Mapping[str, Tensor]) -> list[Loss]:
        put(whisper, state)  # which may merge, so not in inference mode
        found = []
        for (task, _), own in zip(parts, given, strict=True):
            with torch.inference_mode():
                found.append(Loss(task, own.nats(whisper), own.tokens))
        return found

    return losses


def label_length(window: Window) -> int:
    """Return how many characters a window's texts have: batches of alike lengths hold little padding."""
    return sum(map(len, window.texts))


@dataclass(frozen=True)
class Forced:
    """Windows that a model is teacher-forced on: batches in memory, their target tokens, and how many windows."""

    batches: list[dict[str, Tensor]]
    tokens: int
    windows: int

    def nats(self, whisper: WhisperForConditionalGeneration) -> float:
        """Return the cross-entropy of a model, summed over all target tokens."""
        return -sum(float(log_likelihood(whisper, _moved(batch, whisper))) for batch in self.batches)


def forced(base: Path, windows: Sequence[Window], size: int) -> Forced:
    """Read windows for the model in ``base``, ``size`` at a time."""
    given = list(batches(base, windows, torch.device("cpu"), size))
    return Forced(given, sum(int((batch["labels"] != IGNORED).sum()) for batch in given), len(windows))


def _moved(batch: Mapping[str, Tensor], whisper: WhisperForConditionalGeneration) -> dict[str, Tensor]:
    """Return a batch on the model's device, its frames in the model's number format."""
    own = {key: value.to(whisper.device) for key, value in batch.items()}
    return own | {"input_features": own["input_features"].to(whisper.dtype)}


def dev_loss(losses: Sequence[Loss]) -> float:
    """Return nats a token over all languages; of a model that does both tasks the mean of the two."""
    tasks = dict.fromkeys(one.task for one in losses)
    own = [[one for one in losses if one.task == task] for task in tasks]
    return sum(sum(x.nats for x in part) / sum(x.tokens for x in part) for part in own) / len(own)


def differentiator(
    base: Path, windows: Sequence[Window], *, precision: str = "auto", size: int = 4
) -> Callable[[Mapping[str, Tensor]], tuple[float, dict[str, Tensor]]]:
    """Return the function ``gradient`` of learned averages: the dev loss of a merged state dict, and its slopes.

    The loss is the mean cross-entropy in nats a target token over all windows, so a language counts by its tokens.

    Args:
        base: the base's folder.
        windows: dev windows of all languages; every call passes all of them.
        precision: see :func:`speechmerge.devices.autocast`.
        size: windows that go through the model at once.
    """
    device = best_device()
    whisper = models.load_model(base).to(device)
    given = forced(base, windows, size)

    def gradient(state: Mapping[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        put(whisper, state)
        whisper.zero_grad()
        total = 0.0
        for batch in given.batches:
            with autocast(device, precision):
                loss = -log_likelihood(whisper, {key: value.to(device) for key, value in batch.items()}) / given.tokens
            loss.backward()
            total += loss.item()
        return total, {name: weight.grad for name, weight in whisper.named_parameters()}

    return gradient


def extras(
    method: str,
    base: Path,
    experts: Sequence[Path],
    speech: Sequence[Speech],
    params: Mapping[str, Any] | None = None,
    *,
    windows: int = WINDOWS,
    seed: int = 0,
    settings: Decoding | None = None,
) -> dict[str, Any]:
    """Return what a method needs beside the models: the engine's ``extras``, empty for most methods.

    Statistics are kept in the cache and collected once for an expert and its windows.

    Args:
        method: name in the registry.
        base: the base's folder.
        experts: the experts' folders, in order.
        speech: for each expert, in order, clips, language and task of what it was trained on (several where it was
            trained on a mixture); of dev for methods that measure.
        params: of the merge; RegMean++ collects along the merge that they describe.
        windows: most windows of each expert, shared among its languages and tasks; for Fishers, clips.
        seed: of the draw.
        settings: how to decode where a method scores merged models.
    """
    found = methods.find(method)
    _check_clips(found, speech)
    if found.measure == "score":
        return {"score": scorer(base, [part for own in speech for part in own], settings)}
    drawn = [calibration.draw_all(own, windows, seed=seed, packed="fisher" not in found.needs) for own in speech]
    if found.measure == "entropy":
        return {"entropy": unsureness(base, drawn)}
    if found.measure == "loss":
        losses = _losses(base, [(own[0].task, own) for own in _by_task(drawn)])
        return {"loss": lambda state: dev_loss(losses(state))}
    if found.measure == "gradient":
        return {"gradient": differentiator(base, [window for own in drawn for window in own])}
    if method == methods.LAYERED:
        options = {name: value for name, value in (params or {}).items() if name in ("alpha", "ridge")}
        return {"grams": calibration.collect_layered(base, experts, drawn, **options)}
    kinds = [methods.STATISTICS[need] for need in found.needs if need in methods.STATISTICS]
    pairs = list(zip(experts, drawn, strict=True))
    return {kind: [calibration.collect(kind, expert, own) for expert, own in pairs] for kind in kinds}


def _check_clips(method: methods.Method, speech: Sequence[Speech]) -> None:
    """Raise if weights would be learnt from nothing, or from one clip alone."""
    count = sum(len(clips) for own in speech for clips, _, _ in own)
    if method.measure in ("loss", "gradient", "entropy") and count < 2:
        what = "unlabelled speech" if method.measure == "entropy" else "dev speech"
        raise MethodError(
            f"{method.name} learns weights from {what}, of which there is {'one clip' if count else 'none'}; weights "
            "that fit one clip fit nothing else, so give several of each language."
        )


def _by_task(drawn: Sequence[Sequence[Window]]) -> list[list[Window]]:
    """Return the windows of all experts, those of a task together."""
    found: dict[str, list[Window]] = {}
    for window in (window for own in drawn for window in own):
        found.setdefault(window.task, []).append(window)
    return list(found.values())
