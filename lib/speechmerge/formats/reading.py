"""Opening a model of any known format: which one it is, is told by what lies there and never by its name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from transformers import WhisperTokenizer

from ..errors import CheckpointError, SourceError, nearest
from ..merging.adapters import is_adapter, open_adapter
from ..whisper import companions, models
from ..whisper.catalogue import BASES
from ..whisper.checkpoints import Checkpoint, most_precise
from ..whisper.companions import Companions
from ..whisper.configuration import read_config
from ..whisper.conversion import GGML_MAGIC, open_ggml
from ..whisper.ctranslate2 import is_ctranslate2, open_ctranslate2
from ..whisper.foreign import Foreign
from ..whisper.generation import settings
from ..whisper.tensor_files import read_if_there, read_json
from ..whisper.weight_files import ADAPTER, holds_model
from ..whisper.whisper_folder import check_shapes, made_companions
from . import alignment, vocabulary
from .model import Model
from .openai import open_openai

KINDS = {
    "hf": "Hugging Face folder",
    "ctranslate2": "CTranslate2 folder",
    "ggml": "whisper.cpp file",
    "openai": "openai/whisper file",
    "adapter": "peft adapter",
}
ZIP, GGUF = b"PK\x03\x04", b"GGUF"
VOCABULARIES = ("vocabulary.json", "vocabulary.txt")  # of CTranslate2's folders, new and old
DONOR = "whisper-tiny"  # gives its tokenizer, that of all multilingual Whispers, to a file without one


def locate(name: str | Path) -> Path:
    """Return what a name or path stands for: a file or folder as it is, a base model's folder, fetched if need be.

    Raises:
        SourceError: neither of them.
    """
    path, bases = Path(name).expanduser(), (*BASES, "smoke", *(base.hub for base in BASES.values()))
    if path.exists():
        return path
    if str(name) in bases:
        return models.base_model(str(name))
    raise SourceError(
        f"{path} is neither a file, nor a folder, nor the name of a base model.{nearest(str(name), bases)}"
    )


def recognise(path: Path) -> str:
    """Tell the format of a model, one of :data:`KINDS`, by what lies there.

    Raises:
        CheckpointError: none of them, or two at once.
    """
    if path.is_file():
        return _file(path)
    weights = path / "model.bin"
    foreign = weights.is_file() and is_ctranslate2(weights)
    if foreign and holds_model(path):
        raise CheckpointError(f"{path} holds two models, model.bin of CTranslate2 and one of Hugging Face; part them.")
    if foreign:
        return "ctranslate2"
    if is_adapter(path):
        return "adapter"
    if not holds_model(path):
        files = [file for file in sorted(path.iterdir()) if file.is_file() and file.suffix in (".bin", ".pt")]
        known = [file for file in files if _begins(file, GGML_MAGIC) or _begins(file, ZIP)]
        if known:
            raise CheckpointError(f"{path} is a folder; give the file in it, {known[0]}.")
    return "hf"


def _begins(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def _file(path: Path) -> str:
    """Tell the format of a file by its first bytes."""
    for mark, kind in ((GGML_MAGIC, "ggml"), (ZIP, "openai")):
        if _begins(path, mark):
            return kind
    if is_ctranslate2(path) or path.suffix in (".safetensors", ".json"):
        raise CheckpointError(f"{path} is one file of a model folder; give the folder, {path.parent}.")
    found = "is a GGUF file" if _begins(path, GGUF) else "begins like none of them"
    if _begins(path, b"\x80"):
        found = "is a bare pickle, which can run code when opened"
    raise CheckpointError(
        f"{path} {found}; expected a model file of whisper.cpp (ggml) or openai/whisper (a .pt of torch 1.6 or newer), "
        "or a folder of Hugging Face, CTranslate2 or peft."
    )


def open_model(path: Path, *, base: str | None = None, tokenizer: Path | None = None) -> Model:
    """Open a model of any format without reading its weights.

    Args:
        path: a file or folder.
        base: name or folder of an adapter's base; by default the one its configuration names.
        tokenizer: a folder whose tokenizer is the model's, where it has none itself.

    Raises:
        CheckpointError, SourceError: it is damaged, no Whisper, or something is missing that must be given.
    """
    kind = recognise(path)
    if base and kind != "adapter":
        raise CheckpointError(f"{path} is a {KINDS[kind]} and no adapter, so --base has no meaning; leave it out.")
    if kind == "adapter":
        if tokenizer:
            raise CheckpointError(f"{path} is an adapter, whose tokenizer is its base's; leave out --tokenizer.")
        return _with_heads(_adapter(path, base))
    if kind == "hf":
        return _with_heads(_folder(path, tokenizer))
    found = OPENERS[kind](path)
    check_shapes(found.checkpoint.shapes, found.sizes, str(path))
    about, said = _companions(path, kind, found, tokenizer)
    return _with_heads(Model(path, kind, found.checkpoint, about, found.precision, said))


OPENERS: dict[str, Callable[[Path], Foreign]] = {
    "ctranslate2": open_ctranslate2,
    "ggml": open_ggml,
    "openai": open_openai,
}


def _adapter(path: Path, base: str | None) -> Model:
    """Open an adapter as the model it makes of its base."""
    named = read_json(path / ADAPTER).get("base_model_name_or_path")
    if not base and (not named or not isinstance(named, str)):
        raise CheckpointError(f"{path} is an adapter and names no base; give --base, the model it was trained on.")
    try:
        folder = locate(base or named)
    except SourceError as error:
        told = f"--base {base}" if base else f"the base that {ADAPTER} names, {named!r},"
        raise SourceError(f"{path} is an adapter, and {told} was not found ({error}) Give --base.") from error
    if recognise(folder) != "hf":
        raise CheckpointError(f"{folder} is no Hugging Face folder; convert the base to hf first.")
    checkpoint, about = models.open_model(folder)
    adapted = open_adapter(path, checkpoint)
    return Model(path, "adapter", adapted, about, "adapter", (f"merged into {folder}", *about.said))


def _folder(path: Path, tokenizer: Path | None) -> Model:
    """Open a Hugging Face folder; with another tokenizer only its configuration and settings are its own."""
    if tokenizer is None:
        checkpoint, about = models.open_model(path)
        return Model(path, "hf", checkpoint, about, _precision(checkpoint), about.said)
    checkpoint = replace(models.open_weights(path), folder=None)  # the tokenizer there is not to be copied
    about = _made(read_config(path), tokenizer, read_if_there(path / "generation_config.json"), str(path))
    return Model(path, "hf", checkpoint, about, _precision(checkpoint), (f"the tokenizer is that of {tokenizer}",))


def _precision(checkpoint: Checkpoint) -> str:
    kinds = {str(dtype).removeprefix("torch.") for dtype in checkpoint.dtypes.values()}
    return kinds.pop() if len(kinds) == 1 else f"mostly {str(most_precise([checkpoint])).removeprefix('torch.')}"


def _companions(path: Path, kind: str, found: Foreign, tokenizer: Path | None) -> tuple[Companions, tuple[str, ...]]:
    """Return what lies beside the weights of another program's model, and where it came from."""
    heads = {"alignment_heads": found.alignment_heads} if found.alignment_heads else {}
    if tokenizer is not None:
        return _made(found.sizes, tokenizer, heads, str(path)), (f"the tokenizer is that of {tokenizer}",)
    if kind == "ctranslate2" and (path / "tokenizer.json").is_file():
        return _made(found.sizes, path, heads, str(path)), ()
    rows, length = found.sizes["vocab_size"], found.sizes["max_target_positions"]
    normalizer: dict[str, str] | None = None
    if kind == "openai":
        if rows <= alignment.ENGLISH_ONLY:
            raise CheckpointError(
                f"{path} holds no tokenizer, and that of a model with {rows} tokens is not known here; give "
                "--tokenizer, a folder with the tokenizer of this model."
            )
        donor = companions.read(models.base_model(DONOR))
        tokens, normalizer = vocabulary.stored(donor.tokenizer), donor.normalizer
        said = f"the tokenizer is that of {DONOR}"
    else:
        tokens = _tokens(path, kind, found)
        said = "the tokenizer is made from the vocabulary in it"
    made = vocabulary.tokenizer(tokens, rows, length, str(path))
    return _completed(found.sizes, made, normalizer, heads, str(path)), (said,)


def _tokens(path: Path, kind: str, found: Foreign) -> list[bytes]:
    """Return the ordinary tokens of the vocabulary that a file or folder of another program holds."""
    if kind == "ggml":
        end = vocabulary.ENDS[found.sizes["vocab_size"] > alignment.ENGLISH_ONLY]
        return list(found.tokens or ())[:end]  # some files go on with the special tokens
    file = next((path / name for name in VOCABULARIES if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{path} holds neither tokenizer.json nor a vocabulary; give --tokenizer, a folder.")
    try:
        text = file.read_text(encoding="utf-8")
        words = json.loads(text) if file.suffix == ".json" else text.split("\n")
        ordinary = words[: words.index("<|endoftext|>")]
        return [bytes(vocabulary.BYTES[letter] for letter in word) for word in ordinary]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is no vocabulary of a Whisper ({error!r}); copy the file again.") from error


def _made(sizes: dict, folder: Path, own: dict, where: str) -> Companions:
    """Return companions with the tokenizer and the normaliser of a folder."""
    table = folder / "normalizer.json"
    normalizer = read_json(table) if table.is_file() else None
    return _completed(sizes, companions.load_tokenizer(folder), normalizer, own, where)


def _completed(
    sizes: dict, tokenizer: WhisperTokenizer, normalizer: dict[str, str] | None, own: dict, where: str
) -> Companions:
    """Return companions whose generation settings are a model's own where they say something."""
    about = made_companions(sizes, tokenizer, normalizer)
    generation, said = settings(about.generation | own, tokenizer, about.config, where)
    return replace(about, generation=generation, said=tuple(said))


def _with_heads(model: Model) -> Model:
    """Add the published heads for word timestamps where a model of these sizes has them and does not say so."""
    found = alignment.published(model.about.config)
    if model.about.generation.get("alignment_heads") or found is None:
        return model
    name, heads = found
    about = replace(model.about, generation=model.about.generation | {"alignment_heads": heads})
    return replace(model, about=about, said=(*model.said, f"the heads for word timestamps are those of {name}"))
