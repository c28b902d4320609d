"""Fine-tuning on tones: it learns, keeps the best epoch, and ends with the same weights however often it is killed."""

import dataclasses
import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE
from speechmerge.errors import TrainingError
from speechmerge.finetuning import objective, resetting, training, updates
from speechmerge.finetuning.training import Recipe, Source, train
from speechmerge.finetuning.training_recipe import draw_minutes
from speechmerge.whisper import models
from speechmerge.whisper.checkpoints import fingerprint

ES, IT = Source("tones", "es"), Source("tones", "it")
RECIPE = Recipe("smoke", (ES,), minutes=0.4, epochs=3, learning_rate=6e-3, batch=1, precision="fp32")


class Killed(BaseException):
    """Stands for a kill: nothing in the library catches it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted training: its log and its folder."""
    folder = tmp_path_factory.mktemp("training") / "es"
    return train(RECIPE, folder, progress=False), folder


def test_it_learns(finished):
    log, _ = finished
    assert log.dev_loss[0] > log.dev_loss[1] > log.dev_loss[2] and log.dev_loss[2] < 0.8 * log.dev_loss[0]
    assert log.train_loss[-1] < 0.8 * log.train_loss[0]
    assert log.best_epoch == int(np.argmin(log.dev_loss))
    assert len(log.dev_loss) == len(log.train_loss) == RECIPE.epochs
    assert 0.4 <= log.minutes_of_speech < 0.45 and log.windows_per_second > 0


def test_everything_is_trained_but_the_sinusoid(finished):
    before, after = (load_file(f / "model.safetensors") for f in (models.base_model("smoke"), finished[1]))
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"model.encoder.embed_positions.weight"}
    assert {values.dtype for values in after.values()} == {torch.float32}


def test_the_output_is_a_model_that_generates(finished):
    assert models.base_model(finished[1]) == finished[1]
    model, tokenizer = models.load_model(finished[1]), models.load_tokenizer(finished[1])
    [clip, *_] = corpora.load("tones", "es", "dev")
    extractor = models.load_feature_extractor(finished[1])
    features = extractor(clip.samples(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    ids = model.generate(features, language="es", task="transcribe", max_new_tokens=6)
    assert tokenizer.batch_decode(ids, skip_special_tokens=True)[0]


def test_the_record_says_what_was_trained_and_nothing_is_left_behind(finished):
    log, folder = finished
    record = json.loads((folder / "training.json").read_text())
    assert record["recipe"]["learning_rate"] == RECIPE.learning_rate and record["log"] == dataclasses.asdict(log)
    assert [path.name for path in folder.parent.iterdir()] == ["es"]
    assert not (folder / "speechmerge.json").exists()
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {
        0o644
    }  # others may read it


def test_a_finished_training_is_returned_at_once(finished, monkeypatch):
    monkeypatch.setattr(training, "_Run", lambda *_: pytest.fail("trained again"))
    assert train(RECIPE, finished[1], progress=False) == finished[0]


def kill_in_epoch(monkeypatch):
    """Stop in the second epoch, after its steps and before anything of it is kept."""
    original, calls = training._Run._dev_loss, []

    def dev_loss(run, dev):
        calls.append(run)
        if len(calls) == 2:
            raise Killed
        return original(run, dev)

    monkeypatch.setattr(training._Run, "_dev_loss", dev_loss)


def kill_while_saving(monkeypatch):
    """Stop with half of the second epoch's state on disk, after its weights were kept as the best."""
    original, calls = torch.save, []

    def save(state, file):
        calls.append(file)
        if len(calls) == 2:
            file.write_bytes(b"PK half a state")
            raise Killed
        original(state, file)

    monkeypatch.setattr(torch, "save", save)


@pytest.mark.parametrize("kill", [kill_in_epoch, kill_while_saving])
def test_a_killed_training_goes_on_to_the_same_weights(finished, tmp_path, monkeypatch, kill):
    output = tmp_path / "es"
    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises(Killed):
            train(RECIPE, output, progress=False)
    assert not output.exists()
    log, epochs = None, []
    original = training._Run._epoch
    monkeypatch.setattr(
        training._Run, "_epoch", lambda run, epoch, *rest: (epochs.append(epoch), original(run, epoch, *rest))
    )
    log = train(RECIPE, output, progress=False)
    assert epochs == [1, 2]
    assert (log.dev_loss, log.train_loss) == (finished[0].dev_loss, finished[0].train_loss)
    assert (output / "model.safetensors").read_bytes() == (finished[1] / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["es"]


def test_a_budget_that_is_large_enough_changes_nothing_but_the_key(finished, tmp_path):
    log = train(RECIPE, tmp_path / "es", seconds=1e6, progress=False)
    assert log.steps == log.planned == finished[0].steps == finished[0].planned > 0
    assert (log.dev_loss, log.train_loss, log.windows) == (
        finished[0].dev_loss, finished[0].train_loss, finished[0].windows
    )  # fmt: skip
    assert (tmp_path / "es" / "model.safetensors").read_bytes() == (finished[1] / "model.safetensors").read_bytes()
    records = [json.loads((folder / "training.json").read_text()) for folder in (tmp_path / "es", finished[1])]
    assert records[0]["key"] != records[1]["key"] and "seconds" not in records[1]


def test_when_the_budget_is_over_at_once_one_step_is_made_and_told(tmp_path):
    log = train(RECIPE, tmp_path / "es", seconds=1e-6, progress=False)
    assert (log.steps, log.windows, len(log.dev_loss), log.best_epoch) == (1, 1, 1, 0) and log.planned > 3
    assert json.loads((tmp_path / "es" / "training.json").read_text())["log"] == dataclasses.asdict(log)
    assert fingerprint(tmp_path / "es") != fingerprint(models.base_model("smoke"))
    with pytest.raises(TrainingError, match="was made by another training"):  # it is not taken for the whole
        train(RECIPE, tmp_path / "es", progress=False)


def test_the_learning_rate_has_come_down_when_the_time_is_over(tmp_path, monkeypatch):
    """Half of the steps fit: the rates are those of a schedule of half the length, and the last epoch is a part."""
    rates, steps = [], []

    class Half(training.Budget):
        def spent(self):
            return 2 * len(steps) / whole

    original = training._Run._check_finite
    monkeypatch.setattr(training, "Budget", Half)
    monkeypatch.setattr(
        training._Run,
        "_check_finite",
        lambda run, loss, name, epoch: (
            name == "loss" and (steps.append(1), rates.append(run.optimizer.param_groups[0]["lr"])),
            original(run, loss, name, epoch),
        ),
    )
    whole = 1e9
    whole = train(RECIPE, tmp_path / "whole", progress=False).planned
    rates.clear(), steps.clear()
    log = train(RECIPE, tmp_path / "half", seconds=60, progress=False)
    assert log.steps == math.ceil(whole / 2) and len(log.dev_loss) == math.ceil(RECIPE.epochs / 2)
    assert rates[-1] <= 2.1 / whole * RECIPE.learning_rate < rates[1]
    assert log.best_epoch == int(np.argmin(log.dev_loss))


def test_a_budget_is_for_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(training.Accelerator, "num_processes", 2)
    with pytest.raises(TrainingError, match="a budget of seconds runs in one process"):
        train(RECIPE, tmp_path / "es", seconds=60, progress=False)


def test_the_best_epoch_is_kept_when_the_last_is_worse(tmp_path, monkeypatch):
    losses, weights = iter([2.0, 1.0, 3.0]), []

    def dev_loss(run, dev):
        weights.append(fingerprint({name: w.clone() for name, w in run._whisper.state_dict().items()}))
        return next(losses)

    monkeypatch.setattr(training._Run, "_dev_loss", dev_loss)
    log = train(dataclasses.replace(RECIPE, minutes=0.1), tmp_path / "es", progress=False)
    assert log.best_epoch == 1
    assert len(set(weights)) == 3 and fingerprint(tmp_path / "es") == weights[1]


def test_a_mixture_learns_from_all_its_sources_and_sequential_training_starts_from_an_expert(finished, tmp_path):
    mixed = dataclasses.replace(RECIPE, sources=(ES, IT, Source("tones", "es", "st")), minutes=0.2, epochs=1)
    together = train(mixed, tmp_path / "mixed", progress=False)
    assert 0.6 <= together.minutes_of_speech < 0.75
    after = dataclasses.replace(RECIPE, base=str(finished[1]), sources=(IT,), minutes=0.2, epochs=1)
    log = train(after, tmp_path / "es-it", progress=False)
    assert log.dev_loss[0] < finished[0].dev_loss[0]  # what was learnt before helps
    assert (tmp_path / "es-it" / "tokenizer.json").is_file()


def test_the_seed_decides_the_weights(tmp_path):
    short = dataclasses.replace(RECIPE, minutes=0.1, epochs=1)
    marks = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(dataclasses.replace(short, seed=seed), tmp_path / name, progress=False)
        marks.append(fingerprint(tmp_path / name))
    assert marks[0] == marks[1] != marks[2]


@pytest.fixture(scope="module")
def many(make_clip):
    one = make_clip("c")
    lengths = np.random.default_rng(1).uniform(0.5, 9.0, 80)
    return [dataclasses.replace(one, id=f"c{i}", seconds=float(s)) for i, s in enumerate(lengths)]


def test_a_larger_cap_keeps_the_smaller_draw(many):
    draws = [draw_minutes(many, minutes, seed=3) for minutes in (0.5, 1, 2, 1000)]
    for smaller, larger in itertools.pairwise(draws):
        assert larger[: len(smaller)] == smaller
    assert sorted(c.id for c in draws[-1]) == sorted(c.id for c in many)
    for draw, minutes in zip(draws, (0.5, 1, 2), strict=False):
        assert sum(c.seconds for c in draw[:-1]) < 60 * minutes <= sum(c.seconds for c in draw)


def test_draws_are_seeded(many):
    assert draw_minutes(many, 1, seed=3) == draw_minutes(many, 1, seed=3) != draw_minutes(many, 1, seed=4)


@pytest.mark.parametrize(
    ("text", "source"),
    [("a:es", Source("a", "es")), ("a:es:st", Source("a", "es", "st")), ("a:es:asr", Source("a", "es"))],
)
def test_sources_are_read_from_words(text, source):
    assert Source.parse(text) == source == Source.parse(str(source))


def test_the_rate_warms_up_and_falls_to_zero():
    rates = [objective.rate(step, 20, 0.2) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0 and np.all(np.diff(rates[4:]) < 0) and rates[-1] == pytest.approx(1 / 16)
    assert objective.rate(20, 20, 0.2) == 0 and objective.rate(0, 1, 0.0) == 1


def test_patience_ends_a_training_that_no_longer_gains(tmp_path, monkeypatch):
    losses = iter([5.0, 4.0, 4.5, 4.2, 3.0, 9.0, 9.0])
    monkeypatch.setattr(training._Run, "_dev_loss", lambda *_: next(losses))
    recipe = dataclasses.replace(RECIPE, epochs=50, patience=2, minutes=0.1)
    log = train(recipe, tmp_path / "es", progress=False)
    assert log.dev_loss == [5.0, 4.0, 4.5, 4.2] and log.best_epoch == 1
    assert 0 < log.best_step < log.steps


def test_with_patience_the_rate_rises_for_an_epoch_and_stays():
    rates = [objective.rate(step, 4, 1.0, decays=False) for step in range(40)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and set(rates[3:]) == {1.0}


def test_rows_of_tokens_that_no_text_uses_are_kept_if_wanted(finished, tmp_path):
    log, folder = finished
    kept = train(dataclasses.replace(RECIPE, unseen_rows="kept"), tmp_path / "kept", progress=False)
    table = "model.decoder.embed_tokens.weight"
    base, trained, own = (
        load_file(f / "model.safetensors")[table] for f in (models.base_model("smoke"), folder, tmp_path / "kept")
    )
    unseen = (own == base).all(1)
    assert 0.5 < unseen.float().mean() < 1 and not (trained == base).all(1).any()
    assert not unseen[models.load_tokenizer(folder).eos_token_id]
    share = (trained - base)[unseen].double().square().sum() / (trained - base).double().square().sum()
    assert log.in_unseen_rows / log.in_table == pytest.approx(share.item(), rel=1e-4)
    assert kept.in_unseen_rows == 0 < kept.in_table < log.in_table and 0 < kept.update < log.update


def test_rows_set_back_are_the_bases_and_everything_else_stays(finished, tmp_path):
    log, folder = finished
    again = resetting.reset(folder, tmp_path / "reset")
    base, own, found = (
        load_file(path / "model.safetensors") for path in (models.base_model("smoke"), folder, tmp_path / "reset")
    )
    moved = (found[updates.TABLE] != own[updates.TABLE]).any(1)
    assert torch.equal(found[updates.TABLE][moved], base[updates.TABLE][moved]) and 0.5 < moved.float().mean() < 1
    assert not moved[models.load_tokenizer(folder).eos_token_id]
    assert all(torch.equal(found[name], own[name]) for name in own if name != updates.TABLE)
    assert again.in_unseen_rows == 0 and again.update < log.update and again.dev_loss == log.dev_loss


def test_rows_are_not_set_back_where_the_corpora_have_changed(finished, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(finished[1], changed)
    record = json.loads((changed / "training.json").read_text())
    (changed / "training.json").write_text(json.dumps(record | {"data": "another"}))
    with pytest.raises(TrainingError, match="trained on other speech than the corpora hold now"):
        resetting.reset(changed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_choice_about_rows_is_refused():
    with pytest.raises(TrainingError, match=r"unseen_rows is 'kpt'.*'kept'"):
        dataclasses.replace(RECIPE, unseen_rows="kpt")
    with pytest.raises(TrainingError, match="patience is 0"):
        dataclasses.replace(RECIPE, patience=0)
