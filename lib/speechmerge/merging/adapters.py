"""LoRA experts: peft folders read as if they were full models, base plus low-rank update.

What the configuration says is read in :mod:`.adapter_config`, which base it names in :mod:`.adapter_base`, the file in
:mod:`.adapter_file`; the arithmetic stands in :mod:`.lora`. The yardstick is peft's own ``merge_and_unload``.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..whisper.checkpoints import Checkpoint, open_checkpoint
from ..whisper.number_formats import alike
from ..whisper.parameter_classes import tied_head
from ..whisper.tensor_files import Entry
from ..whisper.weight_files import holds_model
from . import lora
from .adapter_base import check_base
from .adapter_config import CONFIG, read_statement, saved_whole, scale, targeted, token_rows
from .adapter_file import Stored, read_file, refuse_several

log = logging.getLogger(__name__)

Change = Callable[[Tensor], Tensor]  # from a tensor to what takes its place


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds a peft adapter instead of a model."""
    return (folder / CONFIG).is_file() and not holds_model(folder)


def open_expert(base: Checkpoint, source: Path | str | Mapping[str, Tensor], label: str = "expert") -> Checkpoint:
    """Open an expert of a base: a model, in a folder or in memory, or an adapter."""
    if not isinstance(source, Mapping):
        if is_adapter(Path(source)):
            return open_adapter(Path(source), base)
        refuse_several(Path(source))
    return open_checkpoint(source, label)


def open_adapter(folder: Path, base: Checkpoint) -> Checkpoint:
    """Open a peft LoRA folder as the model it makes of ``base``: W0 + s·BA, with s = α/r, or α/√r for rank-stabilised.

    Tensors the adapter stores whole (``modules_to_save``, biases) take the base's place before the update.

    Raises:
        CheckpointError: not a LoRA, a statement or tensor that is no plain change of weights, or it does not fit the
            base.
    """
    config = read_statement(folder, base)
    check_base(folder / CONFIG, config.get("base_model_name_or_path"), base)
    stored = read_file(folder, bare=not any(name.startswith("model.") for name in base.shapes))
    _check_complete(folder, config, stored, base)
    _tie(folder, config, stored, base)
    _check_places(folder, config, stored, base)
    changes: dict[str, list[Change]] = {}
    for module, parts in stored.parts.items():
        name = f"{module}.weight"
        pair = _pair(folder, config, module, parts, base.shapes[name])
        changes[name] = [pair.added_to]
        if entry := parts.get("bias"):
            _check_bias(folder, config, entry, base.shapes.get(f"{module}.bias"))
            changes[f"{module}.bias"] = [partial(_with_bias, entry, pair.scale)]
    for module, entry in stored.rows.items():
        rows = token_rows(folder, config, module, entry.shape, base.shapes[f"{module}.weight"])
        changes.setdefault(f"{module}.weight", []).append(partial(_with_rows, entry, rows))
    if any(tied_head([f"{module}.weight"])[1] for module in stored.parts):
        log.warning("%s updates the token table; as in peft's merge, the tied output head is updated too.", folder)
    return _patched(base, folder, stored.whole, changes)


def _check_complete(folder: Path, config: dict, stored: Stored, base: Checkpoint) -> None:
    """Check that what the configuration says was trained whole or by rows is stored."""
    modules = {name.rpartition(".")[0] for name in (*base.shapes, *stored.whole)}
    kept = {name.rpartition(".")[0] for name in stored.whole}
    for name in config.get("modules_to_save") or ():
        of_base, of_file = ([m for m in some if saved_whole(folder, name, m)] for some in (modules, kept))
        if of_base and not of_file:
            raise CheckpointError(f"{folder}: modules_to_save names {name!r}, but nothing of it is stored; save again.")
    if config.get("trainable_token_indices") and not stored.rows:
        raise CheckpointError(f"{folder}: trainable_token_indices is set, but no rows are stored; save again.")


def _tie(folder: Path, config: dict, stored: Stored, base: Checkpoint) -> None:
    """Bring what is stored for the output head together with the token table, to which Whisper's head is tied.

    peft trains copies of what ``modules_to_save`` names, so head and table go apart unless ``ensure_weight_tying``.

    Raises:
        CheckpointError: head and table would differ.
    """
    weights = [*stored.whole, *(f"{module}.weight" for module in (*stored.parts, *stored.rows))]
    head, table = tied_head([*weights, *base.shapes])
    head = head or "proj_out.weight"
    if table not in base.shapes or head in base.shapes:
        return
    module, place = head.removesuffix(".weight"), table.removesuffix(".weight")
    if module in stored.parts or module in stored.rows:
        raise _head_update(folder, config, head, table, rows=module in stored.rows)
    own, now = stored.whole.pop(head, None), stored.whole.get(table)
    for entry in filter(None, (own, now)):
        _check_whole(folder, entry, base.shapes[table], table=True)
    names = config.get("modules_to_save") or ()
    copied = any(saved_whole(folder, name, m) for name in names for m in (module, place))
    if own is None and (not copied or config.get("ensure_weight_tying")):
        return  # the table alone, as in a full model
    if own is not None and now is None and not copied:
        stored.whole[table] = own  # peft loads it into the one tied tensor
        return
    moved = copied and (place in stored.parts or place in stored.rows)
    if moved or not _same(own, now, base, table):
        left = own is None or _same(own, None, base, table)
        how = f"{table!r} was trained and the output head {head!r} left as the base's"
        if not left:
            how = f"the output head {head!r} was trained apart from the token table {table!r}"
        raise CheckpointError(
            f"{folder}: {how}, but Whisper's head is tied to the table, so no Whisper is the model that was trained. "
            "Train again with ensure_weight_tying=True, or without the two in modules_to_save."
        )


def _head_update(folder: Path, config: dict, head: str, table: str, *, rows: bool) -> CheckpointError:
    """Return the refusal of A and B, or of rows, for the output head."""
    field = "trainable_token_indices" if rows else "target_modules"
    how = f"too, which was not trained that way. Train without the head in {field}."
    if config.get("ensure_weight_tying"):
        how = (
            "once more, though it is the table's own (ensure_weight_tying). Take the head's tensors out of the file "
            "and set ensure_weight_tying to false, to have it once."
        )
    return CheckpointError(
        f"{folder}: an update of the output head {head!r} is stored, but Whisper's head is the token table {table!r}, "
        f"so peft's merge {'writes' if rows else 'adds'} it to the table {how}"
    )


def _same(one: Entry | None, other: Entry | None, base: Checkpoint, table: str) -> bool:
    """Tell whether two stored tables are equal, at the coarser precision of the two; ``None`` is the base's."""
    one, other = (lora.read(entry, entry.dtype) if entry else base.read(table) for entry in (one, other))
    return torch.equal(one, other) if one.dtype == other.dtype else alike(one, other)


def _check_places(folder: Path, config: dict, stored: Stored, base: Checkpoint) -> None:
    """Check that everything stored belongs to a tensor of the base, and to one that the configuration speaks of."""
    named = {name: entry.stored_name for name, entry in stored.whole.items()}
    for name, told in (named | {f"{module}.weight": module for module in (*stored.parts, *stored.rows)}).items():
        if name not in base.shapes:
            raise CheckpointError(
                f"{folder}: the adapter changes {told!r}, which the base {base.label} does not have; it is an adapter "
                "of another model, or holds a kind of tensor that is not read."
            )
    for name, entry in stored.whole.items():
        module, _, kind = name.rpartition(".")
        stated = name in stored.inner or (kind == "bias" and config.get("bias") in ("all", "lora_only"))
        _check_whole(folder, entry, base.shapes[name], table=bool(tied_head([name])[1]))
        if module in stored.parts and not stated:
            raise CheckpointError(
                f"{folder}: {entry.stored_name!r} stands beside A and B of the same layer, where peft would leave it "
                "out; save the adapter again."
            )
    for module in stored.parts:
        if not targeted(folder, config, module):
            raise CheckpointError(
                f"{folder}: A and B of {module!r} are stored, but {CONFIG} does not put them there (target_modules, "
                "exclude_modules, modules_to_save, layers_to_transform), so peft would leave them out; take both files "
                "from one adapter."
            )


def _check_whole(folder: Path, entry: Entry, shape: tuple[int, ...], *, table: bool) -> None:
    """Check that a tensor stored whole can take the place of one of the base."""
    if entry.shape == shape and entry.dtype.is_floating_point:
        return
    why = "the adapter was trained on another base, or on a quantised one."
    if table and entry.dtype.is_floating_point and entry.shape[1:] == shape[1:]:
        why = (
            "the table was resized before the training, for added tokens or to a round number. Models with other "
            "tokens cannot be merged; train again on the base as it is."
        )
    raise CheckpointError(
        f"{folder}: {entry.stored_name!r} is {entry.dtype} of shape {list(entry.shape)}, the base's tensor is "
        f"{list(shape)}; {why}"
    )


def _pair(folder: Path, config: dict, module: str, parts: dict[str, Entry], shape: tuple[int, ...]) -> lora.Pair:
    """Return the checked A and B of a module."""
    first, second = lora.kinds(f"{folder}: {module!r}", parts, dora=bool(config.get("use_dora")))
    pair = lora.Pair(parts[first], parts[second], parts.get(lora.MAGNITUDE), first == lora.TABLE[0], 0.0)
    lora.check_shapes(f"{folder}: {first} and {second} of {module!r}", pair, shape)
    return replace(pair, scale=scale(folder, config, module, pair.first.shape[0]))


def _check_bias(folder: Path, config: dict, entry: Entry, shape: tuple[int, ...] | None) -> None:
    """Check that the bias of B can be added to a layer's own."""
    if not config.get("lora_bias") or entry.shape != shape:
        raise CheckpointError(
            f"{folder}: {entry.stored_name!r} of shape {list(entry.shape)} is stored, lora_bias is "
            f"{bool(config.get('lora_bias'))} and the layer's bias in the base has shape {shape and list(shape)}; "
            "expected lora_bias true and the same shape."
        )


def _with_bias(entry: Entry, by: float, start: Tensor) -> Tensor:
    return start + by * lora.read(entry, start.dtype)


def _with_rows(entry: Entry, rows: list[int], start: Tensor) -> Tensor:
    return start.index_copy(0, torch.tensor(rows), lora.read(entry, start.dtype))


def _patched(base: Checkpoint, folder: Path, whole: dict[str, Entry], changes: dict[str, list[Change]]) -> Checkpoint:
    """Return ``base`` with some tensors changed; the last one made is kept for reading in blocks."""
    dtypes = base.dtypes | {name: entry.dtype for name, entry in whole.items()}
    dtypes |= {name: torch.promote_types(dtypes[name], torch.float32) for name in changes}
    made: dict[str, tuple[str, Tensor]] = {}

    def make(name: str) -> Tensor:
        values = lora.read(whole[name], dtypes[name]) if name in whole else base.read(name).to(dtypes[name])
        for change in changes.get(name, ()):
            values = change(values)
        return values.reshape(-1)

    def reader(name: str, start: int, stop: int, room: Tensor | None = None) -> Tensor:
        if name not in whole and name not in changes:
            return base.reader(name, start, stop, room)
        last = made.get("last")  # one look, for threads read side by side
        if last is None or last[0] != name:
            last = made["last"] = (name, make(name))
        return last[1][start:stop]

    return replace(base, label=str(folder), folder=None, dtypes=dtypes, head=None, reader=reader)
