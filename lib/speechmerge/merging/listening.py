"""Whisper listened to while it hears speech: Gram matrices of the inputs of its maps, squared gradients.

Windows go through the model one at a time, so there is no padding of a batch; encoder positions after the end of the
speech are left out of every sum. Grams are made stage by stage, so that only one block's are in memory.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration, WhisperModel

from ..audio import HOP, SAMPLE_RATE, WINDOW_SAMPLES
from ..devices import best_device
from ..finetuning.objective import target_logits
from ..finetuning.packing import PAUSE_SECONDS, Window, collate
from ..whisper import models
from ..whisper.checkpoints import open_checkpoint
from ..whisper.parameter_classes import layer
from . import engine
from .precision import unrounded

POSITION = 2 * HOP  # samples an encoder position covers

Named = dict[str, Tensor]


def positions(window: Window) -> int:
    """Return how many encoder positions (20 ms each) the speech of a window covers, pauses between clips included."""
    seconds = sum(clip.seconds for clip in window.clips) + PAUSE_SECONDS * (len(window.clips) - 1)
    return math.ceil(min(round(SAMPLE_RATE * seconds), WINDOW_SAMPLES) / POSITION)


def log_likelihood(whisper: WhisperForConditionalGeneration, batch: Mapping[str, Tensor]) -> Tensor:
    """Return Σ log p(token | tokens before, speech) over the targets of a batch from :func:`packing.collate`."""
    logits, labels = target_logits(whisper, **batch)
    return -nn.functional.cross_entropy(logits.float(), labels, reduction="sum")


def batches(folder: Path, windows: Sequence[Window], device: torch.device, size: int = 1) -> Iterator[Named]:
    """Yield the windows as arguments of the model in ``folder``, ``size`` at a time."""
    tokenizer, extractor = models.load_tokenizer(folder), models.load_feature_extractor(folder)
    for start in range(0, len(windows), size):
        batch = collate(windows[start : start + size], tokenizer, extractor)
        yield {key: value.to(device) for key, value in batch.items()}


def fishers(expert: Path, windows: Sequence[Window], progress: bool) -> Iterator[tuple[str, Named]]:
    """Yield the diagonal Fisher of the whole model; one window a backward pass, or squares would hold cross terms."""
    device = best_device()
    whisper = models.load_model(expert).to(device)
    found = {name: torch.zeros_like(weight) for name, weight in whisper.named_parameters()}
    with tqdm(total=len(windows), desc="Fisher", unit="window", disable=not progress) as bar:
        for batch in batches(expert, windows, device):
            whisper.zero_grad()
            log_likelihood(whisper, batch).backward()
            for name, weight in whisper.named_parameters():
                found[name].addcmul_(weight.grad, weight.grad, value=1 / len(windows))
            bar.update()
    yield "fishers", found


def grams(expert: Path, windows: Sequence[Window], progress: bool) -> Iterator[tuple[str, Named]]:
    """Yield each stage of an expert with the Grams of its maps, by module."""
    device = best_device()
    whisper = models.load_model(expert).model.to(device)
    passages = _passages(expert, windows, device)
    for stage in tqdm(_stages(whisper), desc="Grams", unit="stage", disable=not progress):
        passages, found = _through(whisper, stage, passages)
        yield stage, found


def layered_grams(
    base: Path, pairs: Sequence[tuple[Path, Sequence[Window]]], options: Mapping[str, float], progress: bool
) -> Iterator[tuple[str, list[Named]]]:
    """Yield each stage with the Grams of every expert, its input having passed the merged stages below.

    Args:
        base: the base's folder.
        pairs: experts with their windows.
        options: of RegMean.
        progress: show a bar.
    """
    device = best_device()
    whisper = models.load_model(base).model.to(device)
    opened = [open_checkpoint(source) for source in (base, *(expert for expert, _ in pairs))]
    opened[1:] = [unrounded(opened[0], expert) for expert in opened[1:]]
    passages = [_passages(base, own, device) for _, own in pairs]
    for stage in tqdm(_stages(whisper), desc="Grams", unit="stage", disable=not progress):
        names = [name for name in opened[0].shapes if _stage(name) == stage]
        start, *tuned = [{name: model.read(name).float() for name in names} for model in opened]
        found = []
        for weights, own in zip(tuned, passages, strict=True):
            _put(whisper, weights)
            found.append(_through(whisper, stage, own)[1])
        _put(whisper, engine.merge_state_dicts("regmean_pp", start, tuned, extras={"grams": found}, **options))
        passages = [_through(whisper, stage, own, listen=False)[0] for own in passages]
        yield stage, found


def _stages(whisper: WhisperModel) -> list[str]:
    """Return the stages in the order in which speech passes them: front end or embeddings, then the blocks."""
    stacks = (("encoder", whisper.encoder), ("decoder", whisper.decoder))
    return [s for name, part in stacks for s in (name, *(f"{name}.layers.{i}" for i in range(len(part.layers))))]


def _stage(name: str) -> str:
    """Return the stage that first uses a tensor."""
    if place := layer(name):
        return f"{place[0]}.layers.{place[1]}"
    return "encoder" if ".encoder." in name and "layer_norm" not in name else "decoder"


@torch.no_grad()
def put(whisper: WhisperForConditionalGeneration, state: Mapping[str, Tensor]) -> None:
    """Give a Whisper the weights of a merged model, one tensor after another, so that there is no second copy."""
    own = dict(whisper.named_parameters())  # the tied head is left out
    for name in state:
        if name in own:
            own[name].copy_(state[name])


def _put(whisper: WhisperModel, weights: Mapping[str, Tensor]) -> None:
    """Give a Whisper some of its tensors anew."""
    whisper.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()}, strict=False)


@dataclass(frozen=True)
class _Passage:
    """A window on its way through Whisper: what came out of the last stage, ``[1, positions, d]``; mel at first."""

    states: Tensor
    tokens: Tensor  # the decoder's input, [1, L]
    real: int  # encoder positions that hear speech
    encoded: Tensor | None = None

    def through(self, whisper: WhisperModel, stage: str) -> "_Passage":
        """Pass one stage."""
        part = whisper.get_submodule(stage)
        if stage == "encoder":
            heard = nn.functional.gelu(part.conv2(nn.functional.gelu(part.conv1(self.states))))
            return replace(self, states=heard.mT + part.embed_positions.weight)
        if stage == "decoder":
            start = part.embed_tokens(self.tokens) + part.embed_positions.weight[: self.tokens.shape[1]]
            return replace(self, states=start, encoded=whisper.encoder.layer_norm(self.states))
        if stage.startswith("encoder"):
            return replace(self, states=part(self.states, None))
        size = self.tokens.shape[1]
        causal = torch.full((1, 1, size, size), -math.inf, device=self.states.device).triu(1)
        return replace(self, states=part(self.states, causal, self.encoded, use_cache=False))


def _passages(folder: Path, windows: Sequence[Window], device: torch.device) -> list[_Passage]:
    arguments = zip(batches(folder, windows, device), windows, strict=True)
    return [_Passage(a["input_features"], a["decoder_input_ids"], positions(window)) for a, window in arguments]


@torch.inference_mode()
def _through(
    whisper: WhisperModel, stage: str, passages: list[_Passage], *, listen: bool = True
) -> tuple[list[_Passage], Named]:
    """Send windows through a stage; return them behind it, and the Grams of its maps if it is listened to."""
    heard, after = _Grams(), []
    with contextlib.ExitStack() as stack:
        for name, module in whisper.get_submodule(stage).named_modules(prefix=f"model.{stage}"):
            if listen and isinstance(module, nn.Linear | nn.Conv1d):
                hook = module.register_forward_pre_hook(functools.partial(heard.add, name))
                stack.callback(hook.remove)
        for passage in passages:
            heard.real, heard.last = passage.real, (None, "")
            after.append(passage.through(whisper, stage))
    return after, heard.means()


class _Grams:
    """Sums of x xᵀ over the inputs of a stage's maps, added up in fp64; maps that hear the same input share one."""

    def __init__(self) -> None:
        self.sums: Named = {}
        self.rows: dict[str, int] = {}
        self.owner: dict[str, str] = {}
        self.last: tuple[Tensor | None, str] = (None, "")
        self.real = 0

    def add(self, name: str, module: nn.Module, args: tuple[Tensor]) -> None:
        """Add one input ``[1, n, in]``, or ``[1, in, n]`` of a filter; a forward pre-hook."""
        [given] = args
        if given is self.last[0]:
            self.owner[name] = self.last[1]
            return
        self.last, self.owner[name] = (given, name), name
        rows = given[0]
        if isinstance(module, nn.Conv1d):  # [out, in · width], in the order of the filter's own weights
            padded = nn.functional.pad(rows, (module.padding[0], module.padding[0]))
            rows = padded.unfold(1, module.kernel_size[0], module.stride[0]).transpose(0, 1).flatten(1)
            rows = rows[: self.real * (2 if name.endswith("conv1") else 1)]  # mel frames are half a position long
        elif name.startswith("model.encoder.") or name.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj")):
            rows = rows[: self.real]
        self.sums[name] = self.sums.get(name, 0) + (rows.T @ rows).double()
        self.rows[name] = self.rows.get(name, 0) + len(rows)

    def means(self) -> Named:
        """Return the mean of x xᵀ by module, fp32; those shared are the same tensor."""
        means = {name: (total / self.rows[name]).float() for name, total in self.sums.items()}
        return {name: means[owner] for name, owner in self.owner.items()}
