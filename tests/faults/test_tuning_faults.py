"""What a tuning refuses, each time in one sentence, before heavy work and with nothing left behind."""

import json
import math
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmerge import cli
from speechmerge.errors import CorpusError, MethodError, SpeechMergeError
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.finetuning.training_recipe import Source
from speechmerge.tuning import ear, plan, request, speech
from speechmerge.tuning.request import Request
from speechmerge.tuning.tune import tune
from speechmerge.whisper import models

SETTINGS = {"base": "smoke", "minutes": None, "evaluations": 2.0, "clips": 4, "methods": ("task_arithmetic",)}


def expert(folder, seed, scale=1e-3):
    """A folder that differs a little from the smoke base, or not at all."""
    shutil.copytree(models.base_model("smoke"), folder)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(folder / "model.safetensors")
    for name, values in tensors.items():
        if "embed_positions" not in name:
            tensors[name] = values + scale * torch.randn(values.shape, generator=generator)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    place = tmp_path_factory.mktemp("experts")
    return [expert(place / f"e{seed}", seed) for seed in (1, 2)]


@pytest.fixture(autouse=True)
def _few_clips(monkeypatch):
    monkeypatch.setattr(speech, "FEWEST", 4)
    monkeypatch.setattr(sys.modules[tune.__module__], "Decoding", lambda: Decoding(tokens_per_second=0.01))


def asked(experts, languages=("es", "it"), **changes):
    given = [(str(folder), (Source("tones", own),)) for folder, own in zip(experts, languages, strict=True)]
    return Request(experts=tuple(given), **SETTINGS | changes)


def refused(kind, message, make, place):
    with pytest.raises(kind) as fault:
        tune(make(), place / "out")
    told = str(fault.value)
    assert message in told and told.endswith(".") and "\n" not in told
    assert [path.name for path in place.iterdir()] == []


def test_no_expert_one_expert_and_one_named_twice(experts, tmp_path):
    refused(MethodError, "no expert is given; name each with its speech", lambda: asked([], []), tmp_path)
    refused(MethodError, "has nothing to be merged with", lambda: asked(experts[:1], ["es"]), tmp_path)
    twice = [experts[0], experts[0].parent / "e2" / ".." / "e1"]
    refused(MethodError, "is named twice; name it once, with all its speech", lambda: asked(twice), tmp_path)


def test_one_expert_may_be_merged_with_the_base_where_something_must_be_kept(experts):
    assert Request(experts=asked(experts).experts[:1], also=((Source("tones", "it"),),), **SETTINGS).also


def test_an_expert_that_is_the_base_or_of_another_base(experts, tmp_path, tmp_path_factory):
    place = tmp_path_factory.mktemp("more")
    same, far = expert(place / "same", 0, 0.0), expert(place / "far", 3, 3.0)
    refused(SpeechMergeError, "holds the same weights as", lambda: asked([experts[0], same]), tmp_path)
    refused(SpeechMergeError, "is no fine-tune of", lambda: asked([experts[0], far]), tmp_path)
    refused(SpeechMergeError, "is no folder; give that of", lambda: asked([experts[0], place / "none"]), tmp_path)


def test_misspelt_names(experts, tmp_path):
    methods = {"methods": ("task_aritmetic",)}
    with pytest.raises(MethodError, match=r"no merge method 'task_aritmetic'. Did you mean 'task_arithmetic'\?"):
        tune(asked(experts, **methods), tmp_path / "out")
    with pytest.raises(MethodError, match=r"--keep names 'itt', but no such speech was given. Did you mean 'it'\?"):
        tune(asked(experts, keep=(("itt", 0.1),)), tmp_path / "out")
    with pytest.raises(MethodError, match="--keep says twice what it may lose"):
        tune(asked(experts, keep=(("it", 0.1), ("e2", 0.1))), tmp_path / "out")
    with pytest.raises(MethodError, match=r"--keep it:2 is no share of words; write 0\.02"):
        asked(experts, keep=(("it", 2.0),))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["it", "it:", ":0.1", "it:much"])
def test_a_wrong_form_of_keep(text):
    with pytest.raises(MethodError, match=r"is not NAME:LOSS, for example es:0\.02"):
        request.pair(text)
    assert request.pair("./clips:es:0.02") == ("./clips:es", 0.02)


def test_a_budget_that_is_too_small_says_what_would_do(experts, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_pace", lambda decoder, speeches: 1.0)
    with pytest.raises(
        MethodError, match=r"1 minutes are too little to decode even 4 clips .* give about [\d.]+ minutes"
    ):
        tune(asked(experts, minutes=1.0, evaluations=None), tmp_path / "out")
    monkeypatch.setattr(plan, "_pace", lambda decoder, speeches: 0.0)
    monkeypatch.setattr(plan, "WRITING", 60.0)
    with pytest.raises(MethodError, match=r"too little to measure every method once; give about [\d.]+ minutes"):
        tune(asked(experts, minutes=1.0, evaluations=None), tmp_path / "more")
    assert not (tmp_path / "out").exists() and not (tmp_path / "more").exists()


def test_too_few_clips_and_a_language_the_speech_is_not_in(experts, tmp_path, monkeypatch):
    refused(CorpusError, "has no language 'fr'", lambda: asked(experts, ["es", "fr"]), tmp_path)
    monkeypatch.setattr(speech, "FEWEST", 20)
    refused(
        CorpusError,
        "tones:es gives 12 clips to choose the merge by, expected at least 20",
        lambda: asked(experts),
        tmp_path,
    )


def test_clips_that_two_experts_share(experts, tmp_path):
    refused(
        CorpusError, "is the same recording as 'tones-040' of tones:es", lambda: asked(experts, ["es", "es"]), tmp_path
    )


def test_an_english_only_base_with_other_languages(experts, tmp_path, tmp_path_factory):
    place = tmp_path_factory.mktemp("english")
    folders = [expert(place / name, seed, 1e-3) for name, seed in (("base", 5), ("a", 6), ("b", 7))]
    for folder in folders:
        file = folder / "generation_config.json"
        told = json.loads(file.read_text()) | {"is_multilingual": False}
        file.write_text(json.dumps({k: v for k, v in told.items() if k not in ("lang_to_id", "task_to_id")}))
    with pytest.raises(SpeechMergeError):
        tune(asked(folders[1:], base=str(folders[0])), tmp_path / "out")
    with pytest.raises(CorpusError, match="is an English-only model, but tones:es is es asr; give a multilingual"):
        from speechmerge.tuning.tune import _check_languages

        _check_languages(folders[0], speech.load([[Source("tones", "es")]], []))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_ends_the_tuning_or_is_passed_over(experts, tmp_path, monkeypatch):
    losses = ear.Ear.losses
    monkeypatch.setattr(ear.Ear, "losses", lambda self, *args: [math.nan for _ in losses(self, *args)])
    with pytest.raises(MethodError, match="has the loss nan on es, so nothing can be chosen"):
        tune(asked(experts), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_or_holds_a_model(experts, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(SpeechMergeError, match="already exists; choose another output or pass --overwrite"):
        tune(asked(experts), tmp_path / "out")
    with pytest.raises(SpeechMergeError, match="a model to merge; name another folder"):
        tune(asked(experts), experts[0].parent, overwrite=True)
    assert (experts[0] / "model.safetensors").is_file() and list((tmp_path / "out").iterdir()) == []


def test_too_little_memory_is_found_before_the_work(experts, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[tune.__module__], "OVERHEAD", 1e15)
    refused(SpeechMergeError, "of memory and", lambda: asked(experts), tmp_path)


def test_a_mistake_on_the_command_line_is_a_sentence(experts, tmp_path, monkeypatch, capsys):
    words = [
        "tune",
        tmp_path / "out",
        "--base",
        "smoke",
        "--expert",
        experts[0],
        "tones:es",
        "--expert",
        experts[1],
        "tones",
    ]
    monkeypatch.setattr(sys, "argv", ["speechmerge", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    _, err = capsys.readouterr()
    assert stop.value.code == 1 and "'tones' is not corpus:language[:asr|st]" in err and "Traceback" not in err
