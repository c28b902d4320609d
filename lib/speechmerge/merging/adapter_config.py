"""What ``adapter_config.json`` says of a LoRA, field by field: used as peft uses it, without effect here, or refused.

:data:`FIELDS` holds every field of peft 0.21's ``LoraConfig``; a field it lacks is refused unless it is empty, since it
may change numbers. :data:`METHODS` holds peft's other methods. The page on checkpoints is written from both tables.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError
from ..whisper.checkpoints import Checkpoint, read_json

CONFIG = "adapter_config.json"
EMPTY = (None, False, "", [], {})
STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")  # of A and B; all leave the base as it is


class Field(NamedTuple):
    """A field of the configuration.

    Attributes:
        effect: what it does to the merged weights, or why it is refused.
        accepted: the values that are not refused, ``None`` for all.
        way: what to do where it is refused, one of :data:`WAYS`.
    """

    effect: str
    accepted: tuple | None = None
    way: str = ""


USED, NONE = "used: ", "no effect: "
WAYS = {
    "convert": "Save it again with save_pretrained(..., path_initial_model_for_weight_conversion=...), which writes a "
    "plain LoRA (but not after loftq), or merge it into the model it was trained on and give that one.",
    "base": "Merge it into the model it was trained on and give that one.",
    "merge": "Make a full model of it and give that folder: {command}",
    "trainer": "Merge it into its model with the library that trained it, and give that model's folder.",
    "none": "No full model computes the same, so it cannot be merged.",
}
METHODS = {  # by what peft can do with them; LoRA and DoRA are read here
    "merge": (
        *("ADALORA", "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA"),
        *("GRALORA", "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "MISS", "OFT", "OSF", "PEANUT", "PSOFT"),
        *("PVERA", "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA"),
        *("VERA", "WAVEFT"),
    ),
    "none": (
        *("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "LILY", "MULTITASK_PROMPT_TUNING", "P_TUNING", "POLY"),
        *("PREFIX_TUNING", "PROMPT_TUNING", "SHADOW", "XLORA"),
    ),
}
NAMES = ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")  # fields that name modules
_START = NONE + "only says how A and B started"
_TRAINING = NONE + "only changes the training"
FIELDS = {
    "peft_type": Field(USED + "`LORA` is read; other methods stand below"),
    "base_model_name_or_path": Field(USED + "refused where it names another Whisper than the base"),
    "r": Field(USED + "the rank; refused where A and B have another"),
    "lora_alpha": Field(USED + "the scale α/r"),
    "use_rslora": Field(USED + "the scale is α/√r"),
    "rank_pattern": Field(USED + "ranks of single modules, the first pattern in the file that matches"),
    "alpha_pattern": Field(USED + "α of single modules, the first pattern in the file that matches"),
    "use_dora": Field(USED + "DoRA: each row (of a table each column) gets the stored norm"),
    "lora_bias": Field(USED + "the bias of B, times the scale, is added to the layer's; refused where it has none"),
    "bias": Field(USED + "stored biases take the place of the base's"),
    "modules_to_save": Field(USED + "what is stored whole takes the place of the base's; the head must stay tied"),
    "trainable_token_indices": Field(USED + "stored rows take the place of the token table's, and of the tied head's"),
    "target_modules": Field(USED + "refused where A and B of another module are stored, which peft leaves out"),
    "exclude_modules": Field(USED + "as `target_modules`"),
    "layers_to_transform": Field(USED + "as `target_modules`"),
    "layers_pattern": Field(USED + "as `target_modules`"),
    "ensure_weight_tying": Field(
        USED + "table and head stored whole are one; refused with A and B on the table, which peft's merge adds twice"
    ),
    "init_lora_weights": Field(
        "A and B started from parts of the base (`pissa`, `olora`, `corda`, `loftq`, `lora_ga`) that were taken out of "
        "it, so they belong to a changed base",
        STARTS,
        "convert",
    ),
    "fan_in_fan_out": Field(NONE + "peft itself turns it off, since Whisper's maps store [out, in]"),
    "lora_dropout": Field(_TRAINING),
    "velora_config": Field(_TRAINING),
    "monteclora_config": Field(_TRAINING),
    "runtime_config": Field(_TRAINING),
    "eva_config": Field(_START),
    "corda_config": Field(_START),
    "loftq_config": Field("A and B belong to the quantised base that LoftQ made beside them", EMPTY, "base"),
    "lora_ga_config": Field(_START),
    "qalora_group_size": Field(NONE + "counts with `use_qalora` only"),
    "megatron_core": Field(NONE + "counts with `megatron_config` only"),
    "revision": Field(NONE + "a name"),
    "task_type": Field(NONE + "a name"),
    "auto_mapping": Field(NONE + "a name"),
    "peft_version": Field(NONE + "a name"),
    "inference_mode": Field(NONE + "trained weights are the same in both modes"),
    "merge_weights": Field(NONE + "written by the first versions of peft"),
    "use_bdlora": Field("A or B is stored in diagonal blocks", EMPTY, "merge"),
    "kasa_config": Field("it belongs to a base whose smallest singular values were removed", EMPTY, "merge"),
    "target_parameters": Field("A and B belong to bare parameters", EMPTY, "merge"),
    "enable_lora": Field("A and B belong to slices of a map", EMPTY, "trainer"),
    "use_qalora": Field("A reads groups of inputs of a quantised map", EMPTY, "trainer"),
    "megatron_config": Field("A and B belong to Megatron's split maps", EMPTY, "trainer"),
    "alora_invocation_tokens": Field("the update works only from certain tokens on", EMPTY, "none"),
    "arrow_config": Field("each input chooses between several updates", EMPTY, "none"),
    "layer_replication": Field("it repeats layers, so the model is not the base's shape", EMPTY, "none"),
}
_UNKNOWN = Field("this version does not know the field, and it may change numbers", EMPTY, "merge")


def read_statement(folder: Path, base: Checkpoint) -> dict[str, Any]:
    """Return the configuration of a LoRA folder, every field known to be used or without effect.

    Raises:
        CheckpointError: another method of peft, or a field that means more than a low-rank update of this base.
    """
    path, config = folder / CONFIG, read_json(folder / CONFIG)
    if "peft_type" not in config:
        raise CheckpointError(f"{path} does not say its peft_type; copy the file saved with the adapter.")
    given = config.get("base_model_name_or_path")
    named = base.folder or (given if isinstance(given, str) else "BASE")
    if (method := config["peft_type"]) != "LORA":
        way = "none" if method in METHODS["none"] else "merge"
        raise CheckpointError(
            f"{folder} is an adapter of the method {method}; only LoRA and DoRA can be read as a change of weights. "
            + _way(way, folder, named)
        )
    for name in NAMES:
        _check_listed(path, name, config.get(name), str, "names of modules")
    _check_listed(path, "layers_to_transform", config.get("layers_to_transform"), int, "numbers of layers")
    for name, value in config.items():
        field = FIELDS.get(name, _UNKNOWN)
        if field.accepted is not None and _plain(value) not in field.accepted:
            raise CheckpointError(f"{path}: {name} is {value!r}: {field.effect}. {_way(field.way, folder, named)}")
    return config


def _check_listed(path: Path, field: str, value: object, kind: type, expected: str) -> None:
    """Check that a field holds one value of a kind, a list of them, or nothing."""
    items = value if isinstance(value, list) else [value]
    if value is not None and not all(isinstance(item, kind) for item in items):
        raise CheckpointError(f"{path}: {field} is {value!r}; expected {expected}. Copy the file saved with it.")


def _plain(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _way(way: str, folder: Path, base: object) -> str:
    command = (
        'python -c "from peft import PeftModel; from transformers import WhisperForConditionalGeneration as W; '
        f"PeftModel.from_pretrained(W.from_pretrained('{base}'), '{folder}').merge_and_unload()"
        f".save_pretrained('{folder}-merged')\""
    )
    return WAYS[way].format(command=command)


def scale(folder: Path, config: Mapping, module: str, rank: int) -> float:
    """Return the scale of a module's BA: α/r, or α/√r if it is rank-stabilised.

    Raises:
        CheckpointError: α is no number, or ``rank``, that of the tensors, is not the stated one.
    """
    stated = _own(folder, config, "rank_pattern", module, config.get("r", 8))  # 8 is peft's default for both
    if stated != rank or isinstance(stated, bool):
        raise CheckpointError(
            f"{folder / CONFIG}: r or rank_pattern says rank {stated!r} for {module!r}, but its tensors have rank "
            f"{rank}; copy the file saved with these tensors."
        )
    alpha = _own(folder, config, "alpha_pattern", module, config.get("lora_alpha", 8))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckpointError(
            f"{folder / CONFIG}: lora_alpha is {alpha!r}, expected a number; copy the file saved with the adapter."
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _own(folder: Path, config: Mapping, field: str, module: str, default: Any) -> Any:
    """Return what the first pattern of a field that fits the end of a module's name gives, else the default."""
    patterns = config.get(field) or {}
    if not isinstance(patterns, Mapping):
        raise CheckpointError(f"{folder / CONFIG}: {field} is {patterns!r}, expected a mapping from patterns.")
    return next((value for key, value in patterns.items() if _fits(folder, field, f"(.*\\.)?({key})", module)), default)


def _fits(folder: Path, field: str, pattern: str, module: str) -> bool:
    try:
        return re.fullmatch(pattern, module) is not None
    except re.error as error:
        raise CheckpointError(
            f"{folder / CONFIG}: {field} holds {pattern!r}, no regular expression ({error})."
        ) from None


def saved_whole(folder: Path, name: str, module: str) -> bool:
    """Tell whether a name in ``modules_to_save`` is a module's or that of one around it."""
    return _fits(folder, "modules_to_save", rf"(.*\.)?({name})(\..*)?", module)


def token_rows(
    folder: Path, config: Mapping, module: str, stored: tuple[int, ...], shape: tuple[int, ...]
) -> list[int]:
    """Return which rows of a table ``trainable_token_indices`` says are stored.

    Raises:
        CheckpointError: it does not say one row of the table for each that is stored.
    """
    stated = config.get("trainable_token_indices")
    if isinstance(stated, Mapping):
        stated = next((rows for name, rows in stated.items() if f".{module}".endswith(f".{name}")), None)
    elif not module.endswith("embed_tokens"):  # a list is about the token table
        stated = None
    known = isinstance(stated, list) and all(isinstance(i, int) and 0 <= i < shape[0] for i in stated)
    if not known or len(set(stated)) != len(stated) or stored != (len(stated), *shape[1:]):
        raise CheckpointError(
            f"{folder}: rows of shape {list(stored)} are stored for {module!r} of shape {list(shape)}, but "
            f"trainable_token_indices is {stated!r}; expected one index for each row, none twice."
        )
    return stated


def targeted(folder: Path, config: Mapping, module: str) -> bool:
    """Tell whether peft puts A and B on a module; a configuration without ``target_modules`` says nothing of it."""
    targets, layers = config.get("target_modules"), config.get("layers_to_transform")
    whole = (saved_whole(folder, name, module) for name in config.get("modules_to_save") or ())
    if _listed(folder, config, "exclude_modules", module) or any(whole):
        return False
    if targets is None or (isinstance(targets, str) and targets.lower() == "all-linear"):
        return True
    if layers in (None, []) or isinstance(targets, str) or module in targets:
        return _listed(folder, config, "target_modules", module)
    patterns = config.get("layers_pattern") or r"[^.]*"
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if found := re.match(rf"(?:.*?\.)?{pattern}\.(\d+)\.", module):
            wanted = [layers] if isinstance(layers, int) else layers
            return int(found[1]) in wanted and _listed(folder, config, "target_modules", module)
    return False


def _listed(folder: Path, config: Mapping, field: str, module: str) -> bool:
    """Tell whether a field names a module: a regular expression for all of its name, or a list of its last parts."""
    names = config.get(field) or []
    if isinstance(names, str):
        return _fits(folder, field, names, module)
    return any(f".{module}".endswith(f".{name}") for name in names)
