"""The commands merge and check: words and recipes, and mistakes that end as one sentence."""

import json
import re

import pytest
import torch
import yaml
from cli_calls import Caller, two_experts
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE
from speechmerge.cli import merging
from speechmerge.merging import recipe_file
from speechmerge.whisper import models


@pytest.fixture
def run(monkeypatch, capsys):
    return Caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    return two_experts(tmp_path_factory.mktemp("experts"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lorss"], "There is no merge method 'lorss'. Did you mean 'lors'?"),
        (["lors", "--set", "densty=0.4"], "lors has no parameter 'densty'. Did you mean 'density'?"),
        (["lors", "--set", "density=1.4"], "lors: density is 1.4, outside ["),
        (["lors", "--set", "density=much"], "lors: density is 'much', expected"),
        (["lors", "--set", "density=[0.4]"], "density has 1 values for 2 experts"),
        (["lors", "--set", "density"], "--set 'density' is not NAME=VALUE, for example --set density=0.4."),
        (["lors", "--set", "=0.4"], "--set '=0.4' is not NAME=VALUE"),
        (["lors", "--set", "density=null"], "density is None, expected a number in [0, 1]"),
        (["lors", "--set", "density=0.1", "--set", "density=0.2"], "--set gives 'density' twice"),
        (["lors", "--scaling", "much"], "'much' is not a valid float"),
        (["lors", "--scaling", "nan"], "scaling is nan; expected a finite number"),
        (["lors", "--include", "encodr"], "selects no tensor of this model. Did you mean 'encoder'?"),
        (["lors", "--dtype", "int8"], "'int8' is not one of 'float32'"),
        (["lors", "--base", "whisper-tinny"], "Did you mean 'whisper-tiny'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_a_merge_ends_as_a_sentence_and_writes_nothing(run, experts, tmp_path, words, message):
    method, *settings = words
    code, _, err = run("merge", method, tmp_path / "merged", *experts, "--base", "smoke", *settings)
    assert code != 0 and message in " ".join(err.split()) and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_merge_is_a_folder_that_transformers_loads_and_that_generates(run, experts, tmp_path):
    words = ("merge", "lors", tmp_path / "merged", *experts, "--base", "smoke", "--scaling", "0.5")
    code, out, _ = run(*words, "--set", "density=0.4", "--set", "rank_ratio=[0.1, 0.2]")
    assert (code, out) == (0, f"{tmp_path / 'merged'}: lors of 2 experts\n")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "merged")
    clip = corpora.load("tones", "it", "test")[0]
    extractor = models.load_feature_extractor(tmp_path / "merged")
    features = extractor(clip.samples(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    assert model.generate(features, language="it", task="transcribe", max_new_tokens=4).shape == (1, 4)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "density: 0.4" in card and "lambda: 0.5" in card


@pytest.fixture
def written(experts, tmp_path):
    """Write a recipe of the two experts; return its path."""

    def write(**content):
        whole = {"merge_method": "ties", "base_model": "smoke", "models": [str(expert) for expert in experts]}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(whole | content))
        return tmp_path / "recipe.yaml"

    return write


def test_a_recipe_merges_as_the_same_words_do(run, experts, written, tmp_path):
    parameters = {"flavour": "paper", "density": 0.4, "lambda": 0.5, "include": "encoder"}
    file = written(parameters=parameters, dtype="float16")
    code, out, _ = run("merge", file, tmp_path / "one", "--device", "auto")
    assert (code, out) == (0, f"{tmp_path / 'one'}: ties of 2 experts\n")
    words = ("--base", "smoke", "--scaling", "0.5", "--set", "density=0.4", "--include", "encoder")
    assert run("merge", "ties", tmp_path / "two", *experts, *words, "--dtype", "float16")[0] == 0
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_checking_a_recipe_says_what_a_merge_would_do_and_writes_nothing(run, experts, written, tmp_path):
    file = written(parameters={"lambda": 0.5, "include": "encoder"}, dtype="float16")
    code, out, _ = run("check", file)
    assert code == 0
    said = [" ".join(line.split()) for line in out.splitlines()]
    assert "method ties: TIES-Merging, arXiv 2306.01708" in said
    assert f"expert 1 {experts[1]}" in said
    assert {"scaling 0.5", "density 1.0", "flavour mergekit", "include encoder", "dtype float16"} <= set(said)
    assert re.search(r"covers \d+ tensors, reads [\d.]+ MB, takes about [\d.]+ MB", said[-1])
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_variants_of_a_recipe_become_folders(run, experts, written, tmp_path):
    file = written(variants=[{"name": "low", "parameters": {"lambda": 0.1}}, {"name": "high"}])
    code, out, _ = run("check", file)
    assert code == 0 and [line.split()[1] for line in out.splitlines() if line.startswith("variant")] == ["low", "high"]
    code, out, _ = run("merge", file, tmp_path / "made")
    told = "".join(f"{tmp_path / 'made' / name}: ties of 2 experts\n" for name in ("low", "high"))
    assert (code, out) == (0, told)
    high = tmp_path / "high"
    assert run("merge", written(), high)[0] == 0
    same, other = (tmp_path / "made" / name / "model.safetensors" for name in ("high", "low"))
    assert (high / "model.safetensors").read_bytes() == same.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--speech", "tones:es"), "has variants, which hear no speech; leave out --speech."),
        (("--scaling", "0.5"), "--scaling cannot stand beside"),
        ((), "already exists; choose another output or pass --overwrite to replace it."),
    ],
)
def test_variants_take_no_words_and_replace_no_folder(run, written, tmp_path, words, message):
    (tmp_path / "made" / "b").mkdir(parents=True)
    code, out, err = run("merge", written(variants=[{"name": "a"}, {"name": "b"}]), tmp_path / "made", *words)
    assert code in (1, 2) and out == "" and message in " ".join(err.split())
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["b"]


def test_a_folder_of_something_else_is_never_replaced(run, written, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.md").write_text("years of work")
    code, _, err = run("merge", written(), tmp_path / "thesis", "--overwrite")
    assert code == 1 and "thesis is a folder of something else (it has no config.json and no merge_recipe.json)" in err
    assert (tmp_path / "thesis" / "chapter.md").read_text() == "years of work"


def test_a_lora_adapter_is_an_expert(run, experts, written, tmp_path):
    name = "model.encoder.layers.0.self_attn.q_proj"
    rows, columns = load_file(experts[0] / "model.safetensors")[f"{name}.weight"].shape
    lora = tmp_path / "lora"
    lora.mkdir()
    generator = torch.Generator().manual_seed(7)
    a, b = 0.01 * torch.randn(2, columns, generator=generator), torch.randn(rows, 2, generator=generator)
    tensors = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(tensors, lora / "adapter_model.safetensors")
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    file = written(merge_method="task_arithmetic", models=[str(lora), str(experts[0])])
    assert f"{lora} (LoRA adapter)" in run("check", file)[1]
    assert run("merge", file, tmp_path / "merged")[0] == 0
    expert, merged = (
        load_file(folder / "model.safetensors")[f"{name}.weight"] for folder in (experts[0], tmp_path / "merged")
    )
    assert torch.allclose(merged, expert + b @ a, atol=1e-5) and not torch.allclose(merged, expert, atol=1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"models": 3}, "models is 3; expected a list."),
        ({"parameters": [1]}, "parameters is [1]; expected names with values."),
        ({"parameters": {"densty": 0.3}}, "ties has no parameter 'densty'. Did you mean 'density'?"),
        ({"models": ["nowhere"]}, "'nowhere' is neither a folder nor the name of a base model."),
        ({"merge_method": "regmean"}, "regmean needs more than the models: the Gram matrix"),
    ],
)
def test_a_wrong_recipe_is_exit_code_one_and_a_sentence(run, written, tmp_path, content, message):
    for words in (("check", written(**content)), ("merge", written(**content), tmp_path / "merged")):
        code, out, err = run(*words)
        assert (code, out) == (1, "") and message in " ".join(err.split()) and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_model_to_merge_is_never_the_output(run, experts):
    for output in (experts[0], experts[0].parent):
        code, _, err = run("merge", "ties", output, *experts, "--base", "smoke", "--overwrite")
        assert code == 2 and "a model to merge; name another folder" in " ".join(err.split())
    assert all((expert / "model.safetensors").is_file() for expert in experts)


def test_an_output_below_a_file_is_found_before_the_work(run, experts, tmp_path):
    (tmp_path / "file").write_text("x")
    for words in ((), ("--svd-cache", tmp_path / "file" / "cache")):
        output = tmp_path / ("merged" if words else "file/merged")
        code, _, err = run("merge", "lors", output, *experts, "--base", "smoke", *words)
        assert code == 1 and f"{tmp_path / 'file'} is a file, so" in " ".join(err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_existing_folder_is_replaced_only_when_asked(run, experts, tmp_path):
    words = ("merge", "weight_average", tmp_path / "merged", *experts, "--base", "smoke")
    assert run(*words)[0] == 0
    before = (tmp_path / "merged" / "model.safetensors").read_bytes()
    other = (*words[:3], experts[0], "--base", "smoke")
    code, _, err = run(*other)
    assert code == 1 and "already exists; choose another output or pass --overwrite" in " ".join(err.split())
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == before
    assert run(*other, "--overwrite")[0] == 0
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("density=0.4", ("density", 0.4)),
        ("density=[0.1, 0.2]", ("density", [0.1, 0.2])),
        ("rank=3", ("rank", 3)),
        ("rescale=true", ("rescale", True)),
        ("scope=model", ("scope", "model")),
        ("text=a=b", ("text", "a=b")),
    ],
)
def test_settings_are_read_as_what_they_are(text, setting):
    assert merging.setting(text) == setting and type(merging.setting(text)[1]) is type(setting[1])


def test_the_dtypes_offered_are_those_of_recipes():
    assert set(merging.DTYPES) == set(recipe_file.DTYPES)
