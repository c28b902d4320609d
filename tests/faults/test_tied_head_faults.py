"""Whisper's output head is its token table: stored under either name, under both, or rounded in one of them."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import WhisperForConditionalGeneration

import speechmerge
from speechmerge.errors import CheckpointError
from speechmerge.merging import engine
from speechmerge.whisper import checkpoints, models

HEAD, TABLE, FC1 = "proj_out.weight", "model.decoder.embed_tokens.weight", "model.encoder.layers.0.fc1.weight"
SHAPES = {TABLE: (9, 4), FC1: (8, 4)}


def state(seed: int, base: dict | None = None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    fresh = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    return fresh if base is None else {n: base[n] + 0.01 * fresh[n] for n in base}


def headed(tensors: dict, prefix: str = "") -> dict[str, torch.Tensor]:
    """Store the table under the head's name alone."""
    return {prefix + (HEAD if n == TABLE else n): x for n, x in tensors.items()}


def folder(path, tensors, shards=1, **config):
    path.mkdir()
    names = list(tensors)
    parts = [names[i::shards] for i in range(shards)]
    files = [f"model-{i}.safetensors" for i in range(shards)] if shards > 1 else ["model.safetensors"]
    for file, part in zip(files, parts, strict=True):
        save_file({n: tensors[n] for n in part}, path / file)
    if shards > 1:
        index = {n: file for file, part in zip(files, parts, strict=True) for n in part}
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (path / "config.json").write_text(json.dumps(config))
    wanted = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
    (path / "generation_config.json").write_text(json.dumps(dict.fromkeys(wanted, 1)))
    return path


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shards", [0, 1, 2], ids=["in memory", "one file", "two files"])
def test_a_table_stored_as_the_head_alone_is_the_table(prefix, dtype, shards, tmp_path):
    base = state(0)
    usual = {n: x.to(dtype) for n, x in state(1, base).items()}
    other = headed(usual, prefix)
    source = folder(tmp_path / "one", other, shards) if shards else other
    assert checkpoints.fingerprint(source) == checkpoints.fingerprint(usual)
    found, expected = (engine.merged("task_arithmetic", base, [expert]) for expert in (source, usual))
    assert list(found) == list(base) and all(torch.equal(found[n], expected[n]) for n in base)


def test_without_the_model_prefix_the_table_has_none_either():
    bare = {n.removeprefix("model."): x for n, x in state(1).items()}
    named = {HEAD if "embed_tokens" in n else n: x for n, x in bare.items()}
    assert checkpoints.fingerprint(named) == checkpoints.fingerprint(bare)
    alone = {HEAD: torch.ones(2, 2), "blocks.0.weight": torch.ones(2, 2)}  # no Whisper, so a tensor of its own
    assert list(speechmerge.merge_state_dicts("weight_average", alone, [alone])) == list(alone)


def test_a_base_stored_so_gives_the_usual_form(tmp_path):
    base, experts = state(0), [state(1, state(0)), headed(state(2, state(0)))]
    expected = speechmerge.merge_state_dicts("lors", base, experts)
    in_memory = speechmerge.merge_state_dicts("lors", headed(base), experts)
    assert set(in_memory) == {HEAD, TABLE, FC1} and torch.equal(in_memory[HEAD], in_memory[TABLE])
    places = [folder(tmp_path / str(i), x) for i, x in enumerate((headed(base), *experts))]
    out = engine.merge_folders("lors", places[0], places[1:], tmp_path / "out", progress=False)
    written = checkpoints.open_checkpoint(out)
    assert written.head is None and set(written.shapes) == set(SHAPES)
    for n in base:
        assert torch.equal(in_memory[n], expected[n]) and torch.equal(written.read(n), expected[n])


@pytest.mark.parametrize(
    ("table", "head"),
    [(torch.float32, torch.float16), (torch.float32, torch.bfloat16), (torch.float16, torch.float32)],
)
def test_a_head_that_differs_by_storage_rounding_only_is_tied(table, head):
    base, expert = state(0), state(1, state(0))
    expert[TABLE] = expert[TABLE].to(table)
    both = expert | {HEAD: state(1, base)[TABLE].to(head)}
    found, expected = (engine.merged("task_arithmetic", base, [x]) for x in (both, expert))
    assert all(torch.equal(found[n], expected[n]) for n in base)
    both[HEAD] = state(2, base)[TABLE].to(head)
    with pytest.raises(
        CheckpointError, match=r"'proj_out\.weight' differs from .*trained untied, or one of the two was"
    ):
        engine.merged("task_arithmetic", base, [both])


@pytest.mark.parametrize("form", [headed, dict])
def test_one_of_two_that_the_configuration_unties_is_missing(form, tmp_path):
    place = folder(tmp_path / "one", form(state(0)), tie_word_embeddings=False)
    with pytest.raises(
        CheckpointError, match=r"one: config\.json says tie_word_embeddings: false, but .* would be random"
    ):
        checkpoints.open_checkpoint(place)


def test_a_merge_is_written_tied_whatever_the_bases_configuration_says(tmp_path):
    base = state(0) | {HEAD: state(0)[TABLE]}
    places = [folder(tmp_path / "base", base, tie_word_embeddings=False), folder(tmp_path / "one", state(1, state(0)))]
    out = engine.merge_folders("task_arithmetic", places[0], places[1:], tmp_path / "out", progress=False)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.parametrize("form", ["head alone", "rounded head", "untied configuration"])
def test_decoding_reads_what_merging_reads(form, tmp_path):
    plain = checkpoints.open_checkpoint(models.base_model("smoke"))
    tensors = {n: plain.read(n) for n in plain.shapes}
    table = tensors[TABLE]
    place = tmp_path / "one"
    WhisperForConditionalGeneration.from_pretrained(models.base_model("smoke")).save_pretrained(place)
    for file in models.base_model("smoke").iterdir():
        if file.suffix == ".json" and file.name != "config.json":
            (place / file.name).write_bytes(file.read_bytes())
    tensors = headed(tensors) if form == "head alone" else tensors | {HEAD: table.clone()}
    if form == "rounded head":
        tensors[HEAD] = table.half()
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((place / "config.json").read_text())
    config["tie_word_embeddings"] = form != "untied configuration"
    (place / "config.json").write_text(json.dumps(config))
    model = models.load_model(models.base_model(place))
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert torch.equal(model.proj_out.weight, table) and model.config.tie_word_embeddings
    assert checkpoints.fingerprint(place) == checkpoints.fingerprint(plain)
