"""The engine's calls: merge tensors in memory, merge folders in memory (for one λ or many), merge into a folder."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..devices import keep_memory, release_memory
from ..files import atomic_folder, check_writable
from ..whisper.checkpoints import most_precise, strip_wrappers
from . import options as settings
from . import output, validation
from .estimates import estimate
from .merge import Merge, Source
from .methods import find
from .resuming import unfinished

log = logging.getLogger(__name__)


def merge_state_dicts(
    method: str,
    base: Mapping[str, Tensor],
    experts: Sequence[Mapping[str, Tensor]],
    *,
    scaling: float = 1.0,
    extras: Mapping | None = None,
    **params: Any,
) -> dict[str, Tensor]:
    """Merge models held in memory; inputs are not changed.

    Faults in shapes, names, numbers and dtypes are refused; whether the base is plausible is not checked (see
    :func:`merged`). Any tensor names will do.

    Args:
        method: name in the registry.
        base: tensors by name.
        experts: the fine-tuned models, in order.
        scaling: λ in θ0 + λτ.
        extras: statistics of data some methods need.
        params: the method's parameters, and ``include``, ``policy``, ``dtype``, ``device``, ``strict``
            (:class:`speechmerge.merging.merge.Merge`).

    Returns:
        The merged tensors in the base's order and dtypes; computed in fp32, or fp64 where an input is fp64.
    """
    return _collect(Merge(method, base, experts, scaling=scaling, extras=extras, **params), base)


def merged(method: str, base: Source, experts: Sequence[Source], **options: Any) -> dict[str, Tensor]:
    """Merge folders (or dicts) in memory, without writing; all checks of a written merge are made.

    Args and raises: those of :class:`Merge`.
    """
    return _collect(Merge(method, base, experts, **{"strict": True} | options), base)


def line(method: str, base: Source, experts: Sequence[Source], **options: Any) -> Callable[[float], dict[str, Tensor]]:
    """Merge folders (or dicts) once, for the models θ0 + λτ of many λ.

    Base and merged task vector stay in memory. A method that learns weights learns them anew for each λ.

    Args and raises: those of :class:`Merge` but ``scaling``.

    Returns:
        The function from λ to the merged tensors, equal to those of :func:`merged`.
    """
    if find(method).fit:
        return lambda scaling: merged(method, base, experts, scaling=scaling, **options)
    merge = Merge(method, base, experts, **{"strict": True} | options)
    merge.kept = {}
    _collect(merge, base)

    def at(scaling: float) -> dict[str, Tensor]:
        settings.check(method, "scaling", scaling)
        merge.scaling = scaling
        return _collect(merge, base)

    return at


def _collect(merge: Merge, base: Source) -> dict[str, Tensor]:
    """Stream into a dict; where a base in memory stored the tied head, so does the result, beside the table."""
    found = dict(merge.stream())
    names = list(merge.base.shapes)
    if merge.base.head and isinstance(base, Mapping):
        head, table = merge.base.head
        found[head] = found[table]
        names = [strip_wrappers(name) for name in base]
        names += [table] if table not in names else []
    return {name: found[name] for name in names}


def merge_folders(
    method: str,
    base: Path,
    experts: Sequence[Path],
    output_folder: Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
    fingerprints: bool = True,
    data: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Merge Hugging Face folders into a new one, atomically and in bounded memory.

    A merge that was killed is taken up where it was when started again with the same recipe and unchanged models
    (:mod:`speechmerge.merging.resuming`); one that needs ``extras`` starts afresh.

    The folder holds the weights, the base's configuration and tokenizer files, a model card and ``merge_recipe.json``
    with the recipe and the fingerprints of base, experts and result, and of models stored in few digits how much
    rounding is left in the experts' task vectors (:class:`speechmerge.merging.precision.Remaining`).

    Args:
        method: name in the registry.
        base: the base's folder.
        experts: the experts' folders, in order.
        output_folder: where the result goes.
        overwrite: replace an existing folder.
        progress: show a progress bar.
        fingerprints: hash all models for the record; without, a merge that only reads and writes is twice as fast.
        data: what the record says of the data behind ``extras``; anything that JSON can write.
        options: those of :class:`Merge`; ``dtype`` defaults to the most precise one among base and experts.

    Returns:
        ``output_folder``.

    Raises:
        CheckpointError, MethodError: see :class:`Merge`.
        SpeechMergeError: the output exists, is not writable or the disk is too full; found before the work.
    """
    merge = Merge(method, base, experts, **{"strict": True} | options)
    if merge.piece == "entries":  # blocks of one size; whole tensors of many sizes would leave gaps
        keep_memory()
    about = validation.check_companions(merge.base.folder)
    said = about.said if about else ()
    for change in said:
        log.warning("%s: %s.", merge.base.folder, change)
    merge.dtype = merge.dtype or most_precise([merge.base, *merge.experts])
    total = sum(math.prod(shape) * merge.dtype.itemsize for shape in merge.base.shapes.values())
    check_writable(output_folder, total)
    expected = estimate(merge)
    validation.check_memory(expected.memory)
    log.info("%s of %d experts: %s", method, len(experts), expected)
    started = time.perf_counter()
    output_folder = Path(output_folder)
    with (
        atomic_folder(output_folder, overwrite=overwrite) as folder,
        unfinished(output_folder, output.identity(merge, options)) as (work, journal),
    ):
        tensors = merge.stream(progress=progress, skip=journal.finished)
        files = output.write_weights(work, tensors, output.layout(merge.base, merge.dtype), journal)
        for file in files:
            (work / file).rename(folder / file)
        output.write_companions(folder, merge.base.folder, merge.dtype, about)
        output.write_record(folder, merge, options, fingerprints=fingerprints, said=said, data=data)
    release_memory()
    log.info("%s written in %.1f s", output_folder, time.perf_counter() - started)
    return output_folder
