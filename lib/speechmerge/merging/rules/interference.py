"""Task matrices chosen so that they disturb each expert least, from the task matrices alone: WUDI and OptMerge."""

from typing import Annotated

import torch
from torch import Tensor

from ..methods import Choice, Range, method
from .decompositions import factors
from .primitives import adam_step

Steps = Annotated[int, Range(0, 100_000, "steps of the optimiser")]
Rate = Annotated[float, Range(0, 1, "learning rate, in units of the largest entry where scaled", open_low=True)]
Scaled = Annotated[bool, Choice((True, False), "measure entries in units of the largest one")]


def _descend(start: Tensor, grams: Tensor, products: Tensor, *, steps: int, rate: float, optimiser: str) -> Tensor:
    """Minimise tr(τ A τᵀ) - 2 tr(τ Bᵀ), A = Σ grams, B = Σ products, from ``start``; its gradient is 2(τA - B).

    The objective is the paper's, multiplied out, so that a step costs one product however many experts there are.
    """
    a, b, x = grams.sum(0), products.sum(0), start.clone()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, steps + 1):
        gradient = 2 * (x @ a - b)
        if optimiser == "sgd":  # with momentum 0.9
            first = 0.9 * first + gradient
            x = x - rate * first
        else:
            adam_step(x, first, second, gradient, step=step, rate=rate)
    return x


def _grams(projections: Tensor, deltas: Tensor) -> Tensor:
    """Return P_tᵀP_t / ‖Δ_t‖² for projections ``[T, ..., k, n]``; zero experts count nothing."""
    size = deltas.square().sum((-2, -1), keepdim=True)
    return projections.mT @ projections / torch.where(size > 0, size, 1)


def _unit(deltas: Tensor, scaled: bool) -> Tensor:
    """Return the largest entry of each task matrix's experts, or one; shape ``[..., 1, 1]``."""
    largest = deltas.abs().amax((0, -2, -1), keepdim=True)[0].clamp(min=1e-30)
    return largest if scaled else torch.ones_like(largest)


_MAPS = {"family": "subspace", "acts_on": "matrices", "gives": "merged", "scale": "sum"}


@method(
    "wudi",
    title="WUDI-Merging",
    paper="arXiv 2503.08099",
    equation=r"\min_\tau\sum_t\frac{\|(\tau-\Delta_t)\Delta_t^{\top}\|_F^2}{\|\Delta_t\|_F^2}",
    others="base",
    flavours={"official": {"scaled": False}, "fusion_bench": {"scaled": False, "steps": 400}},
    deviations="The authors' learning rate is absolute and would move a speech model's fine-tunes by many times their "
    "size, so entries are measured in units of the largest one (scaled). FusionBench takes the mean of all other "
    "tensors (policy), the authors leave them at the base.",
    **_MAPS,
)
def wudi(
    deltas: Tensor,
    *,
    solver: Annotated[
        str, Choice(("adam", "closed_form"), "early-stopped Adam from the sum, or the minimum itself")
    ] = "adam",
    steps: Steps = 300,
    rate: Rate = 1e-5,
    scaled: Scaled = True,
) -> Tensor:
    """Find the task matrix that changes each expert's outputs least on inputs that lie along its own task matrix.

    The rows of a task matrix span roughly the inputs it was trained on, so interference can be measured without any
    data.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``.
        solver: ``"closed_form"`` is the minimum nearest to zero, (Σ Δ_tG_t)(Σ G_t)⁺ with G_t = Δ_tᵀΔ_t / ‖Δ_t‖².
        steps: of Adam.
        rate: of Adam.
        scaled: see the method's deviations.

    Returns:
        The merged task matrix, shape ``[..., m, n]``.
    """
    if solver == "closed_form":
        double = deltas.double()
        grams = _grams(double, double)
        total, right = grams.sum(0), (double @ grams).sum(0)
        return (right @ torch.linalg.pinv(total, hermitian=True, rtol=1e-10)).to(deltas.dtype)
    unit = _unit(deltas, scaled)
    grams = _grams(deltas / unit, deltas / unit)
    found = _descend(deltas.sum(0) / unit, grams, deltas / unit @ grams, steps=steps, rate=rate, optimiser="adam")
    return found * unit


@method(
    "optmerge",
    title="OptMerge",
    paper="arXiv 2505.19892",
    equation=r"\min_\tau\sum_t\frac{\|(\tau-\hat\Delta_t)\,(\Sigma_kV_k^{\top})_t^{\top}\|_F^2}{\|\Delta_t\|_F^2}",
    others="mean",
    flavours={"lora": {"centred": False, "optimiser": "sgd", "rate": 1e-4, "start": "mean"}},
    deviations="The authors' two code paths differ: full fine-tunes (default) and LoRA ('lora'). Entries are measured "
    "in units of the largest one, as for WUDI.",
    **_MAPS,
)
def optmerge(
    deltas: Tensor,
    *,
    steps: Steps = 300,
    rate: Rate = 1e-5,
    centred: Annotated[bool, Choice((True, False), "truncate the deviation from the experts' mean")] = True,
    optimiser: Annotated[str, Choice(("adam", "sgd"), "which optimiser")] = "adam",
    start: Annotated[str, Choice(("sum", "mean"), "where it starts")] = "sum",
    scaled: Scaled = True,
) -> Tensor:
    """Do as WUDI, with experts reduced to their leading directions so that noise is not protected.

    Each expert's deviation from the mean is cut to an equal share of the rank before the interference is measured.

    Args:
        deltas: task matrices, shape ``[T, ..., m, n]``; each is reduced to rank ⌊min(m, n) / T⌋.
        steps: of the optimiser.
        rate: of the optimiser.
        centred: reduce Δ_t minus the mean, and add the mean back.
        optimiser: Adam, or SGD with momentum 0.9.
        start: sum or mean of the experts.
        scaled: see :func:`wudi`.

    Returns:
        The merged task matrix, shape ``[..., m, n]``.
    """
    unit = _unit(deltas, scaled)
    unitless = deltas / unit
    mean = unitless.mean(0) if centred else torch.zeros_like(deltas[0])
    k = max(1, min(deltas.shape[-2:]) // len(deltas))
    triplets = [factors(delta - mean, k) for delta in unitless]
    targets = torch.stack([(u * s.unsqueeze(-2)) @ v.mT for u, s, v in triplets]).to(deltas.dtype) + mean
    projections = torch.stack([(v * s.unsqueeze(-2)).mT for _, s, v in triplets]).to(deltas.dtype)
    grams = _grams(projections, unitless)
    origin = unitless.sum(0) if start == "sum" else unitless.mean(0)
    found = _descend(origin, grams, targets @ grams, steps=steps, rate=rate, optimiser=optimiser)
    return found * unit
