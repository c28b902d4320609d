"""Weights of experts found by measuring merged models: greedy soups, learned averages, Frank-Wolfe merging.

``fit`` functions see numbers only: they propose weights, get back a score or a loss with its gradient, and return the
weights to use.
"""

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, Range, method

Steps = Annotated[int, Range(0, 10_000, "steps of Adam")]
Rate = Annotated[float, Range(0, 10, "learning rate of Adam", open_low=True)]
Groups = Annotated[
    str,
    Choice(
        ("model", "stack", "layer", "tensor"),
        "what gets weights of its own: the model, encoder and decoder, each layer, each tensor",
    ),
]


def _greedy(score: Callable[[Tensor], float], rows: int, experts: int, *, ties: str) -> Tensor:
    """Add experts, best first, as long as the mean of those chosen does not get worse; returns weights ``[G, T]``."""
    alone = [score(torch.eye(experts)[t].expand(rows, -1)) for t in range(experts)]
    order = sorted(range(experts), key=lambda t: alone[t])  # a stable sort: of equals the first given
    chosen, best = [order[0]], alone[order[0]]
    for t in order[1:]:
        weights = torch.zeros(experts)
        weights[[*chosen, t]] = 1 / (len(chosen) + 1)
        found = score(weights.expand(rows, -1))
        if found < best or (found == best and ties == "accept"):
            chosen, best = [*chosen, t], found
    weights = torch.zeros(experts)
    weights[chosen] = 1 / len(chosen)
    return weights.expand(rows, -1)


@method(
    "greedy_soup",
    title="Greedy soup",
    family="learned",
    paper="arXiv 2203.05482",
    equation=r"\theta=\frac1{|S|}\sum_{t\in S}\theta_t",
    acts_on="entries",
    fit=_greedy,
    measure="score",
    flavours={"official": {"ties": "refuse"}},
    deviations="The score is an error (lower is better). The paper's recipe accepts an expert that changes nothing, "
    "its code does not.",
)
def greedy_soup(
    deltas: Tensor,
    *,
    ties: Annotated[str, Choice(("accept", "refuse"), "whether an expert that changes nothing is added")] = "accept",
) -> Tensor:
    """Add experts to the average one after another, best first, as long as the error on dev does not rise.

    An expert that hurts is left out instead of averaged in, so the result is never worse on dev than the best expert.

    Needs ``extras={"score": function of a merged state dict}``; T + (T - 1) evaluations.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        ties: what happens at equal scores.

    Returns:
        The same deltas; the engine adds those chosen.
    """
    return deltas


def adam(
    gradient: Callable[[Tensor], tuple[float, Tensor]],
    start: Tensor,
    weights: Callable,
    steps: int,
    rate: float,
    *,
    limits: tuple[float, float] | None = None,
    keep: str = "lowest",
) -> Tensor:
    """Minimise a loss over ``start``'s variables through ``weights``.

    Args:
        gradient: of weights, their loss and its gradient.
        start: variables, ``[G, T]``.
        weights: of the variables.
        steps: of Adam.
        rate: of Adam.
        limits: in which the variables are kept.
        keep: ``"lowest"`` returns the weights of the lowest loss seen, ``"last"`` those after the last step.
    """
    variables = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([variables], lr=rate)
    best, lowest = weights(start).detach(), float("inf")
    for _ in range(steps):
        optimiser.zero_grad()
        proposed = weights(variables)
        loss, slope = gradient(proposed.detach())
        if loss < lowest:
            best, lowest = proposed.detach().clone(), loss
        proposed.backward(slope.to(proposed.dtype))
        optimiser.step()
        if limits:
            variables.data.clamp_(*limits)
    return best if keep == "lowest" else weights(variables).detach()


def _simplex(gradient: Callable, rows: int, experts: int, *, steps: int, rate: float, **_) -> Tensor:
    start = torch.zeros(rows, experts, dtype=torch.float64)
    return adam(gradient, start, lambda z: z.softmax(-1), steps, rate)


def _free(gradient: Callable, rows: int, experts: int, *, steps: int, rate: float, initial: float, **_) -> Tensor:
    start = torch.full((rows, experts), initial, dtype=torch.float64)
    return adam(gradient, start, lambda alpha: alpha, steps, rate)


_LEARNED = {"family": "learned", "paper": "generic", "acts_on": "entries", "measure": "gradient"}
_NEEDS = "Weights are learnt on dev data, which data-free methods do not use. "


@method(
    "learned_average",
    title="Learned weighted average",
    equation=r"\theta=\sum_tw_t\theta_t,\ w=\operatorname{softmax}(z)",
    fit=_simplex,
    deviations=_NEEDS
    + "Adam on the softmax's inputs from equal weights; the weights of the lowest loss seen are used.",
    **_LEARNED,
)
def learned_average(deltas: Tensor, *, groups: Groups = "model", steps: Steps = 100, rate: Rate = 1e-2) -> Tensor:
    """Average the experts with weights learnt by gradient descent on dev, positive and summing to one.

    The result stays between the experts; what is learnt is how much each of them counts.

    Needs ``extras={"gradient": function of a merged state dict giving (loss, gradient by tensor name)}``.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        groups: one set of weights for the model, each stack, or each layer.
        steps: of Adam; 0 gives the uniform average.
        rate: of Adam.

    Returns:
        The same deltas; the engine adds them with the weights learnt.
    """
    return deltas


@method(
    "learned_arithmetic",
    title="Learned task arithmetic",
    equation=r"\theta=\theta_0+\sum_t\alpha_t\tau_t,\ "
    r"\frac{\partial L}{\partial\alpha_t}=\langle\nabla_\theta L,\tau_t\rangle",
    fit=_free,
    deviations=_NEEDS + "Adam on the coefficients; those of the lowest loss seen are used.",
    **_LEARNED,
)
def learned_arithmetic(
    deltas: Tensor,
    *,
    groups: Groups = "model",
    steps: Steps = 100,
    rate: Rate = 1e-2,
    initial: Annotated[float, Range(-10, 10, "coefficient every expert starts from")] = 0.3,
) -> Tensor:
    """Add the task vectors with coefficients learnt by gradient descent on dev, of any sign and size.

    Without the constraint to sum to one, the result can go further than any expert, or away from one.

    Needs ``extras={"gradient": ...}`` as :func:`learned_average`.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        groups: one set of coefficients for the model, each stack, or each layer.
        steps: of Adam; 0 gives task arithmetic at λ = ``initial``.
        rate: of Adam.
        initial: coefficient at the start.

    Returns:
        The same deltas; the engine adds them with the coefficients learnt.
    """
    return deltas


def _frank_wolfe(
    gradient: Callable, rows: int, experts: int, *, steps: int, rate: float, initial: float, **_
) -> Tensor:
    """Go towards the vertex of steepest descent, an expert or the start, step by step; returns weights ``[G, T]``."""
    weights = torch.full((rows, experts), initial, dtype=torch.float64)
    vertices = torch.cat([torch.eye(experts, dtype=torch.float64), weights[:1]])
    for step in range(steps):
        _, slope = gradient(weights)
        best = vertices[(slope.to(vertices) @ vertices.mT).argmin(-1)]
        falls = (slope * (best - weights)).sum(-1, keepdim=True) < 0  # else no vertex lies downhill
        weights = torch.where(falls, weights.lerp(best, 2 / (step + 2) * rate), weights)
    return weights


@method(
    "frank_wolfe",
    title="Frank-Wolfe merging (hard)",
    family="learned",
    paper="arXiv 2503.12649",
    equation=r"\theta^{k+1}=\theta^k+\gamma_k(s_k-\theta^k),\ s_k=\arg\min_{s\in\{\theta^0,\theta_1,\dots,\theta_T\}}"
    r"\langle\nabla L(\theta^k),s\rangle,\ \gamma_k=\frac{2}{k+2}\gamma",
    acts_on="entries",
    measure="gradient",
    fit=_frank_wolfe,
    flavours={"fusion_bench": {"rate": 0.03}},
    deviations="θ⁰ is the start, not the base. Public code ranks the models by the cosine of the gradient and their "
    "whole weights, summed over tensors, which scarcely differs where all have the base's length; here by the inner "
    "product, as the algorithm's name says. It starts from task arithmetic, and merges the chosen model by task "
    "arithmetic, whose λ becomes a factor of γ. With soft choices (a mixture learnt in each step) it is not built. The "
    "last iterate is used.",
)
def frank_wolfe(
    deltas: Tensor,
    *,
    groups: Groups = "model",
    steps: Annotated[int, Range(0, 10_000, "steps, each with one gradient")] = 10,
    rate: Annotated[float, Range(0, 1, "γ: part of each step 2 / (k + 2) that is gone", open_low=True)] = 1.0,
    initial: Annotated[float, Range(-10, 10, "coefficient of every expert at the start")] = 0.3,
) -> Tensor:
    """Pick the model in whose direction the loss on dev falls most, go a shorter and shorter way to it, and repeat.

    An expert that does not help is never picked, so a pool may hold any number of such; the result is a mean of the
    start and the experts picked.

    Needs ``extras={"gradient": ...}`` as :func:`learned_average`.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        groups: one choice for the model, each stack, or each layer.
        steps: 0 gives task arithmetic at λ = ``initial``.
        rate: γ; with 1 the first step goes all the way to one model.
        initial: of the start, which can be picked as well.

    Returns:
        The same deltas; the engine adds them with the weights found.
    """
    return deltas
