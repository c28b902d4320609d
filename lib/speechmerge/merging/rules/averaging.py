"""Entrywise sums and means of task vectors, and their scaling by depth."""

from typing import Annotated

from torch import Tensor

from ...whisper.parameter_classes import ORDERS
from ..methods import Choice, Range, method


@method(
    "weight_average",
    title="Weight averaging (uniform soup)",
    family="averaging",
    acts_on="entries",
    paper="arXiv 2203.05482",
    equation=r"\theta=\sum_t w_t\theta_t,\ \sum_t w_t=1",
    scale="mean",
    deviations="Weights are normalised to sum to one; for experts of different tasks the paper makes no claim. A "
    "recipe that says linear counts its base_model as one more model, as mergekit does; leave it out to average the "
    "others.",
)
def weight_average(deltas: Tensor) -> Tensor:
    """Take the mean of the experts, entry by entry.

    Fine-tunes of one base usually lie in one region of low loss, and then the mean of their weights lies in it too.

    Equal to task arithmetic with λ = 1/T (arXiv 2203.05482, uniform soup).

    Args:
        deltas: task vectors of one tensor, shape ``[T, ...]``.

    Returns:
        The same deltas; the engine takes their (weighted) mean.
    """
    return deltas


@method(
    "task_arithmetic",
    title="Task arithmetic",
    family="averaging",
    acts_on="entries",
    paper="arXiv 2212.04089",
    equation=r"\theta=\theta_0+\lambda\sum_t\alpha_t\tau_t",
)
def task_arithmetic(deltas: Tensor) -> Tensor:
    """Add the experts' task vectors to the base, scaled by one λ.

    What a task changed is treated as a vector: it can be added, scaled, and taken away again.

    λ is the engine's ``scaling``; ``weights`` gives each expert its own α (arXiv 2212.04089, section 2).

    Args:
        deltas: task vectors of one tensor, shape ``[T, ...]``.

    Returns:
        The same deltas; the engine takes their (weighted) sum.
    """
    return deltas


@method(
    "lines",
    title="LiNeS (layer-increasing scaling)",
    family="averaging",
    paper="arXiv 2410.17146",
    equation=r"\theta^l=\theta_0^l+\Big(\alpha+\beta\,\tfrac{l}{L-1}\Big)\tau^l",
    acts_on="entries",
    gives="merged",
    deviations="Depth in an encoder-decoder is undefined in the paper; each stack counts from 0 to 1 (as the official "
    "code's key match would), or the decoder goes on after the encoder. Any other method can be scaled so with the "
    "engine's option lines.",
)
def lines(
    deltas: Tensor,
    *,
    alpha: Annotated[float | None, Range(-10, 10, "scale of the first layer; none: 1 / T")] = None,
    beta: Annotated[float, Range(-10, 10, "what the last layer gets on top")] = 0.5,
    depth_order: Annotated[str, Choice(ORDERS, "depth within each stack, or through encoder and decoder")] = "stack",
    depth: float | None = None,
) -> Tensor:
    """Add the experts, shallow layers less than deep ones.

    Early layers hold what all tasks share and are best left near the base; late layers hold what a task has of its own.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        alpha: scale at depth 0 and of tensors outside the layers.
        beta: slope.
        depth_order: what depth means; used by the engine.
        depth: of the tensor, 0 to 1, ``None`` outside the layers.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    return deltas.sum(0) * ((1 / len(deltas) if alpha is None else alpha) + beta * (depth or 0.0))
