"""Coefficients learnt without texts: a merged model hears speech, and becomes surer of what it hears itself."""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from ..methods import Range, method
from .learned import Groups, Rate, Steps, adam


def _entropy(gradient: Callable, rows: int, experts: int, *, steps: int, rate: float, initial: float, **_) -> Tensor:
    """Return coefficients ``[G, T]`` of the last step, each kept in [0, 1]."""
    start = torch.full((rows, experts), initial, dtype=torch.float64)
    return adam(gradient, start, lambda alpha: alpha, steps, rate, limits=(0.0, 1.0), keep="last")


@method(
    "adamerging",
    title="AdaMerging",
    family="learned",
    paper="arXiv 2310.02575",
    equation=r"\theta=\theta_0+\sum_t\sum_l\lambda_t^l\tau_t^l,\ \min_\lambda\sum_t\frac1{N_t}\sum_iH(p_\theta(y_i|"
    r"\hat y_{<i},x)),\ 0\le\lambda_t^l\le1",
    acts_on="entries",
    measure="entropy",
    fit=_entropy,
    deviations="The paper classifies pictures; here the entropy is that of each token along the merged model's own "
    "greedy output, decoded anew in every step, over the tokens that decoding may choose, the prompt left out, and "
    "every expert's speech counts alike. Public code for T5 takes the first token only, and the entropy of the batch's "
    "mean logits. The paper hears unlabelled test data; here by default dev. With task vectors trimmed as in TIES "
    "(AdaMerging++) it is not built.",
)
def adamerging(
    deltas: Tensor,
    *,
    groups: Groups = "tensor",
    steps: Steps = 500,
    rate: Rate = 1e-3,
    initial: Annotated[float, Range(0, 1, "coefficient every expert starts from")] = 0.3,
) -> Tensor:
    """Add the task vectors with coefficients that make the merged model surest of its own output on unlabelled speech.

    A model that knows a domain is seldom in two minds about the next token, so that sureness stands in for texts; a
    model can also grow sure of nonsense, and the length of its output tells.

    Needs ``extras={"entropy": function of a merged state dict giving (entropy, gradient by tensor name)}``.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        groups: ``"model"`` is the paper's task-wise form, ``"tensor"`` the layer-wise form of its code.
        steps: of Adam; 0 gives task arithmetic at λ = ``initial``.
        rate: of Adam.
        initial: coefficient at the start.

    Returns:
        The same deltas; the engine adds them with the coefficients learnt.
    """
    return deltas
