"""Guided decoding: a merged model speaks, and experts lean on every token; an ensemble of experts is a case of it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from ..errors import MethodError
from ..evaluation import greedy
from ..evaluation.decoding import Decoder
from ..evaluation.decoding_settings import Decoding
from ..merging.listening import put
from ..merging.validation import check_memory
from ..whisper import models as whisper_models
from .choosing import Models, plain


class Guided(Decoder):
    """Greedy decoding by a sum of several models' log-probabilities, all of which hear the clip and share its tokens.

    z = log p_merged + Σ_t β_t (log p_t - log p_base), an expert's gain over the base being the value that guides (after
    Merge-and-Guide, arXiv 2510.03782; the formula for speech is this library's own).
    """

    def __init__(self, models: Models, coefficients: "Coefficients", settings: Decoding | None) -> None:
        """Load the models whose coefficient is not zero.

        Raises:
            MethodError: the settings ask for beams.
            SpeechMergeError: too little memory for all of them.
        """
        settings = settings or Decoding()
        if settings.beams > 1:
            raise MethodError(f"guided decoding is greedy, but beams is {settings.beams}; take 1.")
        merge = models.merge()
        states = [plain(merge), *(model.tensors() for model in (merge.base, *merge.experts))]
        wanted = [(state, c) for state, c in zip(states, coefficients, strict=True) if c]
        check_memory(
            (len(wanted) + 1) * merge.base.bytes(), work="guided decoding", otherwise="give fewer experts a β above 0"
        )
        super().__init__(models.base, settings)
        self.guides = [(self._load(state), coefficient) for state, coefficient in wanted]

    def _load(self, state: Mapping[str, Tensor]) -> WhisperForConditionalGeneration:
        whisper = whisper_models.load_model(self.folder).to(self.device, self.dtype)
        put(whisper, state)
        return whisper

    def search(self, features: Tensor, prompts: Tensor, limits: Sequence[int]) -> list[list[int]]:
        """Return the greedy tokens of the sum."""
        return greedy.follow(self._readers(features), self.model, prompts, limits, self.forbidden)

    def generated(
        self, features: Tensor, languages: list[str], task: str, temperature: float, limit: int
    ) -> list[list[int]]:
        """Sample from the sum; return the tokens behind the prompts."""
        prompts = torch.tensor([self.prompt(one, task) for one in languages], device=self.device)
        limits = [limit] * len(languages)
        return greedy.follow(self._readers(features), self.model, prompts, limits, self.forbidden, temperature)

    def _readers(self, features: Tensor) -> "Mixture":
        return Mixture([(greedy.Reader(whisper, features), coefficient) for whisper, coefficient in self.guides])


Coefficients = Sequence[float]  # of the merged model, the base, and each expert


def guided(beta: Sequence[float]) -> list[float]:
    """Return the coefficients of guided decoding: 1, -Σβ, β."""
    return [1.0, -sum(beta) or 0.0, *beta]


def ensemble(weights: Sequence[float]) -> list[float]:
    """Return the coefficients of an ensemble: guided decoding of the base with Σβ = 1, in which the base cancels.

    Raises:
        MethodError: the weights sum to zero or less.
    """
    total = sum(weights)
    if total <= 0:
        raise MethodError(f"the weights of an ensemble sum to {total:g}; expected a sum above 0.")
    return [0.0, 0.0, *(weight / total for weight in weights)]


class Mixture:
    """Several models that read the same tokens; their scores are Σ c log p."""

    def __init__(self, readers: Sequence[tuple[greedy.Reader, float]]) -> None:
        self.readers = readers

    def scores(self, given: Tensor) -> Tensor:
        """Return the weighted sum of log-probabilities, ``[rows, tokens]`` fp32."""
        return torch.stack([c * reader.scores(given).log_softmax(-1) for reader, c in self.readers]).sum(0)

    def keep(self, rows: Tensor) -> None:
        """Go on with some rows only."""
        for reader, _ in self.readers:
            reader.keep(rows)
