"""Storage precision: what rounding alone has moved in an expert is no training, and has no part in its task vector.

A tensor counts as unchanged where the expert equals the base at the expert's own precision: θ0 rounded to the format
the expert is stored in, once or on the way through another format (trained in bf16, saved in fp16). Tables are told row
by row, for most rows are never trained. What did change keeps expert - base whole: its rounding is no larger than half
a step, and one expert with λ = 1 gives itself.

A base of fewer digits than the expert is either where the training started, so that all differences are real, or a
rounded copy of that. The encoder's sinusoid, which nobody trains, shows which: it equals the base's or it does so at
the base's precision only. It also shows an expert or base that was rounded and then stored in a wider format. Where it
cannot tell (no sinusoid, or stored in another format than the tensor) differences are real, but for maps and tables of
at least :data:`MANY` scalars that equal the base at its precision: training a map moves its smallest entries out of
their rounding cells, while layer norms near 1 may stay inside.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..whisper.checkpoints import BLOCK, Checkpoint
from ..whisper.number_formats import loses, passages, rounded
from .parameter_classes import EMBEDDING, FROZEN, classify
from .validation import SAMPLE, sample

log = logging.getLogger(__name__)
LARGE = 0.05  # of the update's norm: less rounding than that is not worth a warning
MANY = 1024  # scalars; of so many some are small enough to show any training


class Rounding(NamedTuple):
    """How one model's numbers may have come from another's by rounding alone."""

    backward: bool  # the base is the copy, not the expert
    via: torch.dtype


def unrounded(base: Checkpoint, expert: Checkpoint) -> Checkpoint:
    """Return an expert that reads the base's own numbers where it differs from them by rounding only.

    Each tensor in another format than the base's is looked at once, when it is first read; formats that are equal cost
    nothing but a look at the sinusoid. The tensors of both must be the same by name and shape.
    """
    proof = _proof(base, expert)
    if proof is None and all(expert.dtypes[name] == base.dtypes[name] for name in base.shapes):
        return expert
    found: dict[str, bool | Tensor] = {}

    def reader(name: str, start: int, stop: int, room: Tensor | None = None) -> Tensor:
        if name not in found:
            found[name] = _unchanged(base, expert, name, _roundings(base, expert, name, proof))
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


def _proof(base: Checkpoint, expert: Checkpoint) -> Rounding | None:
    """Return how the sinusoid says that one model was rounded; ``None`` where it says nothing."""
    name = next((name for name, shape in base.shapes.items() if classify(name, shape) == FROZEN), None)
    if name is None or not base.dtypes[name].is_floating_point:
        return None
    start, tuned = base.read(name), expert.read(name)
    if torch.equal(start, tuned) and not loses(tuned.dtype, start.dtype):
        return None
    ways = [Rounding(False, via) for via in passages(start.dtype)] + [
        Rounding(True, via) for via in passages(tuned.dtype)
    ]
    return next((way for way in ways if _copied(start, tuned, way).all()), None)


def _roundings(base: Checkpoint, expert: Checkpoint, name: str, proof: Rounding | None) -> list[Rounding]:
    """Return the ways in which rounding alone may have made an expert's tensor differ from the base's."""
    start, tuned, shape = base.dtypes[name], expert.dtypes[name], base.shapes[name]
    if not start.is_floating_point:
        return []
    found = [proof] if proof else []
    if loses(start, tuned):
        found += [Rounding(False, via) for via in passages(start)]
    shown = proof.backward if proof else len(shape) > 1 and math.prod(shape) >= MANY
    if loses(tuned, start) and shown:
        found += [Rounding(True, via) for via in passages(tuned)]
    return list(dict.fromkeys(found))


def _copied(start: Tensor, tuned: Tensor, way: Rounding) -> Tensor:
    """Tell for each scalar of base and expert whether it was rounded in this way and not changed."""
    return rounded(tuned, start, way.via) if way.backward else rounded(start, tuned, way.via)


def _unchanged(base: Checkpoint, expert: Checkpoint, name: str, ways: Sequence[Rounding]) -> bool | Tensor:
    """Tell whether rounding alone changed a tensor, for a table row by row ``[rows]``."""
    shape = base.shapes[name]
    table = len(shape) == 2 and classify(name, shape) == EMBEDDING
    size, width = math.prod(shape), max(1, shape[-1]) if table else 1
    step, rows = max(width, BLOCK // width * width), []
    for start in range(0, size if ways else 0, step):
        part = (name, start, min(start + step, size))
        pair = base.reader(*part), expert.reader(*part)
        same = [_copied(*pair, way) for way in ways]
        if table:
            rows.append(torch.stack([one.view(-1, width).all(1) for one in same]).any(0))
        else:
            ways = [way for way, one in zip(ways, same, strict=True) if one.all()]
        if not ways:
            break
    return torch.cat(rows) if rows else bool(ways)


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
        what = f"{expert} is stored" if self.rounded == "expert" else f"{base} is the base of {expert}, stored"
        return (
            f"{what} in {self.precision}: rounding is about {self.rounding:.2%} of the base's norm, the whole update "
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
    proof, formats, squares = _proof(base, expert.stored), {}, torch.zeros(3, dtype=torch.float64)
    for name in sample(base):
        part = (name, 0, min(SAMPLE[1], math.prod(base.shapes[name])))
        start, tuned, stored = (model.block(*part).cpu() for model in (base, expert, expert.stored))
        way = next((way for way in _roundings(base, expert.stored, name, proof) if proof or not way.backward), None)
        lost = _lost(start, stored, way) * (tuned != start) if way else torch.zeros(1)
        squares += torch.stack([x.double().square().sum() for x in (start, tuned.double() - start.double(), lost)])
        if lost.any():
            formats[_coarser(way.via, (start if way.backward else stored).dtype)] = None
    if not formats:
        return None
    update, rounding = (squares[1:] / squares[0].clamp(min=1e-300)).sqrt().tolist()
    return Remaining("base" if proof and proof.backward else "expert", " and ".join(formats), rounding, update)


def _lost(start: Tensor, tuned: Tensor, way: Rounding) -> Tensor:
    """Return what rounding in this way does to numbers such as these, fp64."""
    values, copy = (tuned, start) if way.backward else (start, tuned)
    return values.to(way.via).to(copy.dtype).double() - values.double()


def _coarser(one: torch.dtype, other: torch.dtype) -> str:
    """Name the format with the larger steps."""
    return str(max(one, other, key=lambda kind: torch.finfo(kind).eps)).removeprefix("torch.")
