"""Writing a merged model as a Hugging Face folder: weights tensor by tensor, companions, model card and recipe."""

import contextlib
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from ..files import digest
from ..whisper.checkpoints import Checkpoint, fingerprint, read_json
from ..whisper.tensor_files import DTYPES
from ..whisper.weight_files import states
from . import lengths
from .options import plain
from .resuming import Journal

if TYPE_CHECKING:
    from ..whisper.companions import Companions
    from .merge import Merge
    from .precision import Remaining
    from .run import Run

SHARD_BYTES = 5_000_000_000  # Hugging Face's customary size of one file
COMPANIONS = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")
COMPANIONS += ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "normalizer.json")
COMPANIONS += ("added_tokens.json", "special_tokens_map.json")
RECIPE = "merge_recipe.json"
MARKS = ("config.json", RECIPE)  # what tells the folder of a model, or of a merge, from any other
RECORDED = ("include", "policy", "lines", "max_update", "max_growth")  # the engine's options, where they were given
_WORDS = {dtype: word for word, dtype in DTYPES.items()}

Layout = dict[str, dict[str, tuple[tuple[int, ...], torch.dtype]]]


def layout(base: Checkpoint, dtype: torch.dtype) -> Layout:
    """Return which file gets which tensors, ``{file: {name: (shape, dtype)}}``, in the base's order."""
    shards: list[dict] = [{}]
    filled = 0
    for name, shape in base.shapes.items():
        own = dtype if base.dtypes[name].is_floating_point else base.dtypes[name]
        size = math.prod(shape) * own.itemsize
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = (shape, own)
        filled += size
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards, 1)}


class Weights:
    """The weights of a folder, written tensor by tensor, each at its place in its safetensors file.

    Args:
        folder: where the files go; those a killed merge left there are written on.
        plan: which file gets which tensors.
        journal: where each tensor is noted once it is written; those it has as finished are not put again.
    """

    def __init__(self, folder: Path, plan: Layout, journal: Journal | None = None) -> None:
        self.folder, self.plan, self.journal = folder, plan, journal
        self.places = {name: place for file, shard in plan.items() for name, place in _opened(folder / file, shard)}
        self.left = set(self.places) - set(journal.finished if journal else ())
        self.streams = {file: (folder / file).open("r+b", buffering=0) for file in plan}

    def put(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, in any order."""
        file, start = self.places[name]
        self.streams[file].seek(start)
        data = memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())
        while data:
            data = data[self.streams[file].write(data) :]
        self.left.remove(name)
        if self.journal:
            self.journal.add(name, tensor)

    def close(self) -> None:
        """Close the files."""
        for stream in self.streams.values():
            stream.close()

    def finish(self) -> list[str]:
        """Write the index, if there is more than one file; return the names of all files.

        Raises:
            ValueError: tensors of the plan were never written.
        """
        if self.left:
            raise ValueError(f"{len(self.left)} tensors of the layout were never written")
        if len(self.plan) == 1:
            return list(self.plan)
        index, shards = "model.safetensors.index.json", self.plan.items()
        total = sum(math.prod(shape) * kind.itemsize for _, shard in shards for shape, kind in shard.values())
        weight_map = {name: file for file, shard in shards for name in shard}
        content = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (self.folder / index).write_text(json.dumps(content, indent=1))
        return [*self.plan, index]


def write_weights(folder: Path, tensors: Iterable[tuple[str, Tensor]], plan: Layout) -> list[str]:
    """Write tensors as they come; memory holds one of them at a time. Return the names of the files."""
    with contextlib.closing(Weights(folder, plan)) as weights:
        for name, tensor in tensors:
            weights.put(name, tensor)
        return weights.finish()


def _opened(path: Path, shard: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> list[tuple[str, tuple[str, int]]]:
    """Write a shard's header and make room for its tensors; return the file name and byte offset of each."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, dtype) in shard.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _WORDS[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("r+b" if path.exists() else "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + offset)
    return [(name, (path.name, 8 + len(text) + header[name]["data_offsets"][0])) for name in shard]


def write_companions(folder: Path, base: Path, dtype: torch.dtype, about: "Companions | None") -> None:
    """Write the base's configuration and tokenizer with settings that can generate, and state the weights' dtype.

    Of a model that is no whole Whisper (``about`` is ``None``) the files are copied.
    """
    kind = str(dtype).removeprefix("torch.")
    if about is not None:
        from ..whisper import companions  # heavy, and of no use to other models

        companions.write(folder, about, kind, base)
        return
    for name in COMPANIONS:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        config.pop("torch_dtype", None)
        config["dtype"] = kind
        config["tie_word_embeddings"] = True  # the table is written for both
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def marks(models: Sequence[Checkpoint | Path], wanted: bool) -> list[str]:
    """Return the fingerprints of models, if wanted."""
    if not wanted:
        return ["not computed"] * len(models)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # hashing leaves the interpreter free
        return list(pool.map(fingerprint, models))


def write_record(
    folder: Path,
    run: "Run",
    options: Mapping[str, Any],
    marks: Sequence[str],
    *,
    said: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write ``merge_recipe.json`` and the model card.

    ``marks`` are the fingerprints of base, experts and result; ``said`` is what was changed in the base's generation
    settings, ``data`` what the merge was given beside the models.
    """
    merge = run.merge
    record = {
        "library": f"speechmerge {version('speechmerge')}",
        "recipe": recipe(merge, options, run.known.learnt),
        "growth": lengths.rounded(run),
        "fingerprints": {"base": marks[0], "experts": marks[1:-1], "result": marks[-1]},
        "changed_settings": list(said),
    }
    if data:
        record["data"] = dict(data)
    if told := _rounding(merge):
        record["rounding"] = [{"expert": label, **asdict(about)} for label, about in told]
    (folder / RECIPE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    (folder / "README.md").write_text(_card(merge, record))


def recipe(merge: "Merge", options: Mapping[str, Any], learnt: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the merge in the shape of the ecosystem's recipe files, all parameters spelt out, learnt ones too."""
    extra = {name: plain(options[name]) for name in RECORDED if options.get(name)}
    parameters = {**merge.parameters, **(learnt or {}), "lambda": merge.scaling, **extra}
    return {
        "merge_method": merge.method.name,
        "base_model": _label(merge.base),
        "models": [{"model": _label(expert)} for expert in merge.experts],
        "parameters": parameters,
        "dtype": str(merge.dtype).removeprefix("torch."),
    }


def identity(merge: "Merge", options: Mapping[str, Any]) -> str | None:
    """Return what tells a merge from any other: recipe, input files as they are now, device, library.

    ``None`` where statistics, functions or models in memory are given, which cannot be told apart here.
    """
    models = [model.folder or Path(model.label) for model in (merge.base, *merge.experts)]
    if merge.extras or not all(model.is_dir() for model in models):
        return None
    inputs = [entry for model in models for entry in states(model)]
    return digest([recipe(merge, options), inputs, str(merge.device), version("speechmerge")])


def _rounding(merge: "Merge") -> list[tuple[str, "Remaining"]]:
    """Return the experts in which rounding is left, by their labels, and how much."""
    pairs = zip(merge.experts, merge.inputs.rounding, strict=True)
    return [(_label(expert), about) for expert, about in pairs if about]


def _precision(merge: "Merge") -> str:
    """Return the card's paragraph on what storing models in few digits has left in the merge; mostly none."""
    lines = [f"- {about.sentence(label, _label(merge.base))}\n" for label, about in _rounding(merge)]
    return "".join(["## Precision\n\n", *lines, "\n"]) if lines else ""


def _data(record: Mapping[str, Any]) -> str:
    """Return the card's paragraph on the data that the method was given beside the models; mostly none."""
    if "data" not in record:
        return ""
    told = yaml.safe_dump(record["data"], sort_keys=False, allow_unicode=True)
    return f"## Data\n\nBeside the models the method was given:\n\n```yaml\n{told}```\n\n"


def _label(model: Checkpoint) -> str:
    """Name a model without the place it lies at on this machine."""
    return Path(model.label).name if model.folder is None else model.folder.name


def _card(merge: "Merge", record: Mapping[str, Any]) -> str:
    """Return the model card: front matter, what was merged and how, hashes, licence note."""
    about: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["merge", "speechmerge"],
    }
    names = "".join(
        f"| expert {i} | {_label(expert)} | `{mark[:16]}` |\n"
        for i, (expert, mark) in enumerate(zip(merge.experts, record["fingerprints"]["experts"], strict=True))
    )
    changed = "".join(f"The base's settings were changed: {change}.\n\n" for change in record["changed_settings"])
    return (
        f"---\n{yaml.safe_dump(about, sort_keys=False)}---\n\n# A Whisper merged with {merge.method.title}\n\n"
        f"{merge.method.summary}\n\n$${merge.method.equation}$$\n\nSource of the method: {merge.method.paper}. "
        f"Merged by {record['library']} from {len(merge.experts)} models fine-tuned from one base.\n\n## Recipe\n\n"
        f"```yaml\n{yaml.safe_dump(record['recipe'], sort_keys=False, allow_unicode=True)}```\n\n## Fingerprints\n\n"
        "SHA-256 over sorted tensor names and raw fp32 values, first 16 digits; in full in `merge_recipe.json`.\n\n"
        f"| model | folder | fingerprint |\n|---|---|---|\n| base | {_label(merge.base)} | "
        f"`{record['fingerprints']['base'][:16]}` |\n{names}| result | this folder | "
        f"`{record['fingerprints']['result'][:16]}` |\n\n{_data(record)}{_precision(merge)}{changed}"
        "## Licence\n\nA merged model is made from the models above: the licences of the base and of every expert, and "
        "of the speech the experts were trained on, apply to it together.\n"
    )
