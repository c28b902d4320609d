"""The classes of tensors in a Whisper checkpoint, written once: what each tensor is and where in the model it sits.

A merge method treats linear maps, tables, filters and vectors differently, so every tensor name is put into one class.
Names that are not Whisper's fall back to hints in the name and to the number of dimensions.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence

from ..errors import MethodError, nearest

MATRIX = "MAT"  # weights of linear maps: attention projections and the two MLP maps
EMBEDDING = "EMB"  # tables: token embeddings, the decoder's learned positions; 2-D in shape but not linear maps
CONVOLUTION = "CONV"  # the two filters of the encoder's front end, (out, in, width)
VECTOR = "VEC"  # biases and layer norms
FROZEN = "FROZEN"  # the encoder's fixed sinusoid: never trained, no task vector
CLASSES = (MATRIX, EMBEDDING, CONVOLUTION, VECTOR, FROZEN)

TREATMENTS = ("rule", "sum", "mean", "base")  # what a class can get: the method's rule, Στ, the mean of τ, nothing
ORDERS = ("stack", "continued")  # how depth is counted through encoder and decoder

_WHISPER = (
    (FROZEN, r"(^|\.)encoder\.embed_positions\.weight$"),
    (MATRIX, r"\.(self_attn|encoder_attn)\.(q|k|v|out)_proj\.weight$"),
    (MATRIX, r"\.fc[12]\.weight$"),
    (EMBEDDING, r"(^|\.)decoder\.embed_(tokens|positions)\.weight$"),
    (CONVOLUTION, r"(^|\.)encoder\.conv[12]\.weight$"),
)
_TIED_HEADS = ("proj_out.weight", "lm_head.weight")
_TOKEN_TABLE = re.compile(r"(^|\.)decoder\.embed_tokens\.weight$")
_STACK = re.compile(r"^(|.*?\.)(?:encoder|decoder)\.")
_LAYER = re.compile(r"(?:^|\.)(encoder|decoder)\.layers\.(\d+)\.")
PARTS = ("encoder", "decoder", "attention", "cross-attention", "mlp", "norm", "embedding", "convolution")


def classify(name: str, shape: Sequence[int]) -> str:
    """Return the class of a tensor: one of :data:`CLASSES`.

    Whisper's own names decide first; any other name is a table if it speaks of embeddings or a head, a vector if it
    speaks of a norm or has fewer than two dimensions, a filter with three or more, and otherwise a matrix.
    """
    for kind, pattern in _WHISPER:
        if re.search(pattern, name):
            return kind
    if len(shape) < 2 or "norm" in name.lower():
        return VECTOR
    if len(shape) > 2:
        return CONVOLUTION
    return EMBEDDING if re.search(r"embed|wte|wpe|lm_head|proj_out|position", name.lower()) else MATRIX


def tied_head(names: Iterable[str]) -> tuple[str | None, str | None]:
    """Return the names of the tied output head and of Whisper's token table; ``None`` where a model has no such tensor.

    Of a Whisper that stores its table under the head's name alone, the table's name is that which it should have.
    """
    names = list(names)
    head = next((name for name in names if name in _TIED_HEADS), None)
    table = next((name for name in names if _TOKEN_TABLE.search(name)), None)
    place = next((found for name in names if (found := _STACK.match(name))), None)
    if head == _TIED_HEADS[0] and not table and place:
        table = f"{place[1]}decoder.embed_tokens.weight"
    return head, table


def layer(name: str) -> tuple[str, int] | None:
    """Return ``("encoder" | "decoder", index)`` of the block a tensor belongs to, ``None`` outside the blocks."""
    found = _LAYER.search(name)
    return (found[1], int(found[2])) if found else None


def depths(names: Iterable[str], order: str = "stack") -> dict[str, float]:
    """Return how deep each tensor's block lies: 0 for the first, 1 for the last; tensors outside blocks are left out.

    Args:
        names: all tensor names of the model.
        order: ``"stack"`` counts encoder and decoder each from 0 to 1 (what a substring match on ``.i.`` does);
            ``"continued"`` lets the decoder go on after the encoder.

    Raises:
        MethodError: another order.
    """
    if order not in ORDERS:
        raise MethodError(f"order of depth is {order!r}.{nearest(order, ORDERS)}")
    places = {name: place for name in names if (place := layer(name))}
    sizes = {
        stack: 1 + max((i for s, i in places.values() if s == stack), default=-1) for stack in ("encoder", "decoder")
    }
    found = {}
    for name, (stack, index) in places.items():
        last = (sizes[stack] if order == "stack" else sum(sizes.values())) - 1
        index += sizes["encoder"] if order == "continued" and stack == "decoder" else 0
        found[name] = index / last if last else 0.0
    return found


def parts(name: str, shape: Sequence[int]) -> tuple[str, ...]:
    """Return the parts of :data:`PARTS` a tensor is in, the stack first, e.g. ``("decoder", "cross-attention")``."""
    found = [stack for stack in ("encoder", "decoder") if re.search(rf"(^|\.){stack}(\.|$)", name)]
    kind = classify(name, shape)
    if "norm" in name:
        found.append("norm")
    elif ".encoder_attn." in name:
        found.append("cross-attention")
    elif ".self_attn." in name:
        found.append("attention")
    elif re.search(r"\.fc[12]\.", name):
        found.append("mlp")
    elif kind in (EMBEDDING, FROZEN):
        found.append("embedding")
    elif kind == CONVOLUTION or ".conv" in name:
        found.append("convolution")
    return tuple(found)


def select(shapes: dict[str, Sequence[int]], include: str | Sequence[str] | None) -> list[str]:
    """Return the tensor names, in the order given, that ``include`` selects.

    Args:
        shapes: shape of each tensor.
        include: names of :data:`PARTS` or shell patterns on tensor names (``"*decoder.layers.[0-3].*"``); a part with
            ``+`` needs both (``"decoder+mlp"``). ``None`` selects everything.

    Raises:
        MethodError: a selector matches no tensor.
    """
    if include is None:
        return list(shapes)
    chosen: dict[str, None] = {}
    for selector in [include] if isinstance(include, str) else include:
        wanted = set(selector.split("+"))
        if wanted <= set(PARTS):
            hits = [name for name, shape in shapes.items() if wanted <= set(parts(name, shape))]
        else:
            hits = [name for name in shapes if fnmatch.fnmatchcase(name, selector)]
        if not hits:
            raise MethodError(f"include={selector!r} selects no tensor of this model.{nearest(selector, PARTS)}")
        chosen.update(dict.fromkeys(hits))
    return [name for name in shapes if name in chosen]


def policy(*, matrices_only: bool, others: str, changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what each class of tensors gets, one of :data:`TREATMENTS`.

    Args:
        matrices_only: whether the rule is for linear maps alone; else every class but the sinusoid gets it.
        others: what the other classes get if so.
        changes: the caller's own wishes by class, checked (:func:`speechmerge.merging.options.check`).

    Raises:
        MethodError: a rule for matrices asked for vectors.
    """
    found = dict.fromkeys(CLASSES, others if matrices_only else "rule") | {MATRIX: "rule", FROZEN: "base"}
    for kind, treatment in (changes or {}).items():
        if treatment == "rule" and kind == VECTOR and matrices_only:
            raise MethodError("policy: this method acts on matrices, so VEC gets 'sum', 'mean' or 'base'.")
        found[kind] = treatment
    return found
