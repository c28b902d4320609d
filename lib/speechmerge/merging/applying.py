"""A rule applied to one tensor, a block of one, or several of equal shape at once: shapes, context and combination."""

import contextlib
import hashlib
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import MethodError
from ..files import atomic_file
from ..whisper.checkpoints import finite
from .rules.decompositions import singular_vectors
from .rules.primitives import per_expert

if TYPE_CHECKING:
    from .merge import Merge
    from .run import Run

BATCH = 1 << 27  # scalars of all experts in one batch of matrices of equal shape
AHEAD = 8  # merged tensors that wait to be written, at most, so that a small one need not wait for a large one


def generator(seed: int, name: str, task: int) -> torch.Generator:
    """Return the generator of one tensor and expert; it depends on nothing else, so order and threads do not matter."""
    key = hashlib.sha256(f"{seed}|{name}|{task}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)


def generators(merge: "Merge", name: str) -> list[torch.Generator]:
    """Return each expert's generator for one tensor; none for a method without random masks."""
    tasks = range(len(merge.experts)) if "generators" in merge.method.needs else ()
    return [generator(merge.seed, name, task) for task in tasks]


def batches(merge: "Merge", skip: Collection[str] = ()) -> Iterator[list[str]]:
    """Yield names to merge together: matrices of equal shape where batches are wanted, else one by one."""
    alike: dict[tuple[int, ...], list[str]] = {}
    for name, shape in merge.base.shapes.items():
        if name in skip:
            continue
        if not merge.batched or merge.piece != "matrices" or merge.treatment(name) != "rule":
            yield [name]
        else:
            alike.setdefault(shape, []).append(name)
    for shape, names in alike.items():
        most = max(1, BATCH // max(1, len(merge.experts) * math.prod(shape)))
        yield from (names[i : i + most] for i in range(0, len(names), most))


def workers(merge: "Merge") -> int:
    """Return how many tensors are handled at a time: two where the rule computes on one thread."""
    return 1 if merge.piece == "matrices" or merge.device.type != "cpu" or torch.get_num_threads() == 1 else 2


def side_by_side(work: Callable[[Any], Any], items: Iterable[Any], workers: int, ahead: int = AHEAD) -> Iterator[Any]:
    """Yield what ``work`` makes of each item, in their order; so many are at work at a time, and wait at most."""
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for made in waiting:
                made.cancel()


@contextlib.contextmanager
def threads(merge: "Merge", many: bool) -> Iterator[None]:
    """Compute with one thread unless ``many``: on blocks that fit a cache, threads wait for each other too long."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if many or merge.device.type != "cpu" else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def shaped(merge: "Merge", name: str, values: Tensor) -> Tensor:
    """Give flat values ``[..., n]`` the shape the rule works on: entries flat, rows, the tensor, or a matrix."""
    shape, lead = merge.base.shapes[name], values.shape[:-1]
    if merge.piece == "entries":
        return values
    if merge.piece == "rows":
        return values.view(*lead, -1, shape[-1] if shape else 1)
    if merge.piece == "matrices":
        return values.view(*lead, shape[0], -1)  # a filter becomes (out, in · width)
    return values.view((*lead, *shape))


def combine(run: "Run", name: str, deltas: Tensor, scale: str) -> Tensor:
    """Sum the experts ``[T, ...]``, or take their mean, with the method's weights if it has any."""
    merge, known = run.merge, run.known
    if isinstance(known.weights, Tensor):  # learnt ones, a row for each group of tensors
        weights, scale = known.weights[known.groups[name]].tolist(), "sum"
    else:
        weights = per_expert(known.weights, len(deltas))
    total = math.fsum(weights) if scale == "mean" else 1.0
    if total == 0:
        raise MethodError(f"{merge.method.name}: the weights {weights} sum to zero, so there is no mean.")
    merged = deltas[0] * (weights[0] / total)
    for weight, delta in zip(weights[1:], deltas[1:], strict=True):
        merged.add_(delta, alpha=weight / total)
    return merged


def apply(run: "Run", names: list[str], start: int, base: Tensor, deltas: Tensor, generators: list) -> Tensor:
    """Apply the method's rule and return the merged task vectors.

    Args:
        run: of the merge whose method and options are used.
        names: one tensor, or several of equal shape that are merged in one batch.
        start: where in the tensor a block starts.
        base: shape ``[n]``, or ``[B, n]`` for a batch.
        deltas: shape ``[T, n]``, or ``[T, B, n]``.
        generators: of a random method, one for each expert.

    Returns:
        The shape of ``base``.
    """
    merge, name, needs = run.merge, names[0], run.merge.method.needs
    context: dict[str, Any] = {"base": shaped(merge, name, base), "depth": merge.depths.get(name)}
    context |= {"generators": generators, "prepass": run.known.prepass}
    given = shaped(merge, name, deltas)
    if "fisher" in needs:
        context["fisher"] = fisher(merge, name, start, base)
    if "gram" in needs:
        square = (merge.base.shapes[name][-1],) * 2
        grams = [
            torch.stack(
                [x.to(base.device, base.dtype) for x in _statistics(merge, "grams", n.removesuffix(".weight"), square)]
            )
            for n in names
        ]
        context["gram"] = torch.stack(grams, 1) if base.dim() == 2 else grams[0]
    if "vectors" in needs:
        context["vectors"] = merge.svd_cache and [_cached(merge.svd_cache, delta) for delta in given]
    found = merge.method.rule(given, **run.known.options, **{need: context[need] for need in needs})
    if merge.method.gives == "experts":
        found = combine(run, name, found, merge.method.scale)
    return found.reshape(base.shape)


def fisher(merge: "Merge", name: str, start: int, base: Tensor) -> Tensor:
    """Return the experts' Fishers of a block, in the shape of the rule's deltas."""
    block = slice(start, start + len(base))
    whole = _statistics(merge, "fishers", name, merge.base.shapes[name])
    found = [x.reshape(-1)[block].to(base.device, base.dtype) for x in whole]
    for t, own in enumerate(found):
        if own.numel() and not (own.min() >= 0 and finite(own)):
            raise MethodError(f"extras['fishers'] of expert {t}: {name!r} has numbers below 0 or not finite.")
    return shaped(merge, name, torch.stack(found))


def _statistics(merge: "Merge", key: str, wanted: str, shape: tuple[int, ...]) -> list[Tensor]:
    """Return one statistic of every expert, of the shape it must have: Grams are named by module, Fishers by tensor."""
    missing = [t for t, item in enumerate(merge.extras[key]) if wanted not in item]
    if missing:
        raise MethodError(f"extras[{key!r}] of expert {missing[0]} has nothing for {wanted!r}; collect it as well.")
    found = [item[wanted] for item in merge.extras[key]]
    for t, one in enumerate(found):
        if tuple(one.shape) != shape:
            raise MethodError(
                f"extras[{key!r}] of expert {t}: {wanted!r} has shape {list(one.shape)}, expected {list(shape)}; "
                "collect it with this expert."
            )
    return found


def _cached(folder: Path, delta: Tensor) -> Tensor:
    """Return the singular vectors of a task matrix's shorter side, from the cache if it was seen before.

    They are stored in fp32 under the hash of the matrix, so that every method and every parameter tried shares them.
    """
    if delta.dim() > 2:
        return torch.stack([_cached(folder, one) for one in delta])
    key = hashlib.sha256(f"1|{list(delta.shape)}|{delta.dtype}".encode())
    key.update(delta.cpu().contiguous().numpy().data)
    file = Path(folder) / f"{key.hexdigest()}.safetensors"
    if not file.is_file():
        with atomic_file(file) as temporary:
            save_file({"vectors": singular_vectors(delta).float().cpu().contiguous()}, temporary)
    return load_file(file)["vectors"].to(delta.device)
