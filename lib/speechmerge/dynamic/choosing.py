"""Which weights for this clip: what merges while it listens answers, and makes the model of each answer."""

import functools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..corpora import Clip
from ..errors import MethodError
from ..evaluation.decoding import Decoder
from ..evaluation.predictions import Prediction
from ..merging import fitting, methods
from ..merging.measuring import Speech
from ..merging.merge import Merge, open_merge
from . import weights
from .states import lend, mean_states


@dataclass(frozen=True)
class Models:
    """What is merged while it listens: the base, its experts, and the merge that their models start from.

    Attributes:
        base: the base's folder.
        experts: folders of models or of adapters, in order.
        method: of the merge.
        options: its parameters and options of :func:`speechmerge.merging.merge.open_merge`.
        speech: for each expert, in order, speech of its own; empty where it is not asked for.
    """

    base: Path
    experts: tuple[Path, ...]
    method: str = "task_arithmetic"
    options: Mapping[str, Any] = field(default_factory=dict)
    speech: Sequence[Speech] = ()

    def merge(self, **changes: Any) -> Merge:
        """Open and check the merge; ``changes`` take the place of options.

        Raises:
            CheckpointError, MethodError: see :func:`speechmerge.merging.merge.open_merge`.
        """
        if methods.find(self.method).data:
            raise MethodError(
                f"{self.method} needs data beside the models; merge with it beforehand, and listen with a method that "
                "needs the models alone, such as task_arithmetic."
            )
        return open_merge(self.method, self.base, list(self.experts), **{"strict": True} | dict(self.options) | changes)


class Chooser(Protocol):
    """Answers for each clip which weights it wants; clips of equal answers are decoded together."""

    def choose(self, decoder: Decoder, clips: Sequence[Clip]) -> list[Hashable]:
        """Return the answer for each clip; the decoder's weights may be changed on the way."""

    def model(self, answer: Hashable) -> Mapping[str, Tensor]:
        """Return the weights of an answer."""


class Distances:
    """How far clips lie from each expert.

    By ``"merged"``, the distance of the expert's mean encoder state from the merged model's own: who hears it as the
    merged model does. By ``"speech"``, the distance of the base's state from its mean over speech of the expert's.
    """

    def __init__(self, merge: Merge, models: Models, signal: str, layer: int) -> None:
        self.merge, self.models, self.layer = merge, models, layer
        self.merged = plain(merge) if signal == "merged" else None
        if signal == "speech" and (len(models.speech) != len(models.experts) or not all(map(_clips, models.speech))):
            raise MethodError(
                f"signal speech needs speech of every expert: {len(models.experts)} experts, and speech of "
                f"{sum(bool(_clips(own)) for own in models.speech)}; name it with each model, or take signal merged."
            )
        self.usual: Tensor | None = None  # mean states over each expert's speech, [T, d]

    def __call__(self, decoder: Decoder, clips: Sequence[Clip]) -> Tensor:
        """Return the distances, ``[N, T]`` fp32."""
        if self.merged is None:
            lend(decoder, self.merge.base.tensors())
            if self.usual is None:
                heard = [mean_states(decoder, _clips(own), self.layer).mean(0) for own in self.models.speech]
                self.usual = torch.stack(heard)
            return torch.cdist(mean_states(decoder, clips, self.layer), self.usual)
        lend(decoder, self.merged)
        merged, found = mean_states(decoder, clips, self.layer), []
        for expert in self.merge.experts:
            lend(decoder, expert.tensors())
            found.append((mean_states(decoder, clips, self.layer) - merged).norm(dim=-1))
        return torch.stack(found, -1)


def _clips(own: Speech) -> list[Clip]:
    return [clip for clips, _, _ in own for clip in clips]


def plain(merge: Merge) -> Mapping[str, Tensor]:
    """Return the merged model itself, each tensor merged when it is asked for."""
    return fitting.begin(merge).model()


class Soft:
    """SE-Merging: every expert counts by how near a clip lies to it (arXiv 2506.18135, reconstructed)."""

    def __init__(self, models: Models, *, signal: str, layer: int, temperature: float, grain: int) -> None:
        method = methods.find(models.method)
        if method.gives != "experts" or method.scale != "sum":
            raise MethodError(
                f"se_merging weighs experts in a sum, which {models.method} does not make; merge with task_arithmetic "
                "or another method that sums edited task vectors."
            )
        if models.options.get("weights") is not None:
            raise MethodError("se_merging finds the weights of the experts itself; leave them out of the merge.")
        self.merge = models.merge()
        self.run = fitting.begin(self.merge)
        self.distances = Distances(self.merge, models, signal, layer)
        self.temperature, self.grain = temperature, grain

    def choose(self, decoder: Decoder, clips: Sequence[Clip]) -> list[Hashable]:
        """Return T·λ_t(x) of each clip in units of 1 / ``grain``."""
        found = weights.similarity(self.distances(decoder, clips), self.temperature)
        return list(map(tuple, weights.grained(found, self.grain * found.shape[-1]).tolist()))

    def model(self, answer: tuple[int, ...]) -> Mapping[str, Tensor]:
        """Return θ0 + λ Σ_t T·λ_t(x) τ_t."""
        return self.run.weighted(torch.tensor([answer], dtype=torch.float64) / self.grain).model()


class Nearest:
    """Routing: each clip to the expert it is nearest to, or to the model that a merge keeps for its task."""

    def __init__(self, models: Models, *, signal: str, layer: int, masks: bool) -> None:
        self.models, self.masks = models, masks
        has_tasks = "task" in methods.find(models.method).parameters
        if masks and not has_tasks:
            raise MethodError(
                f"predicted_task needs a merge that keeps a model for each task, emr or tall_mask, not {models.method}."
            )
        if has_tasks and signal == "merged":
            raise MethodError(f"{models.method} makes no single merged model to compare with; take signal speech.")
        self.merge = models.merge()
        self.distances = Distances(self.merge, models, signal, layer)

    def choose(self, decoder: Decoder, clips: Sequence[Clip]) -> list[Hashable]:
        """Return each clip's expert by its place."""
        return weights.nearest(self.distances(decoder, clips)).tolist()

    def model(self, answer: int) -> Mapping[str, Tensor]:
        """Return the expert's own weights, or the merge's for its task."""
        return plain(self.models.merge(task=answer)) if self.masks else self.merge.experts[answer].tensors()


class Listening:
    """A decoder whose weights are chosen for each clip; clips of the same weights go through together.

    The models made last are kept, one for each expert at most, so that memory holds base and task vectors, and one more
    model that decodes.
    """

    def __init__(self, chooser: Chooser, decoder: Decoder, kept: int) -> None:
        self.chooser, self.decoder = chooser, decoder
        self._model = functools.lru_cache(maxsize=kept)(lambda answer: dict(chooser.model(answer)))
        self.answers: list[Hashable] = []  # of the clips decoded last

    def decode(
        self, clips: Sequence[Clip], language: str | Sequence[str], task: str, *, progress: bool = True
    ) -> list[Prediction]:
        """Decode clips, in the order given; as :meth:`speechmerge.evaluation.decoding.Decoder.decode`."""
        spoken = [language] * len(clips) if isinstance(language, str) else list(language)
        self.answers = self.chooser.choose(self.decoder, clips) if clips else []
        groups: dict[Hashable, list[int]] = {}
        for place, answer in enumerate(self.answers):
            groups.setdefault(answer, []).append(place)
        found = {}
        for answer, places in groups.items():
            self.decoder.use(self._model(answer))
            own = [clips[i] for i in places], [spoken[i] for i in places]
            found.update(zip(places, self.decoder.decode(*own, task, progress=progress), strict=True))
        return [found[i] for i in range(len(clips))]
