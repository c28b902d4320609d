"""Storage precision: what rounding alone has moved in an expert is no training, and has no part in its task vector.

A tensor counts as unchanged where the expert equals the base at the expert's own precision: θ0 rounded to the format
the expert is stored in, once or on the way through another format (trained in bf16, saved in fp16). Tables are told row
by row, for most rows are never trained. What did change keeps expert - base whole: its rounding is no larger than half
a step, and one expert with λ = 1 gives itself.

A base of fewer digits than the expert is either where the training started, so that all differences are real, or a
rounded copy of that. The encoder's sinusoid, which nobody trains, tells: it equals the base's, or does so at the base's
precision only. It also shows models that were rounded and then stored in a wider format. Where it cannot tell (there is
none, or it was left out when the rest was rounded) differences are real, but for maps and tables of at least
:data:`MANY` scalars that equal the base at its precision: training a map moves its smallest entries out of their
rounding cells, while layer norms near 1 may stay inside.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..whisper.checkpoints import BLOCK, Checkpoint
from ..whisper.number_formats import held, loses, passages, rounded
from ..whisper.parameter_classes import EMBEDDING, FROZEN, classify
from .validation import SAMPLE, sample

log = logging.getLogger(__name__)
LARGE = 0.05  # of the update's norm: less rounding than that is not worth a warning
PEEK = 16  # scalars that are looked at first
MANY = 1024  # scalars; of so many some are small enough to show any training


class Rounding(NamedTuple):
    """How one model's numbers may have come from another's by rounding alone."""

    backward: bool  # the base is the copy, not the expert
    via: torch.dtype
    kind: torch.dtype  # what the numbers before were by nature

    def copied(self, start: Tensor, tuned: Tensor) -> Tensor:
        """Tell for each scalar of base and expert whether it was rounded in this way and not changed."""
        values, copy = (tuned, start) if self.backward else (start, tuned)
        return rounded(values, copy, self.via, self.kind)


class Witness(NamedTuple):
    """What the sinusoid tells of base and expert, ``None`` where it is not there or does not tell."""

    stored: tuple[torch.dtype | None, torch.dtype | None] = (None, None)
    kinds: tuple[torch.dtype | None, torch.dtype | None] = (None, None)  # formats by nature
    copied: bool | None = None  # whether the base is a rounded copy of what the expert started from


def unrounded(base: Checkpoint, expert: Checkpoint) -> Checkpoint:
    """Return an expert that reads the base's own numbers where it differs from them by rounding only.

    Each tensor in another format than the base's is looked at once, when it is first read; formats that are equal cost
    nothing but a look at the sinusoid. The tensors of both must be the same by name and shape.
    """
    witness = _witness(base, expert)
    ways = {name: _roundings(base, expert, name, witness) for name in base.shapes}
    if not any(ways.values()):
        return expert
    found: dict[str, bool | Tensor] = {}

    def reader(name: str, start: int, stop: int, room: Tensor | None = None) -> Tensor:
        if name not in found:
            found[name] = _unchanged(base, expert, name, ways[name])
        kept = found[name]
        if kept is True:
            return base.reader(name, start, stop, room)
        values = expert.reader(name, start, stop, room)
        if kept is False:
            return values
        width = base.shapes[name][-1]
        rows = kept[start // width : -(-stop // width)].repeat_interleave(width)[start % width :][: stop - start]
        wide = torch.promote_types(base.dtypes[name], values.dtype)
        own = base.reader(name, start, stop).to(values.device, wide)
        return torch.where(rows.to(values.device), own, values.to(wide))

    return replace(expert, reader=reader, stored=expert)


def _witness(base: Checkpoint, expert: Checkpoint) -> Witness:
    """Look at the sinusoid of both."""
    name = next((name for name, shape in base.shapes.items() if classify(name, shape) == FROZEN), None)
    if name is None or not base.dtypes[name].is_floating_point:
        return Witness()
    start, tuned = base.read(name), expert.read(name)
    about = Witness((start.dtype, tuned.dtype), (held(start), held(tuned)))
    forward, backward = _ways(False, start.dtype, about.kinds[0]), _ways(True, tuned.dtype, about.kinds[1])
    if torch.equal(start, tuned) or any(way.copied(start, tuned).all() for way in forward):
        return about._replace(copied=False)
    return about._replace(copied=any(bool(way.copied(start, tuned).all()) for way in backward) or None)


def _ways(backward: bool, stored: torch.dtype, kind: torch.dtype) -> list[Rounding]:
    return [Rounding(backward, via, kind) for via in passages(stored)]


def _kinds(base: Checkpoint, expert: Checkpoint, name: str, witness: Witness) -> list[torch.dtype]:
    """Return the formats of a tensor by nature, as far as the sinusoid shows them, in base and expert."""
    pairs = zip((base.dtypes[name], expert.dtypes[name]), witness.stored, witness.kinds, strict=True)
    return [kind if own == stored else own for own, stored, kind in pairs]


def _roundings(base: Checkpoint, expert: Checkpoint, name: str, witness: Witness) -> list[Rounding]:
    """Return the ways in which rounding alone may have made an expert's tensor differ from the base's."""
    start, tuned, shape = base.dtypes[name], expert.dtypes[name], base.shapes[name]
    if not start.is_floating_point:
        return []
    kinds, copied, found = _kinds(base, expert, name, witness), witness.copied, []
    if loses(start, tuned) or loses(*kinds):
        found += _ways(False, start, kinds[0])
    if copied is None or (copied is False and loses(witness.stored[0], start)):  # the sinusoid was not rounded so far
        copied = len(shape) > 1 and math.prod(shape) >= MANY
    if copied and (loses(tuned, start) or loses(*kinds[::-1])):
        found += _ways(True, tuned, kinds[1])
    return found


def _unchanged(base: Checkpoint, expert: Checkpoint, name: str, ways: Sequence[Rounding]) -> bool | Tensor:
    """Tell whether rounding alone changed a tensor, for a table row by row ``[rows]``."""
    shape, size = base.shapes[name], math.prod(base.shapes[name])
    table = len(shape) == 2 and classify(name, shape) == EMBEDDING and size > 0
    step = max(shape[-1], BLOCK // shape[-1] * shape[-1]) if table else BLOCK
    starts = range(0, size, step) if table else [0, *range(min(PEEK, size), size, step)]
    rows = []
    for start, stop in pairwise([*starts, size]):
        if not ways:
            return False
        pair = base.reader(name, start, stop), expert.reader(name, start, stop)
        if table:
            rows.append(_unchanged_rows(*(x.view(-1, shape[-1]) for x in pair), ways))
        else:
            ways = [way for way in ways if way.copied(*pair).all()]
    return torch.cat(rows) if rows else bool(ways)


def _unchanged_rows(start: Tensor, tuned: Tensor, ways: Sequence[Rounding]) -> Tensor:
    """Tell it of each row of a table ``[rows, n]``; a few scalars show most rows that were trained."""
    same = torch.zeros(len(start), dtype=torch.bool, device=tuned.device)
    start = start.to(tuned.device)
    for way in ways:
        near = (~same).nonzero()[:, 0]
        near = near[way.copied(start[near, :PEEK], tuned[near, :PEEK]).all(1)]
        same[near] = way.copied(start[near], tuned[near]).all(1)
    return same


@dataclass(frozen=True)
class Remaining:
    """How much rounding is left in an expert's task vector.

    Attributes:
        rounded: whose digits are missing, ``"expert"`` or ``"base"``.
        precision: the format they were rounded to.
        rounding: Frobenius norm of the rounding, as a fraction of the base's.
        update: that of the whole task vector with its rounding, as a fraction of the base's.
    """

    rounded: str
    precision: str
    rounding: float
    update: float

    def sentence(self, expert: str, base: str) -> str:
        """Say it of an expert and its base."""
        what = f"{expert} is" if self.rounded == "expert" else f"{base}, the base of {expert}, is"
        return (
            f"{what} rounded to {self.precision}: about {self.rounding:.2%} of the base's norm, in an update of "
            f"{self.update:.2%}. What rounding alone changed is left out, but every trained tensor carries it, and a "
            f"sum over experts adds it up; give the {self.rounded} in float32 if there is one."
        )


def check(base: Checkpoint, experts: Sequence[Checkpoint]) -> list[Remaining | None]:
    """Estimate the rounding left in each expert's task vector, and warn where it is a large part of it."""
    found = [remaining(base, expert) for expert in experts]
    for expert, about in zip(experts, found, strict=True):
        if about and about.rounding > LARGE * about.update:
            log.warning("%s", about.sentence(expert.label, base.label))
    return found


def remaining(base: Checkpoint, expert: Checkpoint) -> Remaining | None:
    """Estimate the rounding left in the task vector of an expert from :func:`unrounded`; ``None`` where there is none.

    It is what rounding does to the finer model's numbers, over a sample of the tensors that were trained.
    """
    if expert.stored is None:
        return None
    witness, formats, squares = _witness(base, expert.stored), {}, torch.zeros(3, dtype=torch.float64)
    backward = witness.copied is True
    for name in sample(base):
        part = (name, 0, min(SAMPLE[1], math.prod(base.shapes[name])))
        start, tuned, fine = (
            m.block(*part).cpu().double() for m in (base, expert, expert.stored if backward else base)
        )
        squares[:2] += torch.stack([start.square().sum(), (tuned - start).square().sum()])
        kind = _kinds(base, expert.stored, name, witness)[0 if backward else 1]
        lost = ((fine.to(kind) - fine) * (tuned != start)).square().sum()
        if lost and any(way.backward == backward for way in _roundings(base, expert.stored, name, witness)):
            squares[2] += lost
            formats[str(kind).removeprefix("torch.")] = None
    if not formats:
        return None
    update, rounding = (squares[1:] / squares[0].clamp(min=1e-300)).sqrt().tolist()
    return Remaining("base" if backward else "expert", " and ".join(formats), rounding, update)
