"""The λ of a merge as a continuous number: a coarse bracket over two powers of ten, then Brent's method inside it."""

import math
from collections.abc import Callable, Sequence

from scipy.optimize import minimize_scalar

from ..errors import MethodError

BRACKET = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0)
TOLERANCE = 0.02  # of ln λ: two per cent
FINALISTS = 2  # values that are decoded after the search
APART = 0.15  # of ln λ: values closer than this are not told apart by decoding


def minimum(loss: Callable[[float], float], bracket: Sequence[float] = BRACKET) -> list[tuple[float, float]]:
    """Minimise a loss over λ and return all ``(λ, loss)`` that were tried, the best first.

    The bracket is walked upwards until the loss has risen twice in a row; the minimum is then sought between the
    neighbours of its best point, on a logarithmic scale. A loss that is not finite counts as infinite.

    Args:
        loss: of λ; evaluated once for each value.
        bracket: rising values above 0.

    Raises:
        MethodError: no value of the bracket has a finite loss.
    """
    tried: dict[float, float] = {}

    def at(value: float) -> float:
        if value not in tried:
            found = loss(value)
            tried[value] = found if math.isfinite(found) else math.inf
        return tried[value]

    for i, value in enumerate(bracket):
        at(value)
        if i > 1 and tried[bracket[i - 2]] < tried[bracket[i - 1]] < tried[value]:
            break
    points = sorted(tried)
    best = min(range(len(points)), key=lambda i: tried[points[i]])
    if math.isinf(tried[points[best]]):
        raise MethodError(f"no λ from {points[0]:g} to {points[-1]:g} gives a finite loss on dev speech.")
    ends = points[max(0, best - 1)], points[min(len(points) - 1, best + 1)]
    bounds = tuple(map(math.log, ends))
    minimize_scalar(lambda x: at(round(math.exp(x), 6)), bounds=bounds, method="bounded", options={"xatol": TOLERANCE})
    return sorted(tried.items(), key=lambda pair: pair[1])


def finalists(tried: Sequence[tuple[float, float]], most: int = FINALISTS) -> list[float]:
    """Return the λ of the lowest losses that lie apart, at most ``most``; ``tried`` as :func:`minimum` gives it."""
    kept: list[float] = []
    for value, loss in tried:
        apart = all(abs(math.log(value / other)) >= APART for other in kept)
        if apart and math.isfinite(loss) and len(kept) < most:
            kept.append(value)
    return kept
