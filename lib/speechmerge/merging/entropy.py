"""How unsure a merged model is of what it hears: the entropy of its tokens along its own greedy output, and slopes.

No text is read. The output is decoded anew with every model that is measured, and its length is watched: a model can
also become sure by saying less and less, or the same again and again.
"""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from ..devices import autocast, best_device
from ..evaluation import greedy
from ..evaluation.decoding_settings import Decoding
from ..finetuning.packing import Window, sounds
from ..whisper import models
from ..whisper.prompts import prompt_ids
from .listening import put

log = logging.getLogger(__name__)

HEARD = 4  # windows of each expert's speech that one step hears; the next step hears the next ones
STRANGE = 2.0  # so many times longer or shorter than at first, the output is told of


def unsureness(
    base: Path, parts: Sequence[Sequence[Window]], *, precision: str = "auto", heard: int = HEARD
) -> Callable[[Mapping[str, Tensor]], tuple[float, dict[str, Tensor]]]:
    """Return the function ``entropy`` of AdaMerging (arXiv 2310.02575): a merged model's entropy, and its slopes.

    The entropy is in nats a token, over the tokens that decoding may choose, the end included and the prompt left out;
    the mean over the parts, so that each counts alike. What was chosen is taken as fixed: no slope goes through it.

    Args:
        base: the base's folder.
        parts: windows of each expert's speech; their texts are not read.
        precision: see :func:`speechmerge.devices.autocast`.
        heard: windows of each part that a call hears; if a part has more, the next call hears the next ones.
    """
    device = best_device()
    whisper = models.load_model(base).to(device)
    hearing = _Hearing(base, whisper)
    turns = [itertools.cycle([part[i : i + heard] for i in range(0, len(part), heard)]) for part in parts]
    usual: list[float] = []

    def entropy(state: Mapping[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        put(whisper, state)
        whisper.zero_grad()
        total, lengths = 0.0, []
        for windows in map(next, turns):
            features, prompts = hearing.heard(windows)
            with autocast(device, precision):
                found = hearing.entropies(features, prompts, hearing.said(windows, features, prompts))
            mean = found.mean() / len(turns)
            mean.backward()
            total += mean.item()
            lengths.append(len(found) / len(windows))
        _watch(sum(lengths) / len(lengths), usual)
        return total, {name: weight.grad for name, weight in whisper.named_parameters() if weight.grad is not None}

    return entropy


def _watch(length: float, usual: list[float]) -> None:
    """Tell once where the output has become much longer or shorter than that of the first model."""
    if not usual:
        usual.append(length)
    elif len(usual) == 1 and not 1 / STRANGE <= length / usual[0] <= STRANGE:
        usual.append(length)
        log.warning(
            "the output has %.0f tokens a window and had %.0f at first: the entropy may fall because the model says "
            "too little or repeats itself; take fewer steps or a lower rate.",
            *(length, usual[0]),
        )


class _Hearing:
    """A Whisper that hears windows, greedily, and says how unsure it was."""

    def __init__(self, base: Path, whisper: WhisperForConditionalGeneration) -> None:
        self.whisper = whisper
        self.tokenizer, self.extractor = models.load_tokenizer(base), models.load_feature_extractor(base)
        self.forbidden = whisper.generation_config.suppress_tokens or []
        allowed = torch.ones(whisper.config.vocab_size, dtype=torch.bool)
        allowed[self.forbidden] = False
        self.allowed = allowed.nonzero()[:, 0].to(whisper.device)

    def heard(self, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """Return mel frames ``[B, mel, frames]`` and prompts ``[B, P]``."""
        prompts = [prompt_ids(self.tokenizer, window.language, window.task) for window in windows]
        device = self.whisper.device
        return sounds(windows, self.extractor).to(device), torch.tensor(prompts, device=device)

    def said(self, windows: Sequence[Window], features: Tensor, prompts: Tensor) -> list[list[int]]:
        """Return the tokens of each window's greedy output."""
        limits = [Decoding().limit(sum(clip.seconds for clip in window.clips)) for window in windows]
        return greedy.search(self.whisper, features, prompts, limits, self.forbidden)

    def entropies(self, features: Tensor, prompts: Tensor, found: list[list[int]]) -> Tensor:
        """Return the entropy at each token that was found, ``[n]``, in nats."""
        pad = torch.nn.utils.rnn.pad_sequence
        rows = [torch.tensor(tokens[:-1], dtype=torch.long) for tokens in found]
        after = pad(rows, True, self.tokenizer.eos_token_id).to(prompts.device)
        given = torch.cat([prompts, after], 1)
        lengths = torch.tensor([len(tokens) for tokens in found], device=prompts.device)
        place = torch.arange(given.shape[1], device=prompts.device) - (prompts.shape[1] - 1)
        wanted = (place >= 0) & (place < lengths[:, None])
        states = self.whisper.model(features, decoder_input_ids=given).last_hidden_state
        logs = self.whisper.proj_out(states[wanted])[:, self.allowed].float().log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)
