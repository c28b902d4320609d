"""The systems that merge while they listen, with their parameters; built in Python or from a recipe's ``dynamic``.

    merge_method: task_arithmetic
    base_model: whisper-tiny
    models:
      - {model: experts/es, speech: asterisk:es}
      - {model: experts/it, speech: asterisk:it}
    parameters: {lambda: 0.3}
    dynamic: {system: se_merging, signal: speech, temperature: 0.5}

The rest of the file is the merge they start from: the model that SE-Merging compares experts with and whose
coefficients it rescales, the one that guided decoding leads, the masks of a predicted task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from .. import speech
from ..errors import MethodError, nearest
from ..evaluation.decoding import Decoder
from ..evaluation.decoding_settings import Decoding
from ..finetuning.training_recipe import Source
from ..merging.parameters import Choice, Parameter, PerExpert, Range, checked, parameters_of
from ..merging.recipe import Recipe
from ..merging.rules.primitives import per_expert
from .choosing import Listening, Models, Nearest, Soft
from .guiding import Guided, ensemble, guided

CLIPS = 64  # of each expert's speech that its mean state is taken over

Signal = Annotated[
    str,
    Choice(("merged", "speech"), "what a clip is compared with: the merged model's hearing, or each expert's speech"),
]
Layer = Annotated[int, Range(0, 1000, "encoder layer whose states are compared; 0 is the end")]


@dataclass(frozen=True)
class System:
    """A way to decode with several models; ``make`` builds what decodes."""

    name: str
    title: str
    paper: str
    make: Callable
    parameters: Mapping[str, Parameter]
    deviations: str = ""

    def check(self, params: Mapping[str, Any], experts: int | None) -> dict[str, Any]:
        """Return all parameters, defaults filled in.

        Raises:
            MethodError: an unknown parameter or a value it may not take.
        """
        return checked(self.name, self.parameters, params, experts=experts)


SYSTEMS: dict[str, System] = {}


def _system(name: str, **description: str) -> Callable[[Callable], Callable]:
    """Register what makes a system; its keyword-only arguments are the parameters."""

    def register(make: Callable) -> Callable:
        SYSTEMS[name] = System(name, make=make, parameters=parameters_of(make), **description)
        return make

    return register


@_system(
    "se_merging",
    title="SE-Merging",
    paper="arXiv 2506.18135",
    deviations="Reconstructed from the abstract, no faithful reproduction: the paper tells each sample's task from its "
    "representations and rescales the coefficients; the softmax of distances and its scale are this library's.",
)
def se_merging(
    models: Models,
    settings: Decoding,
    *,
    signal: Signal = "merged",
    temperature: Annotated[float, Range(0, 1000, "of the softmax, in mean distances", open_low=True)] = 1.0,
    grain: Annotated[int, Range(1, 1000, "weights T·λ_t are multiples of one over this, so that clips share")] = 2,
    layer: Layer = 0,
) -> Listening:
    """θ(x) = θ0 + λ Σ_t T·λ_t(x) τ_t with λ_t(x) = softmax_t(-d_t(x) / s): equal distances give the merge itself."""
    chooser = Soft(models, signal=signal, layer=layer, temperature=temperature, grain=grain)
    return Listening(chooser, Decoder(models.base, settings), len(models.experts))


@_system("routing", title="Routing to the nearest expert", paper="generic")
def routing(models: Models, settings: Decoding, *, signal: Signal = "merged", layer: Layer = 0) -> Listening:
    """Each clip is decoded by the expert it is nearest to."""
    chooser = Nearest(models, signal=signal, layer=layer, masks=False)
    return Listening(chooser, Decoder(models.base, settings), len(models.experts))


@_system("predicted_task", title="Masks of the predicted task", paper="arXiv 2405.17461, arXiv 2405.07813")
def predicted_task(models: Models, settings: Decoding, *, signal: Signal = "speech", layer: Layer = 0) -> Listening:
    """Each clip is decoded by the model that EMR-Merging or TALL-mask keeps for the nearest expert's task."""
    chooser = Nearest(models, signal=signal, layer=layer, masks=True)
    return Listening(chooser, Decoder(models.base, settings), len(models.experts))


@_system(
    "guided",
    title="Guided decoding",
    paper="arXiv 2510.03782",
    deviations="An adaptation to speech: each expert's gain over the base is an implicit value; the paper's explicit "
    "value models, and their merge into one, are not built. Greedy.",
)
def guide(
    models: Models,
    settings: Decoding,
    *,
    beta: Annotated[PerExpert, Range(-10, 10, "β_t, how much each expert leans on every token")] = 0.3,
) -> Guided:
    """Every token is the likeliest by log p_merged + Σ_t β_t (log p_t - log p_base); β = 0 is the merged model."""
    return Guided(models, guided(per_expert(beta, len(models.experts))), settings)


@_system("ensemble", title="Ensemble of the experts", paper="generic")
def ensembled(
    models: Models,
    settings: Decoding,
    *,
    weights: Annotated[PerExpert, Range(0, 1000, "how much each expert counts; only their ratios matter")] = 1.0,
) -> Guided:
    """The mean of the experts' log-probabilities at every token: guided decoding of the base with Σβ = 1."""
    return Guided(models, ensemble(per_expert(weights, len(models.experts))), settings)


def check(dynamic: Mapping[str, Any], experts: int | None = None) -> tuple[System, dict[str, Any]]:
    """Return a system and its parameters, given ``{"system": name, parameter: value, ...}``.

    Raises:
        MethodError: no such system, or a parameter that it does not have or may not have this value.
    """
    name = dynamic.get("system")
    if not isinstance(name, str) or name not in SYSTEMS:
        raise MethodError(f"there is no dynamic system {name!r}.{nearest(str(name), SYSTEMS)}")
    return SYSTEMS[name], SYSTEMS[name].check({k: v for k, v in dynamic.items() if k != "system"}, experts)


def build(models: Models, dynamic: Mapping[str, Any], settings: Decoding | None = None) -> Listening | Guided:
    """Return what decodes: its ``decode(clips, language, task)`` is a decoder's.

    Args:
        models: base, experts and the merge they start from.
        dynamic: see :func:`check`.
        settings: how to decode.

    Raises:
        MethodError, CheckpointError: a wrong parameter, or models that cannot be merged.
    """
    found, params = check(dynamic, len(models.experts))
    if models.speech and params.get("signal") != "speech":
        raise MethodError(f"{found.name} with these parameters hears no speech of the experts, but some is given.")
    return found.make(models, settings or Decoding(), **params)


def from_recipe(recipe: Recipe, settings: Decoding | None = None, *, resolve: Callable[[str], Path] = Path):
    """Build the system of a recipe file (:func:`build`); its speech is of the train split.

    Raises:
        MethodError: the recipe has no ``dynamic``; and as :func:`build`.
    """
    if recipe.dynamic is None:
        raise MethodError(
            "the recipe describes a merge; merge it first (`speechmerge merge`), or give it a field dynamic: "
            f"{{system: ...}}, one of {', '.join(SYSTEMS)}."
        )
    _, params = check(recipe.dynamic, len(recipe.experts))
    experts = tuple(resolve(name) for name in recipe.experts)
    heard = spoken(recipe.speech) if params.get("signal") == "speech" else recipe.speech
    return build(Models(resolve(recipe.base), experts, recipe.method, recipe.options, heard), recipe.dynamic, settings)


def spoken(named: Sequence[str]) -> list[list[speech.Part]]:
    """Return each expert's own speech, given as ``WHERE:LANGUAGE[:TASK]``: some of its training clips."""
    return [speech.heard(Source.parse_all(text), "train", CLIPS) for text in named]
