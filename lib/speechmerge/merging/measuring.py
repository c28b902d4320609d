"""Merged models measured on dev speech, and everything a method needs beside the models in one call."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..corpora import Clip
from ..devices import autocast, best_device, release_memory
from ..evaluation import scoring
from ..evaluation.decoding import Decoder, Decoding
from ..evaluation.resampling import dev_error, pooled
from ..finetuning.packing import IGNORED, Window
from ..whisper import models
from . import calibration, methods
from .listening import batches, log_likelihood

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

    def score(state: Mapping[str, Tensor]) -> float:
        decoder.use(state)
        by_task: dict[str, list[scoring.Scores]] = {}
        for clips, language, task in speech:
            heard = decoder.decode(clips, language, task, progress=False)
            by_task.setdefault(task, []).append(scoring.score(heard, clips, language, task))
        release_memory()
        return dev_error({task: pooled(scores) for task, scores in by_task.items()})

    return score


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
    given = list(batches(base, windows, torch.device("cpu"), size))
    tokens = sum(int((batch["labels"] != IGNORED).sum()) for batch in given)

    def gradient(state: Mapping[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        whisper.load_state_dict(state, strict=False)  # all but the tied head
        whisper.zero_grad()
        total = 0.0
        for batch in given:
            with autocast(device, precision):
                loss = -log_likelihood(whisper, {key: value.to(device) for key, value in batch.items()}) / tokens
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
    packed = "fisher" not in found.needs
    shares = [max(1, windows // len(own)) for own in speech]
    drawn = [
        [window for part in own for window in calibration.draw(*part, share, seed=seed, packed=packed)]
        for own, share in zip(speech, shares, strict=True)
    ]
    if found.measure == "score":
        return {"score": scorer(base, [part for own in speech for part in own], settings)}
    if found.measure == "gradient":
        return {"gradient": differentiator(base, [window for own in drawn for window in own])}
    if method == "regmean_pp":
        options = {name: value for name, value in (params or {}).items() if name in ("alpha", "ridge")}
        return {"grams": calibration.collect_layered(base, experts, drawn, **options)}
    kinds = [methods.STATISTICS[need] for need in found.needs if need in methods.STATISTICS]
    pairs = list(zip(experts, drawn, strict=True))
    return {kind: [calibration.collect(kind, expert, own) for expert, own in pairs] for kind in kinds}
