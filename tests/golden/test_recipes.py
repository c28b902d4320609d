"""Recipes read and run here against what mergekit 0.1.5 makes of the same files, tensor by tensor (recipes/make.py)."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from speechmerge.merging import dialect, fitting, methods, recipe
from speechmerge.merging.applying import generator

HERE = Path(__file__).parent / "recipes"
CASES = json.loads((HERE / "cases.json").read_text())
VECTORS = load_file(HERE / "vectors.safetensors")
MODELS = ("base", "e0", "e1", "e2")
# Where mergekit's own number is chance: what is left of opposite vectors, divided by the rounding of fp32, and
# divergences of softmaxes so near each other that fp32 holds none of their digits (peers/make.py compares in fp64).
CHANCE = {"nuslerp, negative": ("opposite",), "nuslerp": ("opposite",), "multislerp, base listed": ("one",)}
CHANCE |= {"arcee_fusion": ("faint",), "arcee_fusion, base listed": ("faint",)}
TOLERANCE = {"karcher": 5e-3}  # its fp32 arccos knows no angles below 3e-4; in fp64 the two are equal


def of(prefix):
    return {name.removeprefix(f"{prefix}/"): x for name, x in VECTORS.items() if name.startswith(f"{prefix}/")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    wanted = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
    for name in MODELS:
        (place / name).mkdir()
        save_file(of(name), place / name / "model.safetensors")
        (place / name / "generation_config.json").write_text(json.dumps(dict.fromkeys(wanted, 1)))
    return place


@pytest.mark.parametrize("case", CASES["recipes"])
def test_a_recipe_gives_mergekits_numbers(case, place, tmp_path):
    theirs, base = of(str(list(CASES["recipes"]).index(case))), of("base")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(CASES["recipes"][case]))
    ours = dict(fitting.begin(recipe.read(tmp_path / "recipe.yaml").merge(place.joinpath)).stream())
    off, tolerance = {}, TOLERANCE.get(CASES["recipes"][case]["merge_method"], 1e-4)
    for name, x in theirs.items():
        size = max((of(model)[name] - base[name]).norm().item() for model in MODELS)
        error = (ours[name] - x).norm().item()
        if error > tolerance * size + 1e-6 * base[name].norm().item() and name not in CHANCE.get(case, ()):
            off[name] = error / max(size, 1e-30)
    assert not off
    assert len(theirs) >= 10


def test_all_of_mergekits_methods_are_known_with_their_parameters():
    ours = {word: sorted(keys) for word, keys in dialect.READS.items()}
    assert ours == {word: keys for word, keys in CASES["methods"].items() if word in dialect.READS}
    assert set(CASES["methods"]) == {*dialect.READS, *dialect.LACKING}


def test_della_keeps_entries_of_a_filter_as_often_as_mergekit():
    update, theirs = VECTORS["della/update"], VECTORS["della/kept"]
    rule = methods.find("della_linear").rule
    kept = torch.zeros_like(update)
    for seed in range(1000):
        drawn = rule(update[None], density=0.5, window=0.3, along="second", generators=[generator(seed, "x", 0)])
        kept += (drawn[0] != 0).float() / 1000
    assert methods.find("della").flavours["mergekit"]["along"] == "second"
    assert (kept - theirs).abs().max() < 0.08  # five standard deviations
