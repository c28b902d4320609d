"""Fault 17 in the options of a merge: one check, whoever gives them, and one sentence before any model is read."""

import dataclasses
import json
import math
import sys
import types

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import speechmerge
from speechmerge import cli
from speechmerge.errors import MethodError, SpeechMergeError
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.finetuning.training_recipe import Recipe, Source
from speechmerge.merging import engine, fitting, methods, recipe
from speechmerge.merging.merge import open_merge
from speechmerge.whisper import parameter_classes

FC1 = "model.encoder.layers.0.fc1.weight"
NAN, INF = math.nan, math.inf

SPOKEN = [  # what files can say too
    ({"lines": {"order": "stak"}}, "order of lines is 'stak'. Did you mean 'stack'?"),
    ({"lines": {"order": 1}}, "order of lines is 1. Known: stack, continued."),
    ({"lines": {"alfa": 1.0}}, "lines has no 'alfa'. Did you mean 'alpha'?"),
    ({"lines": {2: 1.0}}, "lines has no 2. Known: alpha, beta, order."),
    ({"lines": {"alpha": "1"}}, "alpha of lines is '1'; expected a finite number of fp32."),
    ({"lines": {"alpha": NAN}}, "alpha of lines is nan; expected a finite number of fp32."),
    ({"lines": {"beta": None}}, "beta of lines is None; expected a finite number of fp32."),
    ({"lines": {"beta": True}}, "beta of lines is True; expected a finite number of fp32."),
    ({"lines": 3}, "lines is 3; expected {alpha: ..., beta: ..., order: stack}."),
    ({"policy": {"EBM": "base"}}, "policy has no class 'EBM'. Did you mean 'EMB'?"),
    ({"policy": {"EMB": "bsae"}}, "policy: EMB is to get 'bsae'. Did you mean 'base'?"),
    ({"policy": {"EMB": None}}, "policy: EMB is to get None. Known: rule, sum, mean, base."),
    ({"policy": "base"}, "policy is 'base'; expected a treatment for each class"),
    ({"include": []}, "include is []; expected a part or pattern, or a list of them."),
    ({"include": [3]}, "include is [3]; expected a part or pattern, or a list of them."),
    ({"scaling": True}, "scaling is True; expected a finite number of fp32."),
    ({"scaling": "much"}, "scaling is 'much'; expected a finite number of fp32."),
    ({"scaling": INF}, "scaling is inf; expected a finite number of fp32."),
    ({"scaling": 1e39}, "scaling is 1e+39; expected a finite number of fp32."),
    ({"lines": {"beta": -1e300}}, "beta of lines is -1e+300; expected a finite number of fp32."),
    ({"max_update": -1}, "max_update is -1; expected a number above 0."),
    ({"max_update": NAN}, "max_update is nan; expected a number above 0."),
    ({"max_update": INF}, "max_update is inf; expected a number above 0."),
    ({"max_growth": 0}, "max_growth is 0; expected a number above 0."),
    ({"max_growth": True}, "max_growth is True; expected a number above 0."),
]
PYTHON = [
    *SPOKEN,
    ({"scaling": "0.3"}, "scaling is '0.3'; expected a finite number of fp32."),
    ({"scaling": torch.tensor(0.5)}, "scaling is tensor(0.5000); expected a finite number of fp32."),
    ({"max_update": None}, "max_update is None; expected a number above 0."),
    ({"dtype": "bfloat16"}, "dtype is 'bfloat16'; expected torch.float32, torch.float16, torch.bfloat16 or"),
    ({"dtype": torch.int8}, "dtype is torch.int8; expected torch.float32"),
    ({"device": "cdua"}, "device is 'cdua'. Did you mean 'cuda'?"),
    ({"device": "mps"}, "device is 'mps'; expected one of auto, cpu, cuda."),
    ({"device": None}, "device is None. Known: auto, cpu, cuda."),
    ({"batched": "yes"}, "batched is 'yes'; expected True or False."),
    ({"strict": 1}, "strict is 1; expected True or False."),
    ({"svd_cache": 3}, "svd_cache is 3; expected a folder."),
    ({"svd_cache": __file__}, "test_option_faults.py'; expected a folder."),
    ({"extras": 3}, "extras is 3; expected a mapping with what the method needs."),
    ({"experts": "merged"}, "experts is 'merged'; expected a list of folders, or of tensors by name."),
    ({"experts": {FC1: torch.ones(2)}}, "expected a list of folders, or of tensors by name."),
    ({"experts": [None]}, "experts is [None]; expected a list"),
    ({"base": None}, "base is None; expected a folder, or tensors by name."),
]
PARAMETERS = [
    ("ties", {"flavour": "mergkit"}, "flavour is 'mergkit'. Did you mean 'mergekit'?"),
    ("ties", {"flavour": ["mergekit"]}, "flavour is ['mergekit'], expected paper |"),
    ("breadcrumbs", {"scope": "rows"}, "scope is 'rows'. Did you mean 'row'?"),
    ("tsvm", {"orthogonalise": "procustes"}, "Did you mean 'procrustes'?"),
    ("lines", {"depth_order": "stak"}, "depth_order is 'stak'. Did you mean 'stack'?"),
    ("lines", {"lines": {"order": "continued"}}, "depth_order is 'stack' and the order of lines 'continued'"),
    ("dare", {"seed": -1}, "seed is -1, outside"),
    ("dare", {"seed": 1.5}, "seed is 1.5, expected a whole number"),
    ("emr", {"task": 2}, "task is 2, but there are 2 experts"),
    ("emr", {"task": "0"}, "task is '0', expected a whole number"),
    ("task_arithmetic", {"weights": [1.0]}, "weights has 1 values for 2 experts"),
    ("task_arithmetic", {"weights": np.ones(2)}, "weights is array([1., 1.]), expected a number"),
    ("regmean", {"extras": {"grams": 3}}, "one item per expert (2), got no list of mappings"),
    ("regmean", {"extras": {"grams": {0: {}, 1: {}}}}, "one item per expert (2), got no list of mappings"),
    ("regmean", {"extras": {"grams": [{}]}}, "one item per expert (2), got 1"),
    ("greedy_soup", {"extras": {"score": lambda state: NAN}}, "a merged model measured nan; expected a finite number"),
    ("greedy_soup", {"extras": {"score": lambda state: "low"}}, "a merged model measured 'low'"),
    (None, {}, "There is no merge method None. Known: "),
    (["ties"], {}, "There is no merge method ['ties']. Did you mean 'ties'?"),
]


def named(value):
    return str(value)[:40] if isinstance(value, dict) else ""


@pytest.fixture
def models():
    base = {FC1: torch.arange(6.0).view(2, 3)}
    return {"base": base, "experts": [{FC1: base[FC1] + 0.1 * k} for k in (1, 2)]}


@pytest.fixture
def place(tmp_path, monkeypatch, models):
    for name, state in zip(("base", "a", "b"), (models["base"], *models["experts"]), strict=True):
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
        wanted = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
        (tmp_path / name / "generation_config.json").write_text(json.dumps(dict.fromkeys(wanted, 1)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(place, **parameters):
    content = {"merge_method": "task_arithmetic", "base_model": "base", "models": ["a", "b"], "parameters": parameters}
    (place / "recipe.yaml").write_text(yaml.safe_dump(content))
    return place / "recipe.yaml"


@pytest.mark.parametrize(("options", "message"), PYTHON, ids=named)
def test_an_option_from_python(models, options, message):
    with pytest.raises(MethodError) as error:
        open_merge("task_arithmetic", **models | options)
    assert message in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(("options", "message"), PYTHON, ids=named)
def test_options_are_checked_before_a_model_is_opened(options, message):
    gone = {"base": "not/there", "experts": ["not/there/either"]}
    with pytest.raises(MethodError):
        engine.merged("task_arithmetic", **gone | options)


@pytest.mark.parametrize(("options", "message"), SPOKEN, ids=named)
def test_an_option_from_a_recipe(place, options, message):
    path = write(place, **options)
    with pytest.raises(MethodError) as error:
        recipe.read(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


@pytest.mark.parametrize(("options", "message"), SPOKEN, ids=named)
def test_an_option_from_the_command_line(place, options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["speechmerge", "merge", str(write(place, **options)), "out"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 1 and message in said and not (place / "out").exists()


@pytest.mark.parametrize(("method", "options", "message"), PARAMETERS, ids=named)
def test_a_parameter_from_python(models, method, options, message):
    with pytest.raises(MethodError) as error:
        speechmerge.merge_state_dicts(method, models["base"], models["experts"], **options)
    assert message in str(error.value)


def test_the_scaling_of_a_line_is_checked_each_time(models):
    at = engine.line("task_arithmetic", **models, strict=False)
    assert torch.equal(at(0.0)[FC1], models["base"][FC1])
    for scaling in (NAN, "1", True, None):
        with pytest.raises(MethodError, match="expected a finite number"):
            at(scaling)


def test_every_order_of_depth_is_checked_where_depths_are_made():
    for order in ("stak", None, 3, ["stack"]):
        with pytest.raises(MethodError, match=r"order of depth is .*stack"):
            parameter_classes.depths([FC1], order)


def test_values_that_hold(models):
    for options in (
        {"scaling": np.float32(0.5)}, {"lines": {"alpha": None, "order": "continued"}},
        {"include": ("encoder", "*fc1*")},
        {"policy": types.MappingProxyType({"MAT": "sum"})}, {"max_update": 1e9}, {"dtype": torch.bfloat16},
        {"svd_cache": None}, {"batched": True}, {"device": torch.device("cpu")}, {"experts": tuple(models["experts"])},
    ):  # fmt: skip
        assert list(fitting.begin(open_merge("task_arithmetic", **models | options)).stream())


def test_what_python_may_give_can_be_written_into_the_record(place):
    options = {"lines": {"alpha": np.float32(0.5), "beta": 1}, "include": ("encoder",)}
    options |= {"policy": types.MappingProxyType({"MAT": "sum"})}
    speechmerge.merge_folders("task_arithmetic", place / "base", [place / "a"], place / "out", strict=False, **options)
    said = json.loads((place / "out" / "merge_recipe.json").read_text())["recipe"]["parameters"]
    assert said["lines"] == {"alpha": 0.5, "beta": 1} and said["policy"] == {"MAT": "sum"}
    assert said["include"] == ["encoder"]


@pytest.mark.parametrize(
    ("passes", "words"), [(1, "one pass"), (2, "two passes"), (4, "four passes"), (6, "six passes"), (40, "40 passes")]
)
def test_the_cost_of_any_number_of_passes_can_be_said(passes, words):
    made_up = dataclasses.replace(methods.find("task_arithmetic"), passes=passes)
    assert made_up.cost == f"{words} over all models"
    assert all(method.cost for method in methods.registry().values())


SETTINGS = [
    (Decoding, {"beams": 0}, "beams is 0; expected a whole number from 1 up"),
    (Decoding, {"beams": 2.5}, "beams is 2.5"),
    (Decoding, {"beams": True}, "beams is True"),
    (Decoding, {"tokens_per_second": -1}, "tokens_per_second is -1; expected a number above 0"),
    (Decoding, {"tokens_per_second": NAN}, "tokens_per_second is nan"),
    (Decoding, {"tokens_per_second": "20"}, "tokens_per_second is '20'"),
    (Recipe, {"epochs": 2.5}, "epochs is 2.5; expected a whole number above 0"),
    (Recipe, {"batch": True}, "batch is True; expected a whole number above 0"),
    (Recipe, {"learning_rate": "1e-5"}, "learning_rate is '1e-5'; expected a number above 0"),
    (Recipe, {"clip_norm": None}, "clip_norm is None; expected a number above 0"),
    (Recipe, {"warmup": "0.1"}, "warmup is '0.1'; expected a share"),
    (Recipe, {"seed": -1}, "seed is -1; expected a whole number from 0 up"),
    (Recipe, {"seed": 1.5}, "seed is 1.5; expected a whole number from 0 up"),
]


@pytest.mark.parametrize(("kind", "settings", "message"), SETTINGS)
def test_settings_of_decoding_and_training_are_numbers_of_their_kind(kind, settings, message):
    own = {"base": "smoke", "sources": (Source("tones", "it"),)} if kind is Recipe else {}
    with pytest.raises(SpeechMergeError, match=message):
        kind(**own | settings)
