"""Conversion there and back: every number and every setting survives where the number format is kept."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from cli_calls import Caller
from converted import HEADS, ROWS, changed, state, write_whisper
from safetensors.torch import save_file

from speechmerge.formats import alignment, reading, vocabulary
from speechmerge.formats.converting import convert
from speechmerge.whisper import companions, models
from speechmerge.whisper.checkpoints import open_checkpoint
from speechmerge.whisper.conversion import hf_to_openai, openai_to_hf

TABLE = "model.decoder.embed_tokens.weight"
DUMPS = {  # constants of openai/whisper
    "tiny": ("ABzY8bu8Lr0{>%RKn9Fp%m@SkK7Kt=7ytkO", 4, 6),
    "base.en": ("ABzY8;40c<0{>%RzzG;p*o+Vo09|#PsxSZm00", 6, 8),
    "large-v2": ("ABzY8zd+h!0{>%R7=D0pU<_bnWW*tkYAhobTNnu$jnkEkXqp)j;w1Tzk)UH3X%SZd&fFZ2fC2yj", 32, 20),
    "large-v3-turbo": ("ABzY8j^C+e0{>%RARaKHP%t(lGR*)0g!tONPyhe`", 4, 20),
}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return write_whisper(tmp_path_factory.mktemp("models") / "whisper")


@pytest.fixture(scope="module")
def smoke():
    return models.base_model("smoke")


def same_settings(one: companions.Companions, other: companions.Companions) -> None:
    assert one.generation == other.generation
    assert {k: v for k, v in one.config.items() if k != "dtype"} == {
        k: v for k, v in other.config.items() if k != "dtype"
    }
    for text in ("¡Hola, qué tal!", "東京 привет", " a b  c\n"):
        assert one.tokenizer.encode(text) == other.tokenizer.encode(text)


@pytest.mark.parametrize("to", ["ctranslate2", "ggml", "openai", "hf"])
def test_numbers_and_settings_come_back_from_16_bits(whisper, tmp_path, to):
    convert(whisper, tmp_path / "there", to, dtype="float16")
    donor = whisper if to == "openai" else None
    convert(tmp_path / "there", tmp_path / "back", "hf", dtype="float32", tokenizer=donor)
    first, last = state(whisper), state(tmp_path / "back")
    assert first.keys() == last.keys() and all(torch.equal(first[name], last[name]) for name in first)
    found = companions.read(tmp_path / "back")
    if to == "ggml":  # which heads follow the words is not in such a file
        assert found.generation.pop("alignment_heads", None) is None
        found.generation["alignment_heads"] = HEADS
    same_settings(companions.read(whisper), found)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_ctranslate2_keeps_each_format_and_small_vocabularies(smoke, tmp_path, dtype):
    convert(smoke, tmp_path / "half", "hf", dtype=dtype) if dtype != "float32" else shutil.copytree(
        smoke, tmp_path / "half"
    )
    found = convert(tmp_path / "half", tmp_path / "ct2", "ctranslate2")
    assert found.dtype == dtype
    for name in ("tokenizer.json", None):
        if name is None:
            (tmp_path / "ct2" / "tokenizer.json").unlink()  # then it is made from vocabulary.json
        shutil.rmtree(tmp_path / "back", ignore_errors=True)
        convert(tmp_path / "ct2", tmp_path / "back", "hf")
        first, last = state(tmp_path / "half"), state(tmp_path / "back")
        assert all(torch.equal(first[n], last[n]) and first[n].dtype == last[n].dtype for n in first)
        assert companions.read(tmp_path / "back").tokenizer.encode("é!") == companions.read(smoke).tokenizer.encode(
            "é!"
        )


@pytest.mark.parametrize("to", ["ctranslate2", "openai"])
def test_fp32_numbers_that_16_bits_do_not_hold_survive(whisper, tmp_path, to):
    model = changed(whisper, tmp_path / "model", **{f"{TABLE}": 1.1 * state(whisper)[TABLE].numpy()})
    assert convert(model, tmp_path / "there", to).dtype == "float32"
    convert(tmp_path / "there", tmp_path / "back", "hf", tokenizer=whisper)
    assert torch.equal(state(model)[TABLE], state(tmp_path / "back")[TABLE])


def test_ggml_is_always_16_bits_and_says_what_it_rounds(whisper, tmp_path):
    found = convert(whisper, tmp_path / "there", "ggml")
    assert found.dtype == "float16" and "rounded to float16" in found.said[-1]
    assert not convert(whisper, tmp_path / "asked", "ggml", dtype="float16").said


def test_sharded_folders_in_bf16_are_read(whisper, tmp_path):
    model = models.load_model(whisper).to(torch.bfloat16)
    shutil.copytree(whisper, tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors").unlink()
    with models.without_bars():
        model.save_pretrained(tmp_path / "sharded", max_shard_size="500KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert convert(tmp_path / "sharded", tmp_path / "there.pt", "openai").dtype == "bfloat16"
    convert(tmp_path / "there.pt", tmp_path / "back", "hf", tokenizer=whisper)
    first, last = state(tmp_path / "sharded"), state(tmp_path / "back")
    assert all(torch.equal(first[name], last[name]) for name in first)


@pytest.mark.parametrize("dtype", ["int8", "int8_float16"])
def test_8_bit_rows_are_within_half_a_step_and_stay_where_they_are(smoke, tmp_path, dtype):
    convert(smoke, tmp_path / "there", "ctranslate2", dtype=dtype)
    convert(tmp_path / "there", tmp_path / "back", "hf")
    first, last = state(smoke), state(tmp_path / "back")
    rest = torch.float32 if dtype == "int8" else torch.float16
    for name, values in first.items():
        if values.ndim < 2 or "embed_positions" in name:
            assert torch.equal(values.to(rest).float(), last[name].float())
            continue
        step = values.flatten(1).abs().amax(1) / 127
        off = (values - last[name]).flatten(1).abs().amax(1)
        assert (off <= 0.501 * step).all() and off.any()
    convert(tmp_path / "back", tmp_path / "again", "ctranslate2", dtype=dtype)
    convert(tmp_path / "again", tmp_path / "twice", "hf")
    twice = state(tmp_path / "twice")
    assert all(torch.allclose(last[name], twice[name], rtol=1e-6, atol=0) for name in last)


def test_rows_that_only_pad_the_table_are_left_out_where_programs_count_rows(whisper, tmp_path):
    table = torch.cat([state(whisper)[TABLE], torch.ones(7, 8)]).numpy()
    padded = changed(whisper, tmp_path / "padded", config={"vocab_size": ROWS + 7}, **{TABLE: table})
    for to in ("ggml", "openai"):
        convert(padded, tmp_path / to, to, dtype="float16")
        assert reading.open_model(tmp_path / to, tokenizer=whisper).checkpoint.shapes[TABLE] == (ROWS, 8)
    convert(padded, tmp_path / "ct2", "ctranslate2")
    config = json.loads((tmp_path / "ct2" / "config.json").read_text())
    assert set(range(ROWS, ROWS + 7)) <= set(config["suppress_ids"])
    assert len(set(json.loads((tmp_path / "ct2" / "vocabulary.json").read_text()))) == ROWS + 7


def test_the_format_is_told_by_what_lies_there(whisper, smoke, tmp_path):
    for to, name in (("ggml", "model.pt"), ("openai", "ggml-model.bin"), ("ctranslate2", "hf")):
        convert(whisper, tmp_path / name, to, dtype="float16")
        assert reading.recognise(tmp_path / name) == to
    assert reading.recognise(smoke) == "hf" and reading.locate("smoke") == smoke


def test_an_adapter_is_merged_into_its_base(smoke, tmp_path):
    place = "model.encoder.layers.0.self_attn.q_proj"
    adapter, generator = tmp_path / "adapter", torch.Generator().manual_seed(0)
    adapter.mkdir()
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "smoke",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    modules = [n.removesuffix(".weight") for n in state(smoke) if n.endswith("q_proj.weight")]
    pairs = {f"base_model.model.{m}.lora_A.weight": torch.randn(2, 64, generator=generator) for m in modules}
    pairs |= {f"base_model.model.{m}.lora_B.weight": torch.randn(64, 2, generator=generator) for m in modules}
    save_file(pairs, adapter / "adapter_model.safetensors")
    for base in (None, "smoke", str(smoke)):
        shutil.rmtree(tmp_path / "whole", ignore_errors=True)
        found = convert(adapter, tmp_path / "whole", "hf", base=base)
        assert found.said[0].startswith("merged into")
    own = {kind: pairs[f"base_model.model.{place}.lora_{kind}.weight"] for kind in "AB"}
    wanted = state(smoke)[f"{place}.weight"] + 2 * own["B"] @ own["A"]
    torch.testing.assert_close(state(tmp_path / "whole")[f"{place}.weight"], wanted)


def test_names_go_to_openai_and_back(whisper):
    names = open_checkpoint(whisper).shapes
    assert all(openai_to_hf(hf_to_openai(name)) == name for name in names)
    assert len({hf_to_openai(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", DUMPS)
def test_heads_are_the_published_ones_and_are_packed_as_published(name):
    dump, layers, heads = DUMPS[name]
    sizes = {"decoder_layers": layers, "decoder_attention_heads": heads}
    wanted = [[int(n) for n in pair.split(".")] for pair in alignment.HEADS[name].split()]
    assert alignment.unpacked(dump, sizes) == wanted
    assert alignment.unpacked(alignment.packed(wanted, sizes), sizes) == wanted
    assert alignment.unpacked("no dump", sizes) == [] == alignment.unpacked(dump, sizes | {"decoder_layers": 7})


def test_heads_go_by_sizes_and_large_v1_is_not_taken_for_v2():
    sizes = {"d_model": 384, "decoder_layers": 4, "num_mel_bins": 80, "vocab_size": ROWS}
    assert alignment.published(sizes)[0] == "tiny"
    assert alignment.published(sizes | {"vocab_size": 51_864})[0] == "tiny.en"
    assert alignment.published({"d_model": 1280, "decoder_layers": 32, "num_mel_bins": 80, "vocab_size": ROWS}) is None


def test_merges_follow_from_the_order_of_the_tokens():
    words = [b"a", b"b", b"c", b"ab", b"abc", b"cc", b"ccab", b"bcab"]
    found = vocabulary.merges({word: i for i, word in enumerate(words)})
    # "bcab" cannot be reached: its parts b, c and ab are joined by no earlier merge
    assert found == [(b"a", b"b"), (b"ab", b"c"), (b"c", b"c"), (b"cc", b"ab")]


def test_openai_files_without_tokenizer_get_that_of_a_known_base(whisper, tmp_path, monkeypatch):
    convert(whisper, tmp_path / "there.pt", "openai", dtype="float16")
    monkeypatch.setattr(reading.models, "base_model", lambda name: whisper)
    found = reading.open_model(tmp_path / "there.pt")
    same_settings(companions.read(whisper), found.about)
    assert "tokenizer is that of whisper-tiny" in found.said[0] and found.about.normalizer == {"colour": "color"}


def test_openai_files_are_whole_archives_with_true_checksums(whisper, tmp_path):
    import zipfile

    convert(whisper, tmp_path / "there.pt", "openai", dtype="float16")
    with zipfile.ZipFile(tmp_path / "there.pt") as archive:
        assert archive.testzip() is None
    found = torch.load(tmp_path / "there.pt", weights_only=True)
    assert found["dims"]["n_vocab"] == ROWS and found["dims"]["n_text_layer"] == 2
    assert all(not torch.isnan(x).any() and x.dtype == torch.float16 for x in found["model_state_dict"].values())
    assert math.prod(found["model_state_dict"]["encoder.conv1.weight"].shape) == 8 * 80 * 3


def test_the_command_line_says_what_was_written(monkeypatch, capsys, smoke, tmp_path):
    call = Caller(monkeypatch, capsys)
    code, out, _ = call("convert", smoke, tmp_path / "ct2", "--to", "ctranslate2", "--dtype", "int8")
    assert code == 0 and "ct2: ctranslate2, int8" in out
    code, _, err = call("convert", smoke, tmp_path / "ct2", "--to", "ctranslate2")
    assert code == 1 and "already exists" in err
    assert call("convert", smoke, tmp_path / "ct2", "--to", "ctranslate2", "--overwrite")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct2"]


def test_companions_of_faster_whisper_lie_beside(smoke, tmp_path):
    convert(smoke, tmp_path / "ct2", "ctranslate2", dtype="float16")
    names = {path.name for path in (tmp_path / "ct2").iterdir()}
    wanted = {"model.bin", "config.json", "vocabulary.json", "tokenizer.json", "preprocessor_config.json"}
    assert wanted <= names and not {"vocab.json", "merges.txt"} & names
    about = json.loads((Path(tmp_path) / "ct2" / "config.json").read_text())
    ids = companions.read(smoke).generation["lang_to_id"].values()
    assert about["lang_ids"] == sorted(ids) and about["alignment_heads"] == [[1, 0], [1, 1]]
