"""How long a merged update is beside its experts' own: said of the whole model, refused where a tensor's is absurd."""

import logging
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import MethodError
from .rules.primitives import per_expert

if TYPE_CHECKING:
    from .run import Run

log = logging.getLogger(__name__)

MAX_GROWTH = 100.0  # of one tensor; thinning to a density d and rescaling alone makes it up to 1/√d times as long
TOLD = 10.0  # of one tensor; no published method comes near it on tensors of a model's size


def squares(rows: Tensor) -> list[float]:
    """Return the squared length of each row ``[K, n]``; infinite or NaN where a number is, or is huge."""
    return [torch.dot(row, row).item() for row in rows]


class Lengths:
    """The squared lengths of merged updates (without λ) and of the experts' updates, tensor by tensor."""

    def __init__(self, *, complete: bool = True) -> None:
        self.merged: dict[str, float] = {}
        self.experts: dict[str, list[float]] = {}
        self.complete = complete  # not where a merge was taken up again

    def add(self, name: str, start: int, merged: float, experts: list[float]) -> None:
        """Add a block of a tensor; the one that starts at 0 is the first, also of a tensor that is merged again."""
        before = (0.0, [0.0] * len(experts)) if start == 0 else (self.merged[name], self.experts[name])
        self.merged[name] = before[0] + merged
        self.experts[name] = [a + b for a, b in zip(before[1], experts, strict=True)]

    def growth(self, scaling: float, names: Iterable[str] | None = None) -> float:
        """Return λ‖τ‖ / Σ‖τ_t‖ over some tensors, or all so far."""
        names = self.merged if names is None else list(names)
        merged = math.fsum(self.merged[name] for name in names)
        experts = [math.fsum(column) for column in zip(*(self.experts[name] for name in names), strict=True)]
        return _ratio(abs(scaling) * math.sqrt(merged), sum(map(math.sqrt, experts)))


def _ratio(merged: float, experts: float) -> float:
    return merged / experts if experts > 0 else 0.0


def check(run: "Run", name: str) -> None:
    """Check that a merged tensor stayed in the neighbourhood of its experts.

    Raises:
        MethodError: λτ is more than ``max_growth`` times as long as the experts' updates together, beyond what their
            weights and λ themselves make of it.
    """
    if name not in run.lengths.merged:
        return
    merge = run.merge
    scaling, limit = abs(merge.scaling), merge.max_growth * max(1.0, abs(merge.scaling))
    given = run.known.weights if merge.method.gives == "experts" else run.known.options.get("weights")
    weights = per_expert(None if isinstance(given, Tensor) else given, len(merge.experts))  # a tensor was learnt
    sizes = [max(1.0, abs(w)) for w in weights]
    experts = sum(w * math.sqrt(x) for w, x in zip(sizes, run.lengths.experts[name], strict=True))
    growth = _ratio(scaling * math.sqrt(run.lengths.merged[name]), experts)
    if growth > limit:
        # With RegMean's own ridge, inputs that hardly vary decide; 1e-4 makes far shorter updates, no worse on dev.
        hint = ", for example ridge=1e-4" if merge.parameters.get("ridge", 1.0) < 1e-4 else ""
        hint = hint if merge.parameters.get("flavour", "paper") == "paper" else ", for example flavour='paper'"
        raise MethodError(
            f"{merge.method.name} made an update of {name!r} that is {growth:.3g} times as long as those of all "
            f"experts together, expected under {limit:g}; nothing was written. Some methods do so where experts cancel "
            f"out: take another method or other parameters{hint}, or raise max_growth if it is meant."
        )


def rounded(run: "Run") -> float | None:
    """Return the whole merge's λ‖τ‖ / Σ‖τ_t‖ for its record, if all of it was merged just now."""
    return float(f"{run.lengths.growth(run.merge.scaling):.3g}") if run.lengths.complete else None


def tell(run: "Run") -> None:
    """Log a warning where the merged update, or that of a tensor, is far longer than its experts'."""
    merge = run.merge
    each = {name: run.lengths.growth(merge.scaling, [name]) for name in run.lengths.merged}
    worst = max(each, key=each.get, default=None)
    if worst and each[worst] > TOLD:
        log.warning(
            "%s: the merged update is %.3g times as long as those of all experts together, that of %s %.3g times; such "
            "a model has left their neighbourhood.",
            *(merge.method.name, run.lengths.growth(merge.scaling), worst, each[worst]),
        )
