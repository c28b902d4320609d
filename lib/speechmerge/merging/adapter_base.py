"""Which Whisper an adapter was trained on, as far as its ``base_model_name_or_path`` tells.

A name counts if it is that of a published Whisper, however written (``openai/whisper-tiny.en``, the last part of a
path, a folder of the hub's cache). What it promises is held against the sizes of the base's tensors; where two
published models have the same sizes, against the name that the base's own folder carries. The name of a fine-tune, or
of a path that is not here, tells nothing and is passed.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import CheckpointError
from ..whisper.checkpoints import Checkpoint
from ..whisper.configuration import RECORD
from ..whisper.tensor_files import read_if_there

_WIDTHS = {"tiny": (384, 4), "base": (512, 6), "small": (768, 12), "medium": (1024, 24), "large": (1280, 32)}
_NAME = re.compile(
    r"(?:distil|whisper)-(?:(tiny|base|small|medium)(\.en)?|large(-v1|-v2|-v3(?:\.5)?)?(-turbo)?|(turbo))"
)
_ENGLISH, _MULTILINGUAL, _CANTONESE = 51864, 51865, 51866  # tokens; large-v3 knows one more language


def published(name: str) -> str | None:
    """Return the Whisper that a name or path speaks of, e.g. ``"whisper-large-v2"``; ``None`` for any other name."""
    parts = [part for part in re.split(r"[/\\]", name.strip()) if part]
    if "snapshots" in parts[1:]:  # the hub's cache: models--openai--whisper-tiny/snapshots/REVISION
        parts = parts[: parts.index("snapshots")]
    last = parts[-1].lower().rsplit("--", 1)[-1] if parts else ""
    if not _NAME.fullmatch(last):
        return None
    return {"whisper-turbo": "whisper-large-v3-turbo", "whisper-large-v1": "whisper-large"}.get(last, last)


def sizes(name: str) -> dict[str, int]:
    """Return what a published Whisper is: its sizes by the names in ``config.json``, and ``is_multilingual``."""
    small, english, version, turbo, _ = _NAME.fullmatch(name).groups()
    width, layers = _WIDTHS[small or "large"]
    newest = bool(turbo) or (version or "").startswith("-v3")
    fewer = 4 if turbo or name == "distil-small.en" else 2 if name.startswith("distil") else layers
    return {
        "d_model": width,
        "encoder_layers": layers,
        "decoder_layers": fewer,
        "num_mel_bins": 128 if newest else 80,
        "vocab_size": _ENGLISH if english else _CANTONESE if newest else _MULTILINGUAL,
        "is_multilingual": not english,
    }


def measured(base: Checkpoint) -> dict[str, int]:
    """Return the same of a base, as far as its tensors and its folder show it."""
    found = {}
    for stack in ("encoder", "decoder"):
        layers = {int(m[1]) for name in base.shapes if (m := re.search(rf"(?:^|\.){stack}\.layers\.(\d+)\.", name))}
        found |= {f"{stack}_layers": 1 + max(layers)} if layers else {}
    for name, shape in base.shapes.items():
        if name.endswith("decoder.embed_tokens.weight"):
            found |= {"vocab_size": shape[0], "d_model": shape[1]}
        elif name.endswith("encoder.conv1.weight"):
            found |= {"num_mel_bins": shape[1]}
    known = _json(base.folder, "generation_config.json").get("is_multilingual")
    return found if known is None else found | {"is_multilingual": known}


def check_base(where: Path, named: str | None, base: Checkpoint) -> None:
    """Check that the base is not another Whisper than the one an adapter names.

    Raises:
        CheckpointError: what is named has other sizes than the base, or is another model of the same sizes.
    """
    if not isinstance(named, str) or not named:
        return
    have, name = measured(base), published(named)
    other = _differences(_stated(Path(named).expanduser()) or (sizes(name) if name else {}), have)
    if not other and name:
        known = [found for found in _known(base) if not _differences(sizes(found), have)]
        other = [f"the base is {known[0]}"] if known and known[0] != name else []
    if other:
        raise CheckpointError(
            f"{where}: base_model_name_or_path is {named!r}, which is another Whisper than the base {base.label} "
            f"({', '.join(other)}); give the base that the adapter was trained on."
        )


def _differences(wanted: Mapping[str, int], have: Mapping[str, int]) -> list[str]:
    """Say where two descriptions differ; a vocabulary padded to a multiple of 64 is not another one."""
    found = [key for key in have if wanted.get(key, have[key]) != have[key]]
    small, large = sorted((have.get("vocab_size", 0), wanted.get("vocab_size", 0)))
    padded = large % 64 == 0 and large - small < 64
    return [f"{key} {wanted[key]} and not {have[key]}" for key in found if not (padded and key == "vocab_size")]


def _stated(folder: Path) -> dict:
    """Return what a folder's configuration states, nothing if it is not here."""
    content = _json(folder, "config.json")
    return content if content.get("model_type") == "whisper" else {}


def _known(base: Checkpoint) -> Iterator[str]:
    """Yield the published names that the base's folder carries: in its record, in its configuration, as its path."""
    record = _json(base.folder, RECORD)
    names = (record.get("name"), record.get("source"), _json(base.folder, "config.json").get("_name_or_path"))
    for name in (*names, str(base.folder or "")):
        if isinstance(name, str) and (found := published(name.rsplit(", ", 1)[-1])):
            yield found


def _json(folder: Path | None, file: str) -> dict:
    return read_if_there(folder / file) if folder else {}
