"""Folders that say two things, or not enough: refused before work, whoever opens them, by a sentence naming both."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperForAudioClassification, WhisperForConditionalGeneration

from speechmerge.errors import CheckpointError
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.merging import engine, task_vectors, validation
from speechmerge.whisper import models
from speechmerge.whisper.checkpoints import fingerprint, open_checkpoint

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Q = "model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base():
    return models.base_model("smoke")


@pytest.fixture
def folder(base, tmp_path):
    """A fine-tune of the base."""
    made = Path(shutil.copytree(base, tmp_path / "model"))
    state = load_file(made / WEIGHTS)
    state[f"{Q}.weight"] += 0.01
    save_file(state, made / WEIGHTS, metadata={"format": "pt"})
    return made


def edit(path: Path, **changes) -> None:
    content = (json.loads(path.read_text()) if path.is_file() else {}) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def sharded(folder: Path) -> None:
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="300KB")


def adapter_beside(folder: Path, name: str = "adapter_model.safetensors") -> None:
    edit(folder / "adapter_config.json", peft_type="LORA", r=4, lora_alpha=8)
    save_file({f"base_model.model.{Q}.lora_A.weight": torch.zeros(4, 64)}, folder / name)


def old_single_beside_shards(folder: Path) -> None:
    single = (folder / WEIGHTS).read_bytes()
    sharded(folder)
    (folder / WEIGHTS).write_bytes(single)


def adapter_beside_shards(folder: Path) -> None:
    sharded(folder)
    adapter_beside(folder)


def pickled_adapter_beside(folder: Path) -> None:
    adapter_beside(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def pickled_model_beside_its_adapter(folder: Path) -> None:
    adapter_beside(folder)
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def other_file_named(folder: Path) -> None:
    (folder / "best.safetensors").write_bytes((folder / WEIGHTS).read_bytes())
    edit(folder / "config.json", transformers_weights="best.safetensors")


def distributed_beside(folder: Path) -> None:
    (folder / "shard-00000-model-00001-of-00001.safetensors").write_bytes((folder / WEIGHTS).read_bytes())


def tensor_in_two_shards(folder: Path) -> None:
    sharded(folder)
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: tensor}, second, metadata={"format": "pt"})


def tensor_in_no_shard(folder: Path) -> None:
    sharded(folder)
    first = min(folder.glob("model-*.safetensors"))
    state = load_file(first)
    state.popitem()
    save_file(state, first, metadata={"format": "pt"})


def no_weight_map(folder: Path) -> None:
    sharded(folder)
    (folder / INDEX).write_text("{}")


def list_for_an_index(folder: Path) -> None:
    sharded(folder)
    (folder / INDEX).write_text("[]")


def shard_gone(folder: Path) -> None:
    sharded(folder)
    min(folder.glob("model-*.safetensors")).unlink()


def variant_alone(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model.fp16.safetensors")


def only_in_a_checkpoint(folder: Path) -> None:
    (folder / "checkpoint-500").mkdir()
    (folder / WEIGHTS).rename(folder / "checkpoint-500" / WEIGHTS)
    (folder / "training_args.bin").write_bytes(b"")


def cache_of_the_hub(folder: Path) -> None:
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / WEIGHTS).rename(folder / "snapshots" / "abc" / WEIGHTS)


def quantised(folder: Path) -> None:
    """As bitsandbytes saves a model in 8 bits."""
    state = load_file(folder / WEIGHTS)
    state |= {f"{Q}.weight": torch.ones(64, 64, dtype=torch.int8), f"{Q}.SCB": torch.ones(64)}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    edit(folder / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})


def of_another_program(folder: Path, name: str = "model.bin") -> None:
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(b"\x06\0\0\0WhisperSpec")


def of_whisper_cpp(folder: Path) -> None:
    of_another_program(folder, "ggml-model.bin")


REFUSED = {
    old_single_beside_shards: r"holds two models, model\.safetensors and the shards of model-0000\d-of-",
    distributed_beside: r"holds two models, model\.safetensors and the shards of shard-00000-",
    adapter_beside: r"a whole model, model\.safetensors, and an adapter, adapter_model\.safetensors",
    pickled_adapter_beside: r"a whole model, model\.safetensors, and an adapter, adapter_model\.bin",
    adapter_beside_shards: r"a whole model, model\.safetensors\.index\.json, and an adapter, adapter_model",
    pickled_model_beside_its_adapter: r"holds pytorch_model\.bin, a pickle",
    other_file_named: r"holds model\.safetensors, but its config\.json names best\.safetensors",
    tensor_in_two_shards: r"is in model-0000[12]-of-\d+\.safetensors and in model-0000[12]-",
    tensor_in_no_shard: r"the index places 'model\..*' in model-00001-of-\d+\.safetensors, which lacks it",
    no_weight_map: r"index\.json holds no weight_map",
    list_for_an_index: r"index\.json holds a list, expected names with values",
    shard_gone: r"the index names model-00001-of-\d+\.safetensors, missing here",
    variant_alone: r"holds model\.fp16\.safetensors and no model\.safetensors; .* rename it",
    only_in_a_checkpoint: r"holds no model itself, but checkpoint-500 in it does; give that folder",
    quantised: r"config\.json has a quantization_config; de-quantise",
    of_another_program: r"holds model\.bin, a format of other programs \(CTranslate2",
    of_whisper_cpp: r"holds ggml-model\.bin, a format of other programs",
    cache_of_the_hub: r"holds no model itself, but snapshots/abc in it does; give that folder",
}


@pytest.mark.parametrize("form", REFUSED, ids=lambda form: form.__name__)
def test_everybody_refuses_a_folder_in_doubt(base, folder, form, tmp_path):
    form(folder)
    uses = {
        "base": lambda: engine.merge_folders("task_arithmetic", folder, [base], tmp_path / "out", progress=False),
        "expert": lambda: engine.merged("task_arithmetic", base, [folder]),
        "statistics": lambda: list(task_vectors.deltas(base, {"x": folder})),
        "decode": lambda: models.load_model(folder),
        "train": lambda: models.base_model(folder),
        "fingerprint": lambda: fingerprint(folder),
    }
    for use in uses.values():
        with pytest.raises(CheckpointError, match=REFUSED[form]):
            use()
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_its_folder(folder, base):
    for use in (models.base_model, open_checkpoint, lambda file: engine.merged("ties", base, [file])):
        with pytest.raises(CheckpointError, match=r"model\.safetensors is a file; give the folder that holds it"):
            use(folder / WEIGHTS)


def test_an_adapter_where_a_model_is_needed(folder, base):
    adapter_beside(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="holds an adapter and no model; it can only be an expert"):
        engine.merged("task_arithmetic", folder, [base])


def mel_bins_of_large_v3(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", feature_size=128)


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json"):
        (folder / name).unlink()


def damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 3}')


def tokenizer_of_another_model(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text().replace("<|notimestamps|>", "<|extra|>")
    (folder / "tokenizer.json").write_text(text)
    for name in ("added_tokens.json", "tokenizer_config.json"):
        (folder / name).unlink()


def padded_too_far(folder: Path) -> None:
    saved = WhisperForConditionalGeneration.from_pretrained(folder)
    saved.resize_token_embeddings(2048)
    saved.save_pretrained(folder)


def english_tokenizer_padded(folder: Path) -> None:
    """As many rows as padding would give, but the ids are another model's."""
    saved = WhisperForConditionalGeneration.from_pretrained(folder)
    saved.resize_token_embeddings(1864, pad_to_multiple_of=64)
    saved.config.eos_token_id = 255
    saved.save_pretrained(folder)


def classifier(folder: Path) -> None:
    config = WhisperConfig.from_pretrained(folder)
    WhisperForAudioClassification(config).save_pretrained(folder)


UNFIT = {
    mel_bins_of_large_v3: r"the feature extractor makes 128 mel bins, config\.json expects 80",
    no_tokenizer: r"holds no tokenizer \(tokenizer\.json, or vocab\.json",
    damaged_tokenizer: r"the tokenizer cannot be loaded",
    tokenizer_of_another_model: r"the tokenizer lacks <\|notimestamps\|>",
    padded_too_far: r"the tokenizer has 1864 tokens and the model 2048",
    english_tokenizer_padded: r"the tokenizer has 1864 tokens and the model 1920; an English-only",
    classifier: r"missing model\.decoder\..*, unknown classifier\.",
}


@pytest.mark.parametrize("form", UNFIT, ids=lambda form: form.__name__)
def test_what_decoding_would_refuse_is_no_base(folder, form, tmp_path):
    expert = Path(shutil.copytree(folder, tmp_path / "expert"))
    form(folder)
    if open_checkpoint(folder).shapes.keys() == open_checkpoint(expert).shapes.keys() and "padded" in form.__name__:
        form(expert)
    uses = [lambda: models.load_model(folder), lambda: models.base_model(folder), lambda: models.open_model(folder)]
    uses += [lambda: validation.check_companions(folder)]
    for use in uses:
        with pytest.raises(CheckpointError, match=UNFIT[form]):
            use()
    with pytest.raises(CheckpointError):
        engine.merge_folders("task_arithmetic", folder, [expert], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_padding_on_one_side_only(base, folder):
    saved = WhisperForConditionalGeneration.from_pretrained(folder)
    saved.resize_token_embeddings(1864, pad_to_multiple_of=64)
    saved.save_pretrained(folder)
    without = Path(shutil.copytree(folder, folder.with_name("without")))
    for name in ("tokenizer.json", "vocab.json"):
        (without / name).unlink()
    for one, other in ((base, folder), (folder, base), (without, base), (base, without)):
        with pytest.raises(CheckpointError, match=r"both have the same 1864 tokens.*resize_token_embeddings\(1864\)"):
            engine.merged("task_arithmetic", one, [other])


def test_an_expert_with_a_token_more(base, folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append(content["added_tokens"][-1] | {"id": 1864, "content": "<|xx|>"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"token 1864 of its tokenizer is '<\|xx\|>', the base .* has None"):
        engine.merged("task_arithmetic", base, [folder])


@pytest.mark.parametrize("merges", [["a b"], [["a", "b"]]])
def test_how_a_tokenizer_is_written_down_does_not_matter(tmp_path, merges):
    """Pairs as words or lists, added tokens in any order and in either place, one file or three."""
    added = [{"id": 3, "content": "<|es|>"}, {"id": 2, "content": "<|endoftext|>"}]
    model = {"vocab": {"a": 0, "b": 1, "<|endoftext|>": 2}, "merges": merges}
    written = {
        "tokenizer.json": {"model": model, "added_tokens": added},
        "vocab.json": {"b": 1, "a": 0},
        "added_tokens.json": {"<|es|>": 3, "<|endoftext|>": 2},
    }
    for place, names in (("one", ["tokenizer.json"]), ("three", ["vocab.json", "added_tokens.json"])):
        (tmp_path / place).mkdir()
        for name in names:
            (tmp_path / place / name).write_text(json.dumps(written[name]))
    assert validation.tokens(tmp_path / "one") == validation.tokens(tmp_path / "three")


def test_an_english_only_model_decodes_english_and_nothing_else(folder, make_clip):
    edit(folder / "generation_config.json", is_multilingual=False, lang_to_id=None, task_to_id=None)
    decoder = Decoder(folder, Decoding(precision="fp32"))
    assert len(decoder.decode([make_clip("a"), make_clip("b")], "en", "asr", progress=False)) == 2
    for language, task in (("es", "asr"), ("en", "st")):
        with pytest.raises(CheckpointError, match="English-only"):
            decoder.decode([make_clip("a")], language, task, progress=False)
