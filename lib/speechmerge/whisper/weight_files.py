"""Which files of a model folder hold its weights: those that transformers reads, or a refusal where they are in doubt.

transformers takes ``model.safetensors`` if there is one and looks for an index of shards only then. Of shards it takes
every tensor, whatever the index says of it.
"""

import re
from pathlib import Path

from ..errors import CheckpointError
from ..files import state
from .tensor_files import read_if_there, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_FOREIGN = re.compile(r"model\.bin|.*ggml.*\.bin|.+\.(?:gguf|onnx|h5|msgpack|npz)")
_STATES = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")  # beside the weights of a checkpoint


def holds_model(folder: Path) -> bool:
    """Tell whether a folder holds the weights of a whole model, readable or pickled."""
    return any((folder / name).is_file() for name in (SINGLE, INDEX, *PICKLED))


def states(folder: Path) -> list[tuple[str, int, int]]:
    """Return what changes with the weights of a model or adapter: the state of each file that holds them."""
    return [state(file) for file in sorted((*folder.glob("*.safetensors"), *folder.glob(ADAPTER)))]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder, in the order of its index."""
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; give the folder that holds it, {folder.parent}.")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; expected a Hugging Face model folder with {SINGLE}.")
    if not any((folder / name).is_file() for name in (SINGLE, INDEX)):
        raise CheckpointError(_nothing(folder))
    _check_one_reading(folder)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    names = _shards(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise CheckpointError(f"{folder}: the index names {', '.join(missing) or 'no shard'}, missing here; copy all.")
    return [folder / name for name in names]


def _shards(folder: Path) -> list[str]:
    """Return the names of the files in the index."""
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{folder / INDEX} holds no weight_map of tensors to files; copy the file again.")
    return list(dict.fromkeys(names.values()))


def _check_one_reading(folder: Path) -> None:
    """Raise if another file claims to be the model: transformers would read one, and what is meant is not known.

    So it is with a claim that the weights are quantised.

    An index whose shards are all gone is what ``save_pretrained`` leaves behind; it claims nothing.
    """
    rivals = []
    if (folder / SINGLE).is_file() and (folder / INDEX).is_file():
        rivals += [name for name in _shards(folder) if (folder / name).is_file()][:1]
    rivals += sorted(path.name for path in folder.glob("shard-*-model-*-of-*.safetensors"))[:1]
    own = SINGLE if (folder / SINGLE).is_file() else INDEX
    if rivals:
        raise CheckpointError(
            f"{folder} holds two models, {own} and the shards of {rivals[0]}; delete the older one, with its index."
        )
    config = folder / "config.json"
    about = read_if_there(config)
    if about.get("quantization_config"):
        raise CheckpointError(
            f"{config} has a quantization_config; de-quantise the model and save it again in floats, or remove that "
            "entry if they are floats."
        )
    if (elsewhere := about.get("transformers_weights")) not in (None, own):
        raise CheckpointError(
            f"{folder} holds {own}, but its config.json names {elsewhere} in transformers_weights; keep one of the two."
        )
    adapters = [name for name in ADAPTER_WEIGHTS if (folder / name).is_file()]
    if adapters and (folder / ADAPTER).is_file():
        raise CheckpointError(
            f"{folder} holds a whole model, {own}, and an adapter, {adapters[0]}; with peft installed, transformers "
            "adds the adapter to the model, without it does not. Move one of the two to another folder."
        )


def _nothing(folder: Path) -> str:
    """Say what a folder without safetensors holds instead."""
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    inside += sorted((folder / "snapshots").glob("*"))
    models = [str(path.relative_to(folder)) for path in inside if holds_model(path) or (path / ADAPTER).is_file()]
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in ADAPTER_WEIGHTS)
    foreign = [name for name in names if _FOREIGN.fullmatch(name)]
    pickles = [
        name for name in names if name.endswith(_PICKLES) and not name.startswith(_STATES) and name not in foreign
    ]
    others = [name for name in names if name.endswith(".safetensors")]
    if pickles:
        return (
            f"{folder} holds {pickles[0]}, a pickle, which can run code when opened and is refused; save the model "
            "with save_pretrained(..., safe_serialization=True) and merge that folder (one of openai/whisper's own "
            "files: `speechmerge convert FILE FOLDER --to hf`)."
        )
    if foreign:
        return (
            f"{folder} holds {foreign[0]}, a format of other programs (CTranslate2, whisper.cpp, TensorFlow, Flax, "
            f"MLX); give the folder that it was made from, with {SINGLE} in it, or, of the first two, what "
            "`speechmerge convert` makes of it with `--to hf`."
        )
    if (folder / ADAPTER).is_file():
        return f"{folder} holds an adapter and no model; it can only be an expert. Merge it into its model first."
    if models:
        return f"{folder} holds no model itself, but {', '.join(models[:3])} in it does; give that folder."
    if others:
        return f"{folder} holds {others[0]} and no {SINGLE}; if it is the model that is meant, rename it to {SINGLE}."
    return f"{folder} holds no {SINGLE} and no {INDEX}."
