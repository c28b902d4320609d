"""The engine's calls: merge tensors in memory, merge folders in memory (for one λ or many), merge into a folder."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..devices import keep_memory, release_memory
from ..files import atomic_folder, check_writable
from ..whisper.checkpoints import most_precise, strip_wrappers
from . import options as settings
from . import output, together, validation
from .estimates import estimate
from .fitting import begin
from .inputs import Source
from .merge import Merge, open_merge
from .methods import find
from .resuming import Journal, unfinished
from .run import Run

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
            (:func:`speechmerge.merging.merge.open_merge`).

    Returns:
        The merged tensors in the base's order and dtypes; computed in fp32, or fp64 where an input is fp64.
    """
    return _collect(begin(open_merge(method, base, experts, scaling=scaling, extras=extras, **params)), base)


def merged(method: str, base: Source, experts: Sequence[Source], **options: Any) -> dict[str, Tensor]:
    """Merge folders (or dicts) in memory, without writing; all checks of a written merge are made.

    Args and raises: those of :func:`.merge.open_merge`.
    """
    return _collect(begin(open_merge(method, base, experts, **{"strict": True} | options)), base)


def line(method: str, base: Source, experts: Sequence[Source], **options: Any) -> Callable[[float], dict[str, Tensor]]:
    """Merge folders (or dicts) once, for the models θ0 + λτ of many λ.

    Base and merged task vector stay in memory. A method that learns weights learns them anew for each λ.

    Args and raises: those of :func:`.merge.open_merge` but ``scaling``.

    Returns:
        The function from λ to the merged tensors, equal to those of :func:`merged`.
    """
    if find(method).fit:
        return lambda scaling: merged(method, base, experts, scaling=scaling, **options)
    run = begin(open_merge(method, base, experts, **{"strict": True} | options), keep=True)
    _collect(run, base)

    def at(scaling: float) -> dict[str, Tensor]:
        settings.check(method, "scaling", scaling)
        return _collect(run.again(scaling), base)

    return at


def _collect(run: Run, base: Source) -> dict[str, Tensor]:
    """Stream into a dict; where a base in memory stored the tied head, so does the result, beside the table."""
    found, opened = dict(run.stream()), run.merge.base
    names = list(opened.shapes)
    if opened.head and isinstance(base, Mapping):
        head, table = opened.head
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
        options: those of :func:`.merge.open_merge`; ``dtype`` defaults to the most precise one among base and experts.

    Returns:
        ``output_folder``.

    Raises:
        CheckpointError, MethodError: see :func:`.merge.open_merge`.
        SpeechMergeError: the output exists, is not writable or the disk is too full; found before the work.
    """
    merge = open_merge(method, base, experts, **{"strict": True} | options)
    _write({Path(output_folder): (merge, options)}, overwrite, progress, fingerprints, data)
    return Path(output_folder)


def merge_many(
    base: Path,
    experts: Sequence[Path],
    merges: Mapping[Path, Mapping[str, Any]],
    *,
    overwrite: bool = False,
    progress: bool = True,
    fingerprints: bool = True,
    **options: Any,
) -> None:
    """Merge the same folders in many ways at once, reading them once; each result is what :func:`merge_folders` gives.

    Either all outputs are there in the end or none; a merge that was killed is taken up where it was.

    Args:
        base: the base's folder.
        experts: the experts' folders, in order.
        merges: by output folder the options of a merge, ``"method"`` among them.
        overwrite: replace existing folders.
        progress: show a progress bar.
        fingerprints: hash all models for the records.
        options: of :func:`.merge.open_merge`, for all merges.

    Raises:
        CheckpointError, MethodError, SpeechMergeError: as :func:`merge_folders`.
    """
    made: list[Merge] = []
    told = [{"strict": True} | options | given for given in merges.values()]
    for given in told:
        made.append(open_merge(base=base, experts=experts, inputs=made[0].inputs if made else None, **given))
    _write(dict(zip(map(Path, merges), zip(made, told, strict=True), strict=True)), overwrite, progress, fingerprints)


def _write(
    merges: Mapping[Path, tuple[Merge, Mapping[str, Any]]],
    overwrite: bool,
    progress: bool,
    fingerprints: bool,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write merges of the same models, given with their options by output folder: all or none."""
    merges = {path: (_precise(merge), options) for path, (merge, options) in merges.items()}
    made = [merge for merge, _ in merges.values()]
    base, experts = made[0].base, made[0].experts
    if all(merge.piece == "entries" for merge in made):  # blocks of one size; whole tensors would leave gaps
        keep_memory()
    about = validation.check_companions(base.folder)
    said = about.said if about else ()
    for change in said:
        log.warning("%s: %s.", base.folder, change)
    _check_room(merges)
    started = time.perf_counter()
    with ExitStack() as stack:
        folders, works = [], []
        for path, (merge, options) in merges.items():
            folders.append(stack.enter_context(atomic_folder(path, overwrite=overwrite, marks=output.MARKS)))
            works.append(stack.enter_context(unfinished(path, output.identity(merge, options))))
        runs = _write_weights(made, works, folders, progress)
        models = output.marks([base, *experts, *folders], fingerprints)
        told = [options for _, options in merges.values()]
        for run, options, folder, mark in zip(runs, told, folders, models[-len(folders) :], strict=True):
            output.write_companions(folder, base.folder, run.merge.dtype, about)
            marks = [*models[: -len(folders)], mark]
            output.write_record(folder, run, options, marks, said=said, data=data)
    release_memory()
    log.info("%s written in %.1f s", ", ".join(map(str, merges)), time.perf_counter() - started)


def _precise(merge: Merge) -> Merge:
    """Return the merge with the precision it is written in: its own, or the finest of its models'."""
    return replace(merge, dtype=merge.dtype or most_precise([merge.base, *merge.experts]))


def _check_room(merges: Mapping[Path, tuple[Merge, Mapping[str, Any]]]) -> None:
    """Raise unless disk and memory suffice for all merges together."""
    total = most = 0
    for merge, _ in merges.values():
        sizes = [math.prod(shape) * merge.dtype.itemsize for shape in merge.base.shapes.values()]
        expected = estimate(merge)
        log.info("%s of %d experts: %s", merge.method.name, len(merge.experts), expected)
        total, most = total + sum(sizes), max(most, expected.memory + (len(merges) - 1) * max(sizes))
    for path in merges:
        check_writable(path, total)
    validation.check_memory(most)


def _write_weights(
    merges: Sequence[Merge], works: Sequence[tuple[Path, Journal]], folders: Sequence[Path], progress: bool
) -> list[Run]:
    """Write the weights of merges where their unfinished work lies, move them into their folders, return the runs."""
    skip = [journal.finished for _, journal in works]
    runs = [begin(one, progress=progress, whole=not done) for one, done in zip(merges, skip, strict=True)]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(closing(output.Weights(work, output.layout(run.merge.base, run.merge.dtype), journal)))
            for run, (work, journal) in zip(runs, works, strict=True)
        ]
        for i, name, tensor in together.stream(runs, progress=progress, skip=skip):
            writers[i].put(name, tensor)
        files = [weights.finish() for weights in writers]
    for (work, _), names, folder in zip(works, files, folders, strict=True):
        for file in names:
            (work / file).rename(folder / file)
    return runs
