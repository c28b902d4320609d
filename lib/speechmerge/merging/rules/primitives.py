"""What several rules are made of: choosing the largest entries, electing signs, order statistics of a whole model."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 18  # entries of a tensor handled at once, within a CPU's cache
_LONG = 1 << 16  # rows from this length on are ranked by way of a sample
_STRIDE = 509  # one number in so many is sampled; prime, so that it never falls in step with rows


class Piece(NamedTuple):
    """What a prepass sees of one tensor or block: deltas ``[T, ...]``, the scalars of its tensor, Fishers or none."""

    deltas: Tensor
    size: int
    fisher: Tensor | None = None


Stream = Callable[[], Iterable[Piece]]


def per_expert(value: float | Sequence[float] | None, experts: int, default: float = 1.0) -> list[float]:
    """Return one value for each expert."""
    if value is None:
        return [default] * experts
    return list(value) if isinstance(value, Sequence) else [value] * experts


def along(value: float | Sequence[float] | None, deltas: Tensor) -> Tensor:
    """Return one value for each expert in a shape that multiplies ``deltas`` ``[T, ...]``."""
    values = torch.tensor(per_expert(value, len(deltas)), dtype=deltas.dtype, device=deltas.device)
    return values.view(-1, *[1] * (deltas.dim() - 1))


def keep_count(density: float, size: int) -> int:
    """Return ⌈density · size⌉, not disturbed by rounding of the product (0.1 · 30 is 3, not 4)."""
    return min(size, math.ceil(density * size * (1 - 1e-12)))


def largest(values: Tensor, count: int) -> Tensor:
    """Mark exactly ``count`` entries of largest magnitude in each row.

    Among equal magnitudes at the edge the first ones in the row are taken, so the choice never depends on threads.

    Args:
        values: shape ``[..., n]``.
        count: entries to mark in each row, 0 to n.

    Returns:
        Boolean mask, shape ``[..., n]``.
    """
    size = values.shape[-1]
    if count >= size or count <= 0:
        return torch.full_like(values, count > 0, dtype=torch.bool)
    magnitude = values.abs()
    edge = _ranked(magnitude, size - count)
    mask = magnitude >= edge
    surplus = mask.sum(-1, keepdim=True) - count
    if surplus.any():
        above = magnitude > edge
        equal = mask & ~above
        room = count - above.sum(-1, keepdim=True)
        mask = above | (equal & (equal.cumsum(-1) <= room))
    return mask


def keep_largest(row: Tensor, count: int) -> Tensor:
    """Zero all but the entries that :func:`largest` marks, of one row ``[n]``; quicker than by its mask."""
    if count >= len(row) or count <= 0:
        return row * float(count > 0)
    magnitude = row.abs()
    edge = _ranked(magnitude, len(row) - count)
    if edge == 0:
        return row.clone()  # fewer entries than wanted are not zero
    found = torch.nn.functional.hardshrink(row, torch.nextafter(edge, torch.zeros_like(edge)).item())
    if surplus := int(torch.count_nonzero(found)) - count:
        found[(magnitude == edge).nonzero()[-surplus:, 0]] = 0
    return found


def _ranked(values: Tensor, place: int) -> Tensor:
    """Return each row's value at an ascending position, ``[..., n]`` to ``[..., 1]``.

    Of long rows on a CPU a sorted sample brackets the value and only what lies within is ranked: a fifth of the time.
    """
    size = values.shape[-1]
    if size < _LONG or values.device.type != "cpu":
        return torch.kthvalue(values, place + 1, dim=-1, keepdim=True).values
    if values.dim() > 1:
        return torch.stack([_ranked(row, place) for row in values])
    sample = values[:: max(_STRIDE // 5, size // _LONG)].sort().values
    low, high = _around(sample, place / size, 4.0)
    inside = values[(values >= low) & (values <= high)]
    within = place - int(torch.count_nonzero(values < low))
    if not 0 <= within < len(inside):  # the sample was unlucky
        inside, within = values, place
    return inside.kthvalue(within + 1, keepdim=True).values


def ranks(rows: Tensor) -> Tensor:
    """Return the ascending rank of each magnitude in its row, 0 to n - 1; of equal ones the first comes first.

    On a CPU, fp32 magnitudes are sorted as integers with their places in the lower bits, which NumPy does with vector
    instructions: a ninth of the time of two ``argsort``.

    Args:
        rows: shape ``[..., n]``.
    """
    places = torch.arange(rows.shape[-1], device=rows.device)
    magnitude = rows.abs()
    if rows.device.type == "cpu" and rows.dtype == torch.float32:
        order = (magnitude.view(torch.int32).long() << 32).bitwise_or_(places)
        order.numpy().sort()
        order &= 0xFFFFFFFF
    else:
        order = magnitude.argsort(dim=-1, stable=True)
    return torch.empty_like(order).scatter_(-1, order, places.expand_as(order))


def prune(values: Tensor, density: float, *, dims: int) -> Tensor:
    """Zero all but the ⌈density · n⌉ largest magnitudes, ranked over the last ``dims`` dimensions together."""
    flat = values.flatten(-dims)
    count = keep_count(density, flat.shape[-1])
    return (keep_largest(flat, count) if flat.dim() == 1 else flat * largest(flat, count)).reshape(values.shape)


def elect(
    edited: Tensor,
    *,
    merge: str = "mean",
    weights: float | Sequence[float] | None = None,
    majority: Callable[[], float] = lambda: 1.0,
) -> Tensor:
    """Elect a sign for each entry and merge the experts that agree with it (arXiv 2306.01708, steps 2 and 3).

    Args:
        edited: trimmed or masked deltas, shape ``[T, ...]``; zeros do not vote.
        merge: ``"mean"`` over the agreeing entries (weighted), their ``"sum"``, or the sum over ``"experts"`` / T.
        weights: one for each expert, applied before the election.
        majority: the sign of entries whose votes cancel out exactly; asked for only if there are any.

    Returns:
        The merged task vector, shape ``[...]``.
    """
    if edited[0].numel() > CHUNK and edited.device.type == "cpu":
        chunks = edited.flatten(1).split(CHUNK, 1)
        parts = [elect(chunk, merge=merge, weights=weights, majority=majority) for chunk in chunks]
        return torch.cat(parts).view(edited.shape[1:])
    weighted = edited if weights is None else edited * along(weights, edited)
    sign = weighted.sum(0).sign_()
    split = (sign == 0) & weighted.any(0)
    if split.any():
        sign = torch.where(split, majority(), sign)
    agree = (weighted * sign).clamp_(min=0)  # magnitudes of the agreeing entries
    merged = agree.sum(0).mul_(sign)
    if merge == "sum":
        return merged
    if merge == "experts":
        return merged / len(edited)
    votes = agree.sign_() if weights is None else agree.sign_() * along(weights, edited)
    share = votes.sum(0)
    return merged.div_(share.masked_fill_(share == 0, 1))


def order_statistics(values: Callable[[], Iterable[Tensor]], ranks: Callable[[int], list[list[int]]]) -> Tensor:
    """Return exact order statistics of rows too long for memory, in two passes over their pieces.

    The first pass sorts a sample, which brackets each statistic; the second counts what lies below the bracket and
    keeps what lies within, under one percent of a large row: numbers that very many entries share, as in models kept in
    half precision, become ends of a bracket and are only counted. Should a bracket miss, it is widened and the pass
    repeated.

    Args:
        values: gives the pieces of the rows, each ``[R, n]``, the same at every call.
        ranks: from the length N of the rows, for each row the q wanted positions in ascending order, 0 to N - 1.

    Returns:
        The values at these positions, shape ``[R, q]``.
    """
    sampled, size = [], 0
    for piece in values():
        sampled = sampled or [_Growing(piece) for _ in piece]
        for kept, row in zip(sampled, piece, strict=True):
            kept.add(row[-size % _STRIDE :: _STRIDE])
        size += piece.shape[-1]
    if not size:
        raise ValueError("order statistics of no values at all")
    sample = torch.stack([kept.values for kept in sampled]).sort(-1).values
    wanted = torch.tensor(ranks(size)).clamp(0, size - 1)
    found = torch.zeros(wanted.shape, dtype=sample.dtype)
    missing, deviations = torch.cartesian_prod(*map(torch.arange, wanted.shape)).tolist(), 6.0
    while missing:
        brackets = [_Bracket(sample[r], wanted[r, q].item() / size, deviations) for r, q in missing]
        for piece in values():
            for (r, _), bracket in zip(missing, brackets, strict=True):
                bracket.add(piece[r])
        left = []
        for (r, q), bracket in zip(missing, brackets, strict=True):
            value = bracket.value(wanted[r, q].item())
            if value is None:
                left.append([r, q])
            else:
                found[r, q] = value
        missing, deviations = left, deviations * 8
    return found


class _Bracket:
    """Two numbers around an order statistic, how many others lie below and between, and those between.

    The ends are only counted, for very many numbers may equal them.
    """

    def __init__(self, sample: Tensor, share: float, deviations: float) -> None:
        """Take the ends from a sorted sample; see :func:`_around`."""
        self.low, self.high = _around(sample, share, deviations)
        self.below, self.equal, self.upto, self.within = 0, 0, 0, _Growing(sample)

    def add(self, row: Tensor) -> None:
        """Count some of the numbers."""
        self.below += int(torch.count_nonzero(row < self.low))
        self.equal += int(torch.count_nonzero(row == self.low))
        self.upto += int(torch.count_nonzero(row <= self.high))
        self.within.add(row[(row > self.low) & (row < self.high)])

    def value(self, place: int) -> Tensor | float | None:
        """Return the number at an ascending position among all; none if the bracket misses it."""
        if not self.below <= place < self.upto:
            return None
        inside, first = self.within.values, self.below + self.equal
        if first <= place < first + len(inside):
            return inside.kthvalue(place - first + 1).values
        return self.low if place < first else self.high


class _Growing:
    """Numbers collected in one piece of memory; thousands of small pieces would leave holes all over the heap."""

    def __init__(self, like: Tensor) -> None:
        self.room, self.size = like.new_empty(1 << 12), 0

    def add(self, values: Tensor) -> None:
        """Append numbers."""
        if self.size + len(values) > len(self.room):
            room = self.room.new_empty(2 * (self.size + len(values)))
            room[: self.size] = self.values
            self.room = room
        self.room[self.size : self.size + len(values)] = values
        self.size += len(values)

    @property
    def values(self) -> Tensor:
        """What was collected, as a view."""
        return self.room[: self.size]


def _around(sample: Tensor, share: float, deviations: float) -> tuple[float, float]:
    """Return values between which the given share of a row falls, so many standard deviations to each side."""
    size = len(sample)
    margin = deviations * math.sqrt(size * share * (1 - share)) + 2
    low, high = math.floor(share * size - margin), math.ceil(share * size + margin)
    return (
        sample[low].item() if low >= 0 else -math.inf,
        sample[high].item() if high < size else math.inf,
    )


def thresholds(stream: Stream, counts: Callable[[int], list[int]]) -> Tensor:
    """Return for each expert the magnitude of the ``counts(N)[t]``-th largest entry of its whole task vector, ``[T]``.

    A count of N or more gives 0, so that everything is kept; a count of 0 gives infinity.
    """
    sizes = []

    def ranks(size: int) -> list[list[int]]:
        sizes.append(size)
        return [[size - count] for count in counts(size)]

    found = order_statistics(lambda: (piece.deltas.flatten(1).abs() for piece in stream()), ranks)[:, 0]
    wanted = torch.tensor(counts(sizes[0]))
    found[wanted >= sizes[0]] = 0
    found[wanted <= 0] = math.inf
    return found
