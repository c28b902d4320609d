"""One folder, one reading: merging, decoding and transformers find the same model in it, and what a merge writes too.

Each form is made with transformers itself or as its older versions wrote it.
"""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
    WhisperProcessor,
    WhisperTokenizer,
)

from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.merging import engine
from speechmerge.whisper import models
from speechmerge.whisper.checkpoints import fingerprint, open_checkpoint

TABLE = "model.decoder.embed_tokens.weight"
WEIGHTS = "model.safetensors"


def edit(path: Path, **changes) -> None:
    """Change entries of a JSON file; ``None`` removes one."""
    content = (json.loads(path.read_text()) if path.is_file() else {}) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def saved_again(folder: Path, change=lambda model: model, **options) -> None:
    """Load with transformers, change the model and save it into the folder."""
    model = change(WhisperForConditionalGeneration.from_pretrained(folder))
    remove(folder, WEIGHTS)
    model.save_pretrained(folder, **options)


def shards(folder: Path) -> None:
    saved_again(folder, max_shard_size="300KB")
    assert not (folder / WEIGHTS).is_file()


def single_over_shards(folder: Path) -> None:
    """transformers deletes the shards it replaces, and leaves their index behind."""
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    shards(folder)
    model.save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").is_file()


def other_weights_beside(folder: Path) -> None:
    wrong = {name: torch.zeros_like(tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
    for name in ("model.fp16.safetensors", "model-00001-of-00003.safetensors", "adapter_model.safetensors"):
        save_file(wrong, folder / name, metadata={"format": "pt"})
    torch.save(wrong, folder / "pytorch_model.bin")
    torch.save(wrong, folder / "optimizer.pt")


def adapter_config_left(folder: Path) -> None:
    edit(folder / "adapter_config.json", peft_type="LORA", r=4, lora_alpha=8, base_model_name_or_path="x")


def head_stored(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    save_file(state | {"proj_out.weight": state[TABLE].clone()}, folder / WEIGHTS, metadata={"format": "pt"})


def without_head(folder: Path) -> None:
    """``WhisperModel``, whose tensors lack the first part of their names."""
    model = WhisperModel.from_pretrained(folder)
    remove(folder, WEIGHTS)
    model.save_pretrained(folder)
    assert "decoder.embed_tokens.weight" in load_file(folder / WEIGHTS)


def whole_processor(folder: Path) -> None:
    """What ``WhisperProcessor.save_pretrained`` of transformers 5 writes, and no more."""
    processor = WhisperProcessor.from_pretrained(folder)
    for path in folder.iterdir():
        if path.name not in ("config.json", "generation_config.json", WEIGHTS):
            path.unlink()
    processor.save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists() and (folder / "processor_config.json").exists()


def no_preprocessor(folder: Path) -> None:
    remove(folder, "preprocessor_config.json", "normalizer.json")


def old_tokenizer(folder: Path) -> None:
    remove(folder, "tokenizer.json")


def oldest_tokenizer(folder: Path) -> None:
    remove(folder, "tokenizer.json", "tokenizer_config.json")


def short_tokenizer(folder: Path) -> None:
    """Without the timestamps, as the first folders were published."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = content["added_tokens"][:-1501]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    remove(folder, "vocab.json", "merges.txt", "added_tokens.json")


def forced(folder: Path) -> None:
    edit(folder / "generation_config.json", forced_decoder_ids=[[1, None], [2, 358]])


def forced_in_config(folder: Path) -> None:
    edit(folder / "config.json", forced_decoder_ids=[[1, 258], [2, 358], [3, 362]], max_length=448)
    edit(folder / "config.json", suppress_tokens=[1, 2], begin_suppress_tokens=[220, 256])


def old_settings(folder: Path) -> None:
    old = {"forced_decoder_ids": [[1, 258], [2, 358]], "decoder_start_token_id": 257, "eos_token_id": 256}
    (folder / "generation_config.json").write_text(json.dumps(old | {"alignment_heads": [[1, 0]]}))


def no_settings(folder: Path) -> None:
    remove(folder, "generation_config.json")
    edit(folder / "config.json", forced_decoder_ids=[[1, 258], [2, 358]], max_length=448, suppress_tokens=[])


def half(folder: Path) -> None:
    saved_again(folder, lambda model: model.to(torch.bfloat16))
    edit(folder / "config.json", dtype="float32", torch_dtype="float16")


def old_dtype(folder: Path) -> None:
    edit(folder / "config.json", dtype=None, torch_dtype="float16")


def odd_settings(folder: Path) -> None:
    """Ids that are no rows, which transformers passes over, and a temperature without sampling."""
    edit(folder / "generation_config.json", suppress_tokens=[-1, 5, 99999], temperature=0.5, top_p=0.9)


def padded(folder: Path) -> None:
    def grow(model):
        torch.manual_seed(0)
        model.resize_token_embeddings(1864, pad_to_multiple_of=64)
        return model

    saved_again(folder, grow)
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 1920


def checkpoint(folder: Path) -> None:
    """What a trainer without a processor leaves."""
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json"):
        remove(folder, name)
    torch.save({}, folder / "training_args.bin")


def links(folder: Path) -> None:
    """A snapshot of the hub's cache: links to blobs, in a folder that is a link itself."""
    blobs = folder.with_name(f"{folder.name}.blobs")
    folder.rename(blobs)
    real = folder.with_name(f"{folder.name}.snapshot")
    real.mkdir()
    for path in blobs.iterdir():
        os.symlink(path, real / path.name)
    os.symlink(real, folder)


def renamed_tokens(folder: Path) -> None:
    """Newer folders call two tokens otherwise; the language in the template is the last one trained."""
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json"):
        text = (folder / name).read_text().replace("<|nocaptions|>", "<|nospeech|>")
        (folder / name).write_text(text)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].reverse()
    content["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))


WHOLE = [
    shards, single_over_shards, other_weights_beside, adapter_config_left, head_stored, without_head,
    whole_processor, no_preprocessor, old_tokenizer, oldest_tokenizer, short_tokenizer, forced, forced_in_config,
    old_settings, no_settings, half, old_dtype, odd_settings, padded, links, renamed_tokens,
]  # fmt: skip
ALONE = [form for form in WHOLE if form not in (half, padded)]  # the others are of one kind or shape


@pytest.fixture(scope="module")
def base():
    return models.base_model("smoke")


@pytest.fixture
def made(base, tmp_path):
    """A factory of folders: the base, or a fine-tune of it, in some form."""

    def make(name: str, seed: int = 0, form=lambda folder: None) -> Path:
        folder = Path(shutil.copytree(base, tmp_path / name))
        remove(folder, "speechmerge.json")
        if seed:
            generator = torch.Generator().manual_seed(seed)
            state = load_file(folder / WEIGHTS)
            for key in state.keys() - {"model.encoder.embed_positions.weight"}:
                state[key] += 1e-2 * torch.randn(state[key].shape, generator=generator)
            save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
        form(folder)
        return folder

    return make


def theirs(folder: Path) -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()


def spoken(model: WhisperForConditionalGeneration) -> torch.Tensor:
    heard = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(3))
    said = [
        model.generate(heard.to(model.device, model.dtype), language=code, task=task, max_new_tokens=5)
        for code, task in (("es", "transcribe"), ("haw", "translate"))
    ]
    return torch.cat(said)


def same(one: dict, other: dict) -> bool:
    names = one.keys() - {"proj_out.weight"}
    return names == other.keys() - {"proj_out.weight"} and all(
        torch.equal(one[n].cpu().float(), other[n].cpu().float()) for n in names
    )


def converters_find_their_files(out: Path, tokenizer: WhisperTokenizer) -> None:
    """CTranslate2 and whisper.cpp open these; that they lie there changes nothing in what transformers reads."""
    vocabulary, added = (json.loads((out / name).read_text()) for name in ("vocab.json", "added_tokens.json"))
    assert vocabulary | added == tokenizer.get_vocab() and not vocabulary.keys() & added.keys()
    assert sorted(vocabulary.values()) == list(range(256))
    assert added["<|endoftext|>"] == 256 and added["<|notimestamps|>"] == 362
    assert (out / "merges.txt").read_text() == "#version: 0.2\n"
    assert json.loads((out / "config.json").read_text())["max_length"] == 448
    assert WhisperFeatureExtractor.from_dict(json.loads((out / "preprocessor_config.json").read_text())).n_samples
    without = shutil.copytree(out, out.with_name("without"))
    remove(without, "vocab.json", "merges.txt", "added_tokens.json")
    alone = WhisperTokenizer.from_pretrained(without)
    assert alone.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("form", WHOLE, ids=lambda form: form.__name__)
def test_merging_decoding_and_transformers_read_the_same_weights(made, form):
    folder = made("model", 1, form)
    opened = open_checkpoint(folder)
    read = {name: opened.read(name) for name in opened.shapes}
    model = models.load_model(folder)
    assert same(read, model.state_dict())
    if form is not adapter_config_left:  # which transformers reads as the model, or not at all where peft is installed
        assert same(read, theirs(folder).state_dict())
    assert fingerprint(models.base_model(folder)) == fingerprint(folder)
    assert spoken(model).shape[0] == 2
    model.save_pretrained(folder.with_name("trained"))  # as training does after an epoch


@pytest.mark.parametrize("form", WHOLE, ids=lambda form: form.__name__)
def test_what_a_merge_of_any_form_writes_is_read_by_all(made, form, tmp_path):
    folders = [made(name, seed, form) for seed, name in enumerate(("base", "one", "two"))]
    out = engine.merge_folders("task_arithmetic", folders[0], folders[1:], tmp_path / "out", progress=False)
    assert models.base_model(out) == out or form is half
    model, plain = models.load_model(out), theirs(out)
    assert same(model.state_dict(), plain.state_dict()) and torch.equal(spoken(model), spoken(plain))
    assert plain.generation_config.suppress_tokens and not getattr(plain.config, "forced_decoder_ids", None)
    assert len(plain.generation_config.lang_to_id) == 99 and spoken(plain).max() < 1864
    plain.generate(torch.zeros(1, 80, 3000, device=plain.device), max_new_tokens=2)  # the language is found
    kind = json.loads((out / "config.json").read_text())
    assert kind["dtype"] == str(next(iter(load_file(out / WEIGHTS).values())).dtype).removeprefix("torch.")
    assert "torch_dtype" not in kind
    processor = AutoProcessor.from_pretrained(out)
    assert processor.feature_extractor.feature_size == 80
    text = processor.tokenizer("¿Qué?").input_ids
    assert processor.tokenizer.decode(text, skip_special_tokens=True) == "¿Qué?"
    converters_find_their_files(out, processor.tokenizer)


@pytest.mark.parametrize("form", [*ALONE, checkpoint], ids=lambda form: form.__name__)
def test_an_expert_of_any_form_merges_with_a_plain_base(made, form):
    state = {name: load_file(made(name, seed) / WEIGHTS) for seed, name in enumerate(("b", "x"))}
    found = engine.merged("task_arithmetic", made("base"), [made("expert", 1, form)])
    assert same(found, engine.merged("task_arithmetic", state["b"], [state["x"]]))


def test_what_was_changed_in_the_settings_is_said(made, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        out = engine.merge_folders(
            "task_arithmetic", made("base", 0, old_settings), [made("x", 1)], tmp_path / "out", progress=False
        )
    record = json.loads((out / "merge_recipe.json").read_text())["changed_settings"]
    assert len(record) == 2 and "lang_to_id" in record[0] and "forced_decoder_ids" in record[1]
    assert all(change in caplog.text and change in (out / "README.md").read_text() for change in record)
    assert json.loads((out / "generation_config.json").read_text())["alignment_heads"] == [[1, 0]]


def test_a_changed_file_is_read_again(made):
    folder = made("model")
    assert models.load_model(folder).generation_config.suppress_tokens != [5]
    edit(folder / "generation_config.json", suppress_tokens=[5])
    assert models.load_model(folder).generation_config.suppress_tokens == [5]


def test_a_padded_row_is_never_spoken(made, make_clip):
    folder = made("model", 1, padded)
    state = load_file(folder / WEIGHTS)
    state[TABLE][1864:] = 10 * state[TABLE][:56]
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    ids = spoken(models.load_model(folder))
    assert ids.max() < 1864 and spoken(theirs(folder)).max() >= 1864
    assert len(Decoder(folder, Decoding(precision="fp32")).decode([make_clip("a")], "es", "asr", progress=False)) == 1
