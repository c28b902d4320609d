"""Batched transcription and translation of clips; predictions are kept, so that scoring never decodes again."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from ..audio import SAMPLE_RATE
from ..corpora import Clip
from ..devices import best_device, keep_memory, number_format
from ..errors import CheckpointError
from ..whisper.prompts import TASK_NAMES, prompt_ids
from . import greedy
from .decoding_settings import Decoding
from .predictions import Prediction

FRAMES_KEPT = 2**30  # bytes of log-mel frames that a decoder keeps, for it is given the same clips with other weights
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)  # Whisper's own ladder for one


class _Suppress:
    """Forbid tokens, as transformers' own processor does, which searches the whole vocabulary at every step."""

    def __init__(self, tokens: list[int], device: torch.device) -> None:
        self.tokens = torch.tensor(tokens, device=device)

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill_(-1, self.tokens, -float("inf"))


class Decoder:
    """A model ready to decode: weights on the device in the number format of ``settings``."""

    def __init__(
        self,
        folder: Path,
        settings: Decoding | None = None,
        *,
        state: Mapping[str, torch.Tensor] | None = None,
        batch: int = 32,
    ) -> None:
        """Load ``folder``; ``state`` replaces its weights (see :meth:`use`): a merge that was never written to disk."""
        from transformers import LogitsProcessorList  # here, for who only reads predictions need not wait for it

        from ..whisper import models

        self.settings, self.batch, self.device = settings or Decoding(), batch, best_device()
        keep_memory()
        self.tokenizer = models.load_tokenizer(folder)
        self.extractor = models.load_feature_extractor(folder)
        self.folder, self.model = folder, models.load_model(folder)
        self.dtype = number_format(self.device, self.settings.precision)
        self.model.to(self.device, self.dtype)
        size = self.extractor.feature_size * self.extractor.nb_max_frames * self.dtype.itemsize
        self.frames = functools.lru_cache(maxsize=FRAMES_KEPT // size)(self._extract)
        self.multilingual = self.model.generation_config.is_multilingual
        self.forbidden = self.model.generation_config.suppress_tokens or []
        self.processors = LogitsProcessorList([_Suppress(self.forbidden, self.device)] if self.forbidden else [])
        self.model.generation_config.suppress_tokens = None
        if state is not None:
            self.use(state)

    def use(self, state: Mapping[str, torch.Tensor]) -> None:
        """Replace all weights of the model.

        Raises:
            CheckpointError: ``state`` lacks a tensor of the model or has one too many.
        """
        missing, unknown = self.model.load_state_dict(state, strict=False)
        if wrong := [*unknown, *(name for name in missing if name != "proj_out.weight")]:
            raise CheckpointError(
                f"the merged weights do not fit the model in {self.folder}: {len(wrong)} tensors are missing or "
                f"unknown (for example {wrong[0]!r}); merge into this base."
            )

    def decode(
        self, clips: Sequence[Clip], language: str | Sequence[str], task: str, *, progress: bool = True
    ) -> list[Prediction]:
        """Decode clips, in the order given.

        Args:
            clips: clips of at most 30 s.
            language: Whisper's code of the spoken language, of all clips or of each.
            task: ``"asr"`` or ``"st"`` (into English).
            progress: show a bar with the time left.

        Raises:
            CheckpointError: another language or task than an English-only model knows.
        """
        spoken = [language] * len(clips) if isinstance(language, str) else list(language)
        if not self.multilingual and (set(spoken) - {"en"} or task != "asr"):
            raise CheckpointError(f"{self.folder} is an English-only model; it transcribes en and nothing else.")
        told = f"decode {' '.join(dict.fromkeys(spoken))} {task}"
        order = sorted(range(len(clips)), key=lambda i: -clips[i].seconds)
        found: dict[int, Prediction] = {}
        bar = tqdm(total=len(clips), unit="clip", desc=told, disable=not progress, leave=False)
        with bar:
            for start in range(0, len(order), self.batch):
                part = order[start : start + self.batch]
                heard = self._batch([clips[i] for i in part], [spoken[i] for i in part], task)
                if self.settings.guard:
                    told = zip(heard, part, strict=True)
                    heard = [self._guarded(one, clips[i], spoken[i], task) for one, i in told]
                found.update(zip(part, heard, strict=True))
                bar.update(len(part))
        return [found[i] for i in range(len(clips))]

    def _extract(self, clip: Clip) -> torch.Tensor:
        """Return the log-mel frames of a clip, padded to 30 s, in the number format of the weights."""
        found = self.extractor(clip.samples(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return found.input_features[0].to(self.dtype)

    def _guarded(self, found: Prediction, clip: Clip, language: str, task: str) -> Prediction:
        """Return a hypothesis, or in place of one that ran away the first sampled one that did not, or the last.

        Each clip has its own random numbers, whatever else is decoded with it.
        """
        for temperature in TEMPERATURES:
            if not found.runaway:
                break
            with torch.random.fork_rng():
                torch.manual_seed(seed_of(f"{clip.id}|{temperature}"))
                found = self._batch([clip], [language], task, temperature)[0]
        return found

    @torch.inference_mode()
    def _batch(self, clips: list[Clip], languages: list[str], task: str, temperature: float = 0.0) -> list[Prediction]:
        features = torch.stack([self.frames(clip) for clip in clips]).to(self.device)
        limits = [self.settings.limit(clip.seconds) for clip in clips]
        if self.settings.beams == 1 and not temperature:
            prompts = torch.tensor([self.prompt(one, task) for one in languages], device=self.device)
            ids = self.search(features, prompts, limits)
        else:
            ids = self.generated(features, languages, task, temperature, max(limits))
        eos = self.tokenizer.eos_token_id
        rows = [row[:limit] for row, limit in zip(ids, limits, strict=True)]  # whatever the batch allowed
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        cut = [len(row) >= limit and eos not in row for row, limit in zip(rows, limits, strict=True)]
        return [Prediction(c.id, t.strip(), x, temperature) for c, t, x in zip(clips, texts, cut, strict=True)]

    def search(self, features: torch.Tensor, prompts: torch.Tensor, limits: Sequence[int]) -> list[list[int]]:
        """Return the greedy tokens behind prompts ``[rows, L]`` for log-mel frames ``[rows, mel, frames]``."""
        return greedy.search(self.model, features, prompts, limits, self.forbidden)

    def prompt(self, language: str, task: str) -> list[int]:
        """Return the prompt's tokens; an English-only model is told neither language nor task."""
        known = self.model.generation_config
        if not self.multilingual:
            return [known.decoder_start_token_id, known.no_timestamps_token_id]
        return prompt_ids(self.tokenizer, language, task)

    def generated(
        self, features: torch.Tensor, languages: list[str], task: str, temperature: float, limit: int
    ) -> list[list[int]]:
        """Sample or search with beams, in transformers' ``generate``; return the tokens behind the prompts."""
        beams = 1 if temperature else self.settings.beams
        found = self.model.generate(
            features,
            **({"language": languages, "task": TASK_NAMES[task]} if self.multilingual else {}),
            max_new_tokens=limit,
            num_beams=beams,
            early_stopping=beams > 1 and self.settings.stop == "finished",
            do_sample=bool(temperature),
            **({"temperature": temperature} if temperature else {}),
            logits_processor=self.processors,
        )
        return found.tolist()


def seed_of(name: str) -> int:
    """Return the seed of the random numbers that belong to a clip, or to a part of a recording."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
