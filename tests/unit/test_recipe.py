"""Recipe files: mergekit's shape, the library's own names, and what is refused."""

import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

from speechmerge import checkpoints, engine, recipe
from speechmerge.errors import CheckpointError, MethodError

FC1 = "model.encoder.layers.0.fc1.weight"


def folder(path, seed, base=None):
    path.mkdir()
    fresh = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))
    state = {FC1: fresh if base is None else base + 0.01 * fresh}
    save_file(state, path / "model.safetensors")
    wanted = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
    (path / "generation_config.json").write_text(json.dumps(dict.fromkeys(wanted, 1)))
    return state[FC1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    base = folder(tmp_path / "base", 0)
    for name, seed in (("a", 1), ("b", 2)):
        folder(tmp_path / name, seed, base)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(place, **content):
    whole = {"merge_method": "ties", "base_model": "base", "models": ["a", "b"]} | content
    (place / "recipe.yaml").write_text(yaml.safe_dump(whole))
    return place / "recipe.yaml"


def test_mergekits_own_names_and_numbers(place):
    models = [
        {"model": "a", "parameters": {"weight": 0.5, "density": 0.3}},
        {"model": "b", "parameters": {"weight": 2}},
    ]
    found = recipe.read(write(place, models=models, parameters={"lambda": 0.7, "normalize": True, "int8_mask": True}))
    assert (found.method, found.base, found.experts) == ("ties", "base", ("a", "b"))
    assert found.options == {
        "flavour": "mergekit", "scaling": 0.7, "merge": "mean", "weights": [0.5, 2.0], "density": [0.3, 0.2],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "parameters", "name", "options"),
    [
        ("linear", {"normalize": True}, "weight_average", {}),
        ("dare_linear", {"density": 0.5}, "dare", {"flavour": "mergekit", "density": 0.5}),
        ("nuslerp", {}, "slerp", {"flavour": "mergekit", "space": "deltas"}),
        ("model_stock", {"filter_wise": True}, "model_stock", {"flavour": "mergekit", "per_row": True}),
        ("sce", {"select_topk": 0.3, "flavour": "paper"}, "sce", {"flavour": "paper", "density": 0.3}),
        ("lors", {"rank_ratio": [0.1, 0.2], "lambda": 0.15}, "lors", {"rank_ratio": [0.1, 0.2], "scaling": 0.15}),
    ],
)
def test_methods_of_both_kinds(method, parameters, name, options, place):
    found = recipe.read(write(place, merge_method=method, parameters=parameters))
    assert (found.method, dict(found.options)) == (name, options)
    found.merge()


def test_a_written_merge_can_be_repeated_from_its_own_record(place):
    first = engine.merge_folders(
        "ties", place / "base", [place / "a", place / "b"], place / "out", scaling=0.4, density=[0.5, 0.25],
        include="encoder", progress=False,
    )  # fmt: skip
    record = json.loads((first / "merge_recipe.json").read_text())
    (place / "again.yaml").write_text(yaml.safe_dump(record["recipe"]))
    again = recipe.read(place / "again.yaml").run(place / "again", progress=False)
    assert checkpoints.fingerprint(again) == record["fingerprints"]["result"]


def test_checking_finds_a_missing_model_without_merging(place):
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        recipe.read(write(place, models=["a", "nowhere"])).merge()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"merge_method": "tis"}, "Did you mean 'ties'"),
        ({"slices": []}, "'slices' is not supported"),
        ({"models": []}, "models is missing"),
        ({"dtype": "float23"}, "Did you mean 'float32'"),
        ({"parameters": {"densty": 0.2}}, "Did you mean 'density'"),
        ({"parameters": {"density": 2.0}}, r"outside \[0, 1\]"),
        ({"parameters": {"density": [{"filter": "mlp", "value": 0.5}]}}, "density has filters"),
        ({"models": [{"model": "a", "parameters": {"zeros": "positive"}}]}, "zeros cannot differ between models"),
        ({"merge_method": "linear", "parameters": {"normalize": False}}, "use task_arithmetic"),
    ],
)
def test_what_is_refused(content, words, place):
    with pytest.raises(MethodError, match=words):
        recipe.read(write(place, **content))


def test_a_file_that_is_no_recipe(place):
    (place / "recipe.yaml").write_text("- just\n- a list")
    with pytest.raises(MethodError, match="is no recipe"):
        recipe.read(place / "recipe.yaml")
    (place / "recipe.yaml").write_text("{")
    with pytest.raises(MethodError, match="not readable"):
        recipe.read(place / "recipe.yaml")
