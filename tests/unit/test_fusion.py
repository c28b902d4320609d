"""The feature store, tasks, trainings and kept systems of fusion, on random layers and tones."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from speechmerge.cli import cli
from speechmerge.errors import CorpusError, TrainingError
from speechmerge.fusion import answering, encoders, features, interfaces, scoring, systems, tasks, training, upstreams
from speechmerge.fusion.examples import Example, capped, split_recordings
from speechmerge.fusion.hearing import Hearing

NAMES = ["random-16", "random-24"]
QUICK = answering.Options(steps=6, epochs=2, batch=8, frames=8, evaluations=2, rate=1e-2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clips(make_clip):
    return [make_clip(f"c{n}" * (n + 1), seconds=0.5 + 0.9 * n) for n in range(4)]


class Counted:
    """An upstream that counts what it hears."""

    def __init__(self, name="random-16"):
        self.inner, self.heard = upstreams.load(name), 0
        self.layers, self.width, self.rate = self.inner.layers, self.inner.width, self.inner.rate
        self.fingerprint = self.inner.fingerprint

    def states(self, samples):
        self.heard += 1
        return self.inner.states(samples)


def heard(name, fold=0, upstream=NAMES):
    task = tasks.find(name)
    examples = task.folds((8, 4, 4))[fold]
    return task, examples, systems.hearing_of(upstream, examples, whole=task.whole)


def test_the_store_is_a_fresh_pass_but_for_rounding(clips):
    upstream = Counted()
    found = features.extract("random-16", upstream, clips, whole=True)
    for clip in clips:
        fresh = upstream.inner.states(clip.samples()).transpose(0, 1)
        torch.testing.assert_close(
            torch.from_numpy(np.array(found.read(clip, whole=True))).float(), fresh, atol=5e-3, rtol=1e-3
        )
        assert found.read(clip, whole=True).dtype == np.float16


def test_a_clip_is_heard_once(clips):
    upstream = Counted()
    features.extract("random-16", upstream, [*clips[:2], clips[0]], whole=False)
    assert upstream.heard == 2
    features.extract("random-16", upstream, clips, whole=False)
    assert upstream.heard == 4
    features.extract("random-16", upstream, clips, whole=False)
    assert upstream.heard == 4


def test_what_is_stored_does_not_decide_what_an_utterance_task_reads(clips):
    """A clip that was kept whole for recognition gives the same frames as one of which some were kept."""
    long, upstream = clips[-1], Counted()
    few = np.array(features.extract("random-16", upstream, [long], whole=False).read(long, whole=False)[np.arange(100)])
    whole = features.extract("random-16", upstream, [long], whole=True)
    assert upstream.heard == 2 and len(whole.read(long, whole=True)) > features.KEPT
    assert len(whole.read(long, whole=False)) == features.KEPT
    assert np.array_equal(whole.read(long, whole=False)[np.arange(100)], few)


def test_an_interrupted_store_goes_on(clips):
    upstream = Counted()
    found = features.extract("random-16", upstream, clips[:3], whole=True)
    wanted = [np.array(found.read(clip, whole=True)) for clip in clips[:3]]
    index = found.folder / features.INDEX
    lines = index.read_text().splitlines(keepends=True)
    index.write_text(lines[0] + lines[1] + lines[2][:20])  # killed while it wrote the third line
    found = features.extract("random-16", upstream, clips[:3], whole=True)
    assert upstream.heard == 4
    for clip, states in zip(clips, wanted, strict=False):
        assert np.array_equal(found.read(clip, whole=True), states)


@pytest.mark.parametrize("name", ["tones", "tone-voices", "tone-words"])
def test_splits_keep_their_promise(name):
    for fold in tasks.find(name).folds():
        where, labels = defaultdict(set), defaultdict(set)
        for one in fold:
            where[one.recording].add(one.split)
            labels[one.split].add(one.label)
        assert all(len(splits) == 1 for splits in where.values())
        if tasks.find(name).kind == "verification":
            assert not labels["train"] & labels["test"] and not labels["dev"] & labels["test"]


def test_recordings_are_split_whole_and_every_class_is_everywhere(make_clip):
    examples = [Example(make_clip(f"r{r}-{p}"), "ab"[r % 2], "train", f"r{r}") for r in range(16) for p in range(3)]
    found = split_recordings(examples)
    assert {(one.label, one.split) for one in found} == {(c, s) for c in "ab" for s in ("train", "dev", "test")}
    assert len({(one.recording, one.split) for one in found}) == 16
    assert found == split_recordings(examples)
    counts = defaultdict(int)
    for one in capped(found, (4, 1, 2)):
        counts[one.label, one.split] += 1
    assert set(counts.values()) == {4, 1, 2}


def test_same_seed_same_numbers_other_seed_others():
    task, fold, hearing = heard("tones")
    found = [
        training.train(task, fold, hearing, "hconv_add", answering.Options(**{**vars(QUICK), "seed": s}))
        for s in (0, 0, 1)
    ]
    test = [one for one in fold if one.split == "test"]
    answers = [system.answers(test) for system in found]
    assert np.array_equal(answers[0], answers[1]) and not np.allclose(answers[0], answers[2])
    assert found[0].tried == found[1].tried and len(found[0].tried) == QUICK.evaluations


def test_training_leaves_the_callers_draws_alone():
    task, fold, hearing = heard("tones")
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    training.train(task, fold, hearing, "gumd", QUICK)
    assert torch.equal(torch.rand(3), wanted)


def test_one_thread_and_two_agree():
    task, fold, hearing = heard("tones")
    test, found = [one for one in fold if one.split == "test"], []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(training.train(task, fold, hearing, "chconv", QUICK).answers(test))
    torch.set_num_threads(1)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def test_upstreams_stay_as_they_are(monkeypatch):
    whisper, task = encoders.whisper("smoke"), tasks.find("tones")
    fold, before = task.folds((2, 1, 1))[0], upstreams.weights_of(whisper.encoder)
    monkeypatch.setattr(upstreams, "load", lambda name, window: whisper)
    hearing = systems.hearing_of(["smoke"], fold, whole=False)
    system = training.train(task, fold, hearing, "ws", QUICK)
    assert upstreams.weights_of(whisper.encoder) == before == whisper.fingerprint
    assert all(p.grad is None and not p.requires_grad for p in whisper.encoder.parameters())
    assert interfaces.parameters(system.interface) == whisper.layers


def test_answers_do_not_depend_on_batch_mates():
    task, fold, hearing = heard("tones")
    system = training.train(task, fold, hearing, "chconv", QUICK)
    test = [one for one in fold if one.split == "test"]
    together = system.answers(test)
    np.testing.assert_allclose(together[2:3], system.answers(test[2:3]), atol=1e-6)
    np.testing.assert_allclose(together[::-1], system.answers(test[::-1]), atol=1e-6)


@pytest.mark.parametrize("kind", ["frame", "standard", "none"])
def test_normalisation(kind):
    _, fold, hearing = heard("tones")
    train = [one.clip for one in fold if one.split == "train"]
    made = hearing.normalised(kind, train)
    parts = [made.open(clip).take(np.arange(10))[0] for clip in train]
    states = torch.cat(parts)
    if kind == "frame":
        torch.testing.assert_close(states.mean(-1), torch.zeros(states.shape[:2]), atol=1e-5, rtol=0)
    if kind == "standard":
        assert states.mean(0).abs().max() < 1 and 0.3 < states.std(0).mean() < 2
    if kind == "none":
        assert torch.equal(parts[0], Hearing(hearing.features, whole=False).open(train[0]).take(np.arange(10))[0])


@pytest.mark.parametrize(
    ("name", "normalise"), [("tones", "standard"), ("tone-voices", "frame"), ("tone-words", "none")]
)
def test_a_kept_system_answers_as_before(name, normalise, tmp_path):
    task, fold, hearing = heard(name)
    system = training.train(task, fold, hearing, "gumd", answering.Options(**{**vars(QUICK), "normalise": normalise}))
    systems.save(system, NAMES, "gumd", "full", tmp_path / "kept")
    test = [one for one in fold if one.split == "test"]
    again = systems.read(tmp_path / "kept", task, hearing).answers(test)
    before = system.answers(test)
    assert again == before if isinstance(before, list) else np.array_equal(again, before)


def test_dev_chooses_the_rate():
    task, fold, hearing = heard("tones")
    system, tried = training.tuned(task, fold, hearing, "ws", QUICK, (1e-6, 3e-2))
    assert [one["rate"] for one in tried] == [1e-6, 3e-2]
    assert system.dev == min(one["dev"] for one in tried)


@pytest.mark.parametrize(
    ("errors", "rates", "best"),
    [
        ({1e-3: 0.5, 3e-3: 0.4, 1e-2: 0.45}, [1e-3, 3e-3, 1e-2], 3e-3),
        ({1e-3: 0.5, 3e-3: 0.4, 1e-2: 0.3, 3e-2: 0.2, 9e-2: 0.3}, [1e-3, 3e-3, 1e-2, 3e-2, 9e-2], 3e-2),
        ({1e-3: 0.4, 3e-3: 0.5, 1e-2: 0.6, 3e-4: 0.3, 9e-5: 0.35}, [9e-5, 3e-4, 1e-3, 3e-3, 1e-2], 3e-4),
        ({1e-3: 0.5, 3e-3: 0.4, 1e-2: 0.3, 3e-2: None}, [1e-3, 3e-3, 1e-2], 1e-2),
        (
            {1e-3: 0.9, 3e-3: 0.8, 1e-2: 0.7, 3e-2: 0.6, 9e-2: 0.5, 0.3: 0.4, 1.0: 0.3},
            [1e-3, 3e-3, 1e-2, 3e-2, 9e-2, 0.3],
            0.3,
        ),
    ],
)
def test_rates_beyond_the_best_are_tried_until_it_lies_between_two(monkeypatch, errors, rates, best):
    def trained(task, fold, hearing, interface, options):
        if errors[options.rate] is None:
            raise TrainingError("the loss is nan")
        return SimpleNamespace(rate=options.rate, dev=errors[options.rate], tried=[errors[options.rate]])

    monkeypatch.setattr(training, "train", trained)
    system, tried = training.tuned(tasks.find("tones"), [], None, "ws", QUICK, rates[-3:] if best < 1e-3 else rates[:3])
    assert [one["rate"] for one in tried] == rates
    assert system.rate == best


def test_of_equal_rates_and_evaluations_the_better_trained_is_taken(monkeypatch):
    task, fold, hearing = heard("tones")
    monkeypatch.setattr(answering.System, "error", lambda self, fold: 0.0)
    system, _ = training.tuned(task, fold, hearing, "ws", QUICK, (1e-3, 1e-2, 1e-1), 0)
    assert system.rate == interfaces.find("ws").rate
    start = training.prepare(task, fold, hearing, "ws", QUICK)
    assert system.weights() != start.weights()
    once = training.train(task, fold, hearing, "ws", answering.Options(**{**vars(QUICK), "evaluations": 1}))
    assert system.weights() == once.weights(), "the last evaluation is kept"


def test_two_uses_of_one_model_hear_once(monkeypatch):
    task = tasks.find("tones")
    fold, counted = task.folds((4, 2, 2))[0], Counted()
    monkeypatch.setattr(upstreams, "load", lambda name, window: counted)
    hearing = systems.hearing_of(["random-16", "random-16#2"], fold, whole=False)
    assert counted.heard == len({features.key(one.clip) for one in fold})
    assert hearing.shapes == [(3, 16), (3, 16)]


def test_errors_are_counted_by_recording():
    found = scoring.by_recording(["b", "a", "b"], [1, 0, 1], [1, 1, 1], "clips")
    assert found.ids == ("a", "b") and found.errors.tolist() == [0, 2] and found.words.tolist() == [1, 2]
    assert scoring.balanced(["x", "x", "x", "y"], ["x", "x", "x", "x"]) == 0.5
    assert scoring.character_errors(["abc", ""], ["ac", "zz"]) == [1, 2]


def test_trials_leave_out_pairs_of_one_recording():
    embeddings = np.eye(4)[[0, 0, 1, 1]].astype(float)
    found = scoring.trials(embeddings, ["v", "v", "w", "w"], ["r", "r", "s", "t"])
    assert len(found.pairs) == 5 and found.same.sum() == 1 and found.rate == 0
    drawn = found.resampled(200)
    counted = drawn[np.isfinite(drawn)]  # a draw of one voice alone has no pairs of different voices
    assert drawn.shape == (200,) and 20 < len(counted) < 200 and ((counted >= 0) & (counted <= 1)).all()
    assert np.array_equal(drawn, found.resampled(200), equal_nan=True)


def test_a_system_does_not_differ_from_itself():
    one = [scoring.by_recording(list("abcd"), [1, 0, 0, 1], [1] * 4, "clips")]
    found = scoring.difference(one, one)
    assert (found.difference, found.ci_low, found.ci_high, found.p_value) == (0, 0, 0, 1)


def test_numbers_are_the_same_in_another_process():
    code = (
        "from speechmerge.fusion import tasks\n"
        "print([(o.clip.id, o.label, o.split) for f in tasks.find('tones').folds((4, 2, 2)) for o in f])"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] and b"tones-" in found[0]


def test_every_interface_learns_on_every_kind_of_task():
    for name in ("tones", "tone-voices", "tone-words"):
        task, fold, hearing = heard(name)
        single = Hearing(hearing.features[:1], whole=task.whole)
        for interface in interfaces.INTERFACES:
            own = single if interface in ("layer", "last", "hconv") else hearing
            system = training.train(task, fold, own, interface.replace("layer", "layer:1"), QUICK)
            assert 0 <= system.dev <= 1.5 and len(system.tried) == 2


def test_train_and_score_on_clips_of_ones_own(tmp_path, own_labelled):
    run = CliRunner().invoke
    asked = ["--speech", str(own_labelled), "--upstream", "fbank", "--upstream", "random-16"]
    out = str(tmp_path / "made")
    quick = ["--interface", "ws", "--rate", "0.01", "--steps", "25"]
    done = run(cli, ["fuse", "train", out, *asked, *quick])
    assert done.exit_code == 0, done.output
    assert "error 0.0% [" in done.output and "2 classes" in done.output
    about = json.loads((tmp_path / "made" / "system.json").read_text())
    assert about["classes"] == ["high", "low"] and about["upstreams"] == ["fbank", "random-16"]
    scored = run(cli, ["fuse", "score", out, "--speech", str(own_labelled), "--label", "speaker"])
    assert scored.exit_code == 0 and "error 0.0%" in scored.output
    planned = run(cli, ["fuse", "plan", *asked])
    assert "2 classes" in planned.output and "MB" in planned.output
    listed = run(cli, ["fuse", "list"]).output
    assert all(name in listed for name in (*upstreams.UPSTREAMS, *interfaces.INTERFACES, *tasks.TASKS))


def test_folders_of_sounds_need_no_text_to_be_told_apart(tmp_path, own_labelled):
    (own_labelled / "table.csv").unlink()
    quick = ["--interface", "ws", "--rate", "0.01", "--steps", "25", "--upstream", "fbank", "--upstream", "random-16"]
    done = CliRunner().invoke(cli, ["fuse", "train", str(tmp_path / "made"), "--speech", str(own_labelled), *quick])
    assert done.exit_code == 0, done.output
    assert "error 0.0% [" in done.output and "2 classes" in done.output
    fold = tasks.own(str(own_labelled)).folds()[0]
    assert {one.label for one in fold} == {"low", "high"} and {one.clip.text for one in fold} == {""}
    for label, told in (("speaker", "all 20 clips have the speaker 'unknown'"), ("text", "no transcripts")):
        with pytest.raises(CorpusError, match=told):
            tasks.own(str(own_labelled), label)


def test_folders_named_after_splits_keep_them(tmp_path, own_labelled):
    (own_labelled / "table.csv").unlink()
    for kind in ("low", "high"):
        for number, file in enumerate(sorted((own_labelled / kind).iterdir())):
            split = ("train", "dev", "test")[number % 3]
            (tmp_path / "parted" / split / kind).mkdir(parents=True, exist_ok=True)
            file.rename(tmp_path / "parted" / split / kind / file.name)
    [fold] = tasks.own(str(tmp_path / "parted")).folds()
    assert all(one.clip.id.startswith(f"{one.split}/{one.label}/") for one in fold) and len(fold) == 20


@pytest.fixture
def own_labelled(tmp_path):
    """Two folders of tones, which the folder, the speaker and nothing else tells apart."""
    import soundfile

    draw, rows = np.random.default_rng(0), ["path,text,speaker"]
    for name, hertz in (("low", 300), ("high", 1500)):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(10):
            time = np.arange(9_000 + 200 * number) / 16_000
            sound = 0.3 * np.sin(2 * np.pi * (hertz + draw.normal() * 20) * time) + 0.01 * draw.normal(size=len(time))
            soundfile.write(tmp_path / "own" / name / f"{number}.wav", sound.astype(np.float32), 16_000)
            rows.append(f"{name}/{number}.wav,word {name} {number},{name}")
    (tmp_path / "own" / "table.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "own"
