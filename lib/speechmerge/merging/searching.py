"""The λ of a merge as a continuous number: a coarse bracket over two powers of ten, then Brent's method inside it."""

import math
from collections.abc import Callable, Sequence

from scipy.optimize import minimize_scalar

from ..errors import MethodError

BRACKET = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0)
TOLERANCE = 0.02  # of ln λ: two per cent
FINALISTS = 2  # values that are decoded after the search
STEP, STEPS = 1.6, 8  # of a descent: the factor between neighbouring values, and how many are tried before the vertex
NEAR = 0.05  # of ln λ: a vertex closer to a value that was tried is not worth another evaluation
APART = 0.15  # of ln λ: values closer than this are not told apart by decoding


def _noted(loss: Callable[[float], float], tried: dict[float, float]) -> Callable[[float], float]:
    """Return a loss that is evaluated once for each λ and noted in ``tried``; one that is not finite is infinite."""

    def at(value: float) -> float:
        if value not in tried:
            found = loss(value)
            tried[value] = found if math.isfinite(found) else math.inf
        return tried[value]

    return at


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
    at = _noted(loss, tried)
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


def descend(
    loss: Callable[[float], float],
    start: float,
    *,
    step: float = STEP,
    worth: Callable[[], bool] = lambda: True,
) -> list[tuple[float, float]]:
    """Minimise a loss over λ from a guess, in few evaluations, and return all ``(λ, loss)`` tried, the best first.

    From ``start`` it goes downhill in steps of a factor until the loss rises on both sides, then to the vertex of the
    parabola through the three lowest neighbours, on a logarithmic scale. A loss that is not finite counts as infinite.

    Args:
        loss: of λ; evaluated once for each value.
        start: above 0.
        step: the factor, above 1.
        worth: whether the vertex is to be sought, asked once the loss rises on both sides.
    """
    tried: dict[float, float] = {}
    ask = _noted(loss, tried)

    def at(power: int) -> float:
        return ask(rounded(start * step**power))

    here = at(0)
    low = high = best = 0
    while len(tried) < STEPS and (high == best or low == best):
        up = high == best
        high, low = (high + 1, low) if up else (high, low - 1)
        if at(high if up else low) < here:
            best = high if up else low
            here = at(best)
    if math.isfinite(here) and low < best < high and worth():
        vertex = _vertex([(math.log(start) + p * math.log(step), at(p)) for p in (best - 1, best, best + 1)])
        value = rounded(math.exp(vertex))
        if min(abs(math.log(value / other)) for other in tried) >= NEAR:
            ask(value)
    return sorted(tried.items(), key=lambda pair: pair[1])


def rounded(value: float) -> float:
    """Round λ to four digits, which is finer than any loss can tell and short enough for a recipe."""
    return float(f"{value:.4g}")


def _vertex(points: Sequence[tuple[float, float]]) -> float:
    """Return where the parabola through three points is lowest, the middle one where a neighbour is not finite."""
    (a, fa), (b, fb), (c, fc) = points
    if not (math.isfinite(fa) and math.isfinite(fc)):
        return b
    below = (b - a) * (fb - fc) - (b - c) * (fb - fa)
    return b - 0.5 * ((b - a) ** 2 * (fb - fc) - (b - c) ** 2 * (fb - fa)) / below if below else b
