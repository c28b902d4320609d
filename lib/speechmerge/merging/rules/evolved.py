"""Weights of experts found by evolution: CMA-ES proposes, merged models are measured, no gradient is needed."""

import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ...budget import Budget
from ...errors import MethodError
from ..methods import PerExpert, Range, method
from .learned import Groups
from .primitives import per_expert
from .ranking import keep_count, keep_largest

BOX = (-0.5, 1.5)  # of the coefficients of evolved task arithmetic
SIGNED = (-1.5, 1.5)  # … and of Evo-Merging
Evaluations = Annotated[int, Range(0, 1_000_000, "merged models measured, at most")]
Population = Annotated[int, Range(0, 10_000, "proposals of one generation; 0 takes 4 + 3 ln n for n numbers")]
Seconds = Annotated[float, Range(0, 1e7, "on the clock for the search, at most; 0 sets no limit")]
Draws = Annotated[int, Range(0, 2**63 - 1, "seed of the proposals")]


def evolve(
    objective: Callable[[np.ndarray], float],
    start: np.ndarray,
    bounds: tuple[float | None, float | None],
    *,
    evaluations: int,
    population: int,
    sigma: float,
    seed: int,
    seconds: float,
) -> np.ndarray:
    """Minimise by CMA-ES (arXiv 1604.00772) within a box; return the best point that was measured, ``[n]``.

    The start is measured first, so that the result is never worse. Ends with the budget, or by CMA-ES' own criteria.

    Args:
        objective: of a point ``[n]``.
        start: shape ``[n]``.
        bounds: of every number.
        evaluations: of the objective, at most; 0 returns the start.
        population: see :data:`Population`.
        sigma: standard deviation of the first proposals.
        seed: of the proposals.
        seconds: see :data:`Seconds`.

    Raises:
        MethodError: the evaluations are fewer than the start and one generation.
    """
    clock, size = Budget(seconds or None), population or 4 + int(3 * math.log(max(2, len(start))))
    if evaluations == 0:
        return start
    if evaluations <= size:
        raise MethodError(
            f"a budget of {evaluations} evaluations is too small for the start and one generation of {size}; give "
            f"{size + 1} or more, or a smaller population."
        )
    import cma  # here, for who merges otherwise need not wait for it

    random = np.random.default_rng(seed)
    search = cma.CMAEvolutionStrategy(
        start if len(start) > 1 else np.repeat(start, 2),  # one number alone it does not search
        sigma,
        {
            "bounds": list(bounds),
            "popsize": size,
            "randn": lambda *shape: random.standard_normal(shape),
            "seed": math.nan,  # the global generator stays untouched
            "verbose": -9,
        },
    )
    best, lowest, left = start, objective(start), evaluations - 1
    while left >= size and not search.stop():
        points, values = search.ask(), []
        for point in points:
            if clock.left() <= 0:
                return best
            values.append(objective(point[: len(start)]))
            if values[-1] < lowest:
                best, lowest = np.array(point[: len(start)]), values[-1]
        search.tell(points, values)
        left -= size
    return best


def _average(loss: Callable, rows: int, experts: int, **budget) -> Tensor:
    """Return weights ``[G, T]`` on the simplex."""

    def weights(point: np.ndarray) -> Tensor:
        return torch.tensor(point).view(rows, experts).softmax(-1)

    found = evolve(lambda point: loss(weights(point)), np.zeros(rows * experts), (None, None), **_own(budget))
    return weights(found)


def _arithmetic(loss: Callable, rows: int, experts: int, *, initial: float, **budget) -> Tensor:
    """Return coefficients ``[G, T]`` in a box."""
    start = np.full(rows * experts, initial)
    found = evolve(lambda point: loss(torch.tensor(point).view(rows, experts)), start, BOX, **_own(budget))
    return torch.tensor(found).view(rows, experts)


def _own(options: dict) -> dict:
    """Return the options of the search."""
    return {name: options[name] for name in ("evaluations", "population", "sigma", "seconds", "seed")}


_EVOLVED = {"family": "learned", "paper": "arXiv 1604.00772", "acts_on": "entries", "measure": "loss"}
_EVOLVED |= {"stochastic": True}
_NEEDS = "CMA-ES in the place of Adam, on the same teacher-forced loss, so that the two can be compared. "


@method(
    "evolved_average",
    title="Evolved weighted average",
    equation=r"\theta=\sum_tw_t\theta_t,\ w=\operatorname{softmax}(z),\ z\sim N(m,\sigma^2C)",
    fit=_average,
    variant_of="learned_average",
    deviations=_NEEDS + "The best weights that were measured are used, equal ones among them.",
    **_EVOLVED,
)
def evolved_average(
    deltas: Tensor,
    *,
    groups: Groups = "model",
    evaluations: Evaluations = 200,
    population: Population = 0,
    sigma: Annotated[float, Range(0, 10, "standard deviation of the first proposals", open_low=True)] = 0.5,
    seconds: Seconds = 0.0,
    seed: Draws = 0,
) -> Tensor:
    """Average the experts with weights found by trying populations of them on dev, positive and summing to one.

    Each generation is drawn around the best of the last; only losses are compared, so that any measure would do.

    Needs ``extras={"loss": function of a merged state dict}``.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        groups: one set of weights for the model, each stack, or each layer.
        evaluations: of merged models; 0 gives the uniform average.
        population: of a generation.
        sigma: of the softmax's inputs.
        seconds: for the search.
        seed: of the search.

    Returns:
        The same deltas; the engine adds them with the weights found.
    """
    return deltas


@method(
    "evolved_arithmetic",
    title="Evolved task arithmetic",
    equation=r"\theta=\theta_0+\sum_t\alpha_t\tau_t,\ \alpha\sim N(m,\sigma^2C)",
    fit=_arithmetic,
    variant_of="learned_arithmetic",
    deviations=_NEEDS + "The best coefficients that were measured are used, those of the start among them.",
    **_EVOLVED,
)
def evolved_arithmetic(
    deltas: Tensor,
    *,
    groups: Groups = "model",
    evaluations: Evaluations = 200,
    population: Population = 0,
    sigma: Annotated[float, Range(0, 10, "standard deviation of the first proposals", open_low=True)] = 0.15,
    initial: Annotated[float, Range(*BOX, "coefficient every expert starts from")] = 0.3,
    seconds: Seconds = 0.0,
    seed: Draws = 0,
) -> Tensor:
    """Add the task vectors with coefficients from -0.5 to 1.5 found by trying populations of them on dev.

    It needs many more evaluations than gradients do, each without a backward pass and without the memory for one.

    Needs ``extras={"loss": ...}`` as :func:`evolved_average`.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        groups: one set of coefficients for the model, each stack, or each layer.
        evaluations: of merged models; 0 gives task arithmetic at λ = ``initial``.
        population: of a generation.
        sigma: of the coefficients.
        initial: coefficient at the start.
        seconds: for the search.
        seed: of the search.

    Returns:
        The same deltas; the engine adds them with the coefficients found.
    """
    return deltas


def _evo(
    loss: Callable,
    rows: int,
    experts: int,
    *,
    density: float | list[float],
    denoising: int,
    evaluations: int,
    penalty: float,
    seconds: float,
    **options,
) -> tuple[Tensor, dict]:
    """Find the kept fraction of each expert, then its factor; returns weights ``[1, T]`` and the fractions."""
    search = {name: options[name] for name in ("population", "sigma", "seed")}
    even, whole = torch.full((rows, experts), 1 / experts, dtype=torch.float64), max(1, denoising + evaluations)

    def sparse(kept: np.ndarray) -> float:
        return loss(even, density=kept.tolist()) + penalty * np.abs(kept).mean()

    start, share = np.array(per_expert(density, experts)), seconds / whole
    found = evolve(sparse, start, (0, 1), evaluations=denoising, seconds=share * denoising, **search)
    kept = found.tolist()

    def scaled(factors: np.ndarray) -> float:
        return loss(torch.tensor(factors)[None], density=kept) + penalty * np.abs(factors).mean()

    start = np.full(experts, 1 / experts)
    factors = evolve(scaled, start, SIGNED, evaluations=evaluations, seconds=share * evaluations, **search)
    return torch.tensor(factors)[None], {"density": kept}


@method(
    "evo_merging",
    title="Evo-Merging",
    family="learned",
    paper="arXiv 2509.12951",
    equation=r"\theta=\theta_0+\sum_tb_t\operatorname{top}_{a_t}(\tau_t),\ \min_aL(\theta)+\rho\,\overline{|a|},\ "
    r"\min_bL(\theta)+\rho\,\overline{|b|}",
    acts_on="tensors",
    measure="loss",
    fit=_evo,
    stochastic=True,
    deviations="The paper merges LoRA pairs and thins one factor of each, which also brings in products of one "
    "expert's factor with another's, and cancels the sign of its own; here whole task vectors are thinned tensor by "
    "tensor, so that a negative factor takes an expert away. Public code compares the second stage with the first "
    "under another penalty; here each stage measures its own start, so that the second never ends worse than it began.",
)
def evo_merging(
    deltas: Tensor,
    *,
    density: Annotated[PerExpert, Range(0, 1, "fraction of entries kept, from which its search starts")] = 1.0,
    denoising: Annotated[int, Range(0, 1_000_000, "merged models measured for the densities, at most")] = 400,
    evaluations: Annotated[int, Range(0, 1_000_000, "merged models measured for the factors, at most")] = 800,
    population: Population = 20,
    sigma: Annotated[float, Range(0, 10, "standard deviation of the first proposals", open_low=True)] = 0.05,
    penalty: Annotated[float, Range(0, 100, "ρ, what a mean density or factor of 1 costs")] = 0.05,
    seconds: Seconds = 0.0,
    seed: Draws = 0,
) -> Tensor:
    """Thin each task vector as far as the loss allows, then weigh what is left by a factor that may be negative.

    Both are found by CMA-ES with a price on size: first how much of each expert is kept, all weighing alike, then how
    much each counts. No gradient is needed, so that the model may be a black box.

    Needs ``extras={"loss": ...}`` as :func:`evolved_average`.

    Args:
        deltas: task vectors, shape ``[T, ...]``.
        density: a_t, where the first stage starts; with ``denoising`` 0 it stays so.
        denoising: evaluations of the first stage; 0 leaves it out.
        evaluations: of the second stage; 0 leaves it out, and all factors are 1 / T.
        population: of a generation.
        sigma: of densities and factors.
        penalty: ρ.
        seconds: for both stages, each its share.
        seed: of both searches.

    Returns:
        The thinned deltas; the engine adds them with the factors found.
    """
    kept = per_expert(density, len(deltas))
    thinned = [keep_largest(d.flatten(), keep_count(k, d.numel())) for d, k in zip(deltas, kept, strict=True)]
    return torch.stack(thinned).view_as(deltas)
