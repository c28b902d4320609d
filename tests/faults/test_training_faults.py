"""Faults 14, 15, 17 and 21: trainings that cannot start, resume or go on; what was reached stays."""

import dataclasses
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmerge import corpora
from speechmerge.errors import CorpusError, SpeechMergeError, TrainingError
from speechmerge.finetuning import objective, training, training_recipe
from speechmerge.finetuning.training import Recipe, Source, train
from speechmerge.whisper import models
from speechmerge.whisper.checkpoints import fingerprint

ES = Source("tones", "es")
RECIPE = Recipe("smoke", (ES,), minutes=0.1, epochs=2, learning_rate=3e-3, batch=2, precision="fp32")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The state of a training that was killed in its second epoch."""
    folder = tmp_path_factory.mktemp("killed")
    original = training._Run._epoch

    def epoch(run, number, *rest):
        if number == 1:
            raise KeyboardInterrupt
        original(run, number, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training._Run, "_epoch", epoch)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, folder / "es", progress=False)
    return training.state_folder(folder / "es")


@pytest.fixture
def output(killed, tmp_path):
    """An output folder whose training was interrupted."""
    shutil.copytree(killed, training.state_folder(tmp_path / "es"))
    return tmp_path / "es"


@pytest.fixture(scope="module")
def finished(killed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "es"
    shutil.copytree(killed, training.state_folder(folder))
    train(RECIPE, folder, progress=False)
    return folder


@pytest.fixture
def no_training(monkeypatch):
    """Whatever is refused here is refused before a step is made."""
    monkeypatch.setattr(training._Run, "_epoch", lambda *_: pytest.fail("the work had begun"))


CHANGES = [{"learning_rate": 1e-3}, {"seed": 1}, {"minutes": 0.2}, {"epochs": 3}, {"sources": (Source("tones", "it"),)}]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_another_recipe_does_not_take_up_an_interrupted_training(output, no_training, change):
    before = (training.state_folder(output) / "last.pt").read_bytes()
    with pytest.raises(TrainingError, match=r"holds an interrupted training with other parameters or data.*delete it"):
        train(dataclasses.replace(RECIPE, **change), output, progress=False)
    assert (training.state_folder(output) / "last.pt").read_bytes() == before
    assert not output.exists()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_another_recipe_does_not_replace_a_finished_training(finished, no_training, change):
    before = fingerprint(finished)
    with pytest.raises(TrainingError, match=r"made by another training .*choose another output or delete it"):
        train(dataclasses.replace(RECIPE, **change), finished, progress=False)
    assert fingerprint(finished) == before


def test_a_folder_that_is_no_training_is_not_replaced(tmp_path, no_training):
    (tmp_path / "es").mkdir()
    (tmp_path / "es" / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainingError, match="made by another training"):
        train(RECIPE, tmp_path / "es", progress=False)


def test_other_data_under_the_same_name_do_not_continue(output, no_training, monkeypatch):
    load = corpora.load
    changed = lambda *args, **more: [dataclasses.replace(c, text=c.text + " más") for c in load(*args, **more)]  # noqa: E731
    monkeypatch.setattr(training_recipe.corpora, "load", changed)
    with pytest.raises(TrainingError, match="other parameters or data"):
        train(RECIPE, output, progress=False)


def test_a_base_folder_whose_weights_changed_is_another_recipe(tmp_path, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(models.base_model("smoke"), base)
    recipe = dataclasses.replace(RECIPE, base=str(base), epochs=1)
    train(recipe, tmp_path / "es", progress=False)
    tensors = load_file(base / "model.safetensors")
    tensors["model.encoder.layer_norm.weight"] *= 1.01
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="made by another training"):
        train(recipe, tmp_path / "es", progress=False)


@pytest.mark.parametrize("part", ["cut state", "no state", "text", "cut weights", "no weights"])
def test_a_damaged_state_is_named(output, no_training, part):
    state = training.state_folder(output)
    damaged = state / "last.pt" if "weights" not in part else state / "best" / "model.safetensors"
    if part == "no weights":
        damaged.unlink()
    else:
        damaged.write_bytes({"no state": b"", "text": b"not a state"}.get(part, damaged.read_bytes()[:-1000]))
    with pytest.raises(TrainingError, match=r"\.es\.state holds an interrupted training that is damaged .*delete it"):
        train(RECIPE, output, progress=False)


def test_a_damaged_record_is_named(finished, tmp_path, no_training):
    shutil.copytree(finished, tmp_path / "es")
    (tmp_path / "es" / "training.json").write_text('{"key": "')
    with pytest.raises(TrainingError, match=r"training\.json is damaged .*delete"):
        train(RECIPE, tmp_path / "es", progress=False)


@pytest.mark.parametrize("where", ["loss", "dev loss"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_epoch(output, finished, monkeypatch, where):
    with monkeypatch.context() as patch:
        if where == "loss":
            patch.setattr(objective.TokenLoss, "forward", lambda model, **batch: torch.tensor(math.nan))
        else:
            patch.setattr(training._Run, "_dev_loss", lambda *_: math.inf)
        with pytest.raises(TrainingError, match=rf"es: the {where} is (nan|inf) in epoch 2; lower the learning rate"):
            train(RECIPE, output, progress=False)
    assert not output.exists()
    train(RECIPE, output, progress=False)
    assert fingerprint(output) == fingerprint(finished)


def test_divergence_in_the_first_epoch_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(training._Run, "_dev_loss", lambda *_: math.nan)
    with pytest.raises(TrainingError, match="the dev loss is nan in epoch 1"):
        train(RECIPE, tmp_path / "es", progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, r"precision 'fp16'\. Did you mean 'bf16'\?"),
        ({"epochs": 0}, "epochs is 0; expected a whole number above 0"),
        ({"batch": -1}, "batch is -1"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"minutes": 0}, "minutes is 0"),
        ({"warmup": 1.5}, "warmup is 1.5; expected a share"),
        ({"sources": ()}, "sources are none"),
        ({"sources": (ES, ES)}, "sources are tones:es:asr, tones:es:asr; give each of them once"),
    ],
)
def test_values_no_training_can_have(change, message):
    with pytest.raises(TrainingError, match=message):
        dataclasses.replace(RECIPE, **change)


@pytest.mark.parametrize("text", ["tones", "tones:es:sst", "tones:es:asr:more", ""])
def test_sources_that_are_none(text):
    with pytest.raises(TrainingError, match=r"is not corpus:language\[:asr\|st\], for example"):
        Source.parse(text)


def test_a_task_that_is_none():
    with pytest.raises(TrainingError, match=r"no task 'asrr'\. Did you mean 'asr'\?"):
        Source("tones", "es", "asrr")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("tone", "es"), r"no corpus 'tone'\. Did you mean 'tones'\?"),
        (Source("tones", "fr"), "has no language 'fr'; it has es, it"),
    ],
)
def test_speech_that_is_not_there(source, message, tmp_path, no_training):
    with pytest.raises(CorpusError, match=message):
        train(dataclasses.replace(RECIPE, sources=(source,)), tmp_path / "a", progress=False)


def test_translation_without_english_text(tmp_path, no_training, monkeypatch):
    load = corpora.load
    without = lambda *args, **more: [dataclasses.replace(c, translation=None) for c in load(*args, **more)]  # noqa: E731
    monkeypatch.setattr(training_recipe.corpora, "load", without)
    recipe = dataclasses.replace(RECIPE, sources=(Source("tones", "es", "st"),))
    with pytest.raises(TrainingError, match="tones has no train clips for es st"):
        train(recipe, tmp_path / "a", progress=False)


def test_a_sentence_in_train_and_dev_is_refused(tmp_path, no_training, monkeypatch):
    load = corpora.load

    def overlapping(corpus, language, split, **_):
        clips = load(corpus, language, split)
        if split == "dev":
            clips[0] = dataclasses.replace(clips[0], text=load(corpus, language, "train")[0].text)
        return clips

    monkeypatch.setattr(training_recipe.corpora, "load", overlapping)
    with pytest.raises(CorpusError, match="a sentence may stand in one split only"):
        train(dataclasses.replace(RECIPE, minutes=None), tmp_path / "a", progress=False)


def test_too_little_room_is_found_beforehand(tmp_path, no_training, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(SpeechMergeError, match=r"needs about 0\.0\d GB but .* has 0\.00 GB free"):
        train(RECIPE, tmp_path / "a", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_the_record_of_an_interrupted_training_is_readable(killed):
    """What a person who finds the state sees: a loadable best epoch beside it."""
    assert (killed / "best" / "config.json").is_file()
    state = torch.load(killed / "last.pt", weights_only=True)
    assert state["epoch"] == 0 and json.dumps(state["log"])
