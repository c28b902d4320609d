"""Faults of fusion: each ends as a sentence that names what was found, before or instead of a wrong number."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from transformers import MoonshineConfig

from speechmerge import packages
from speechmerge.errors import (
    CheckpointError,
    CorpusError,
    MethodError,
    ScoringError,
    SourceError,
    SpeechMergeError,
    TrainingError,
)
from speechmerge.files import locked
from speechmerge.fusion import answering, features, moonshine, scoring, systems, tasks, training, upstreams
from speechmerge.fusion.examples import Example, check, split_recordings
from speechmerge.fusion.heads import Characters
from speechmerge.fusion.interfaces import build


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def stored(make_clip):
    """A store of two clips, and its upstream."""
    clips, upstream = [make_clip("a"), make_clip("bb", seconds=3.0)], upstreams.load("random-16")
    return features.extract("random-16", upstream, clips, whole=False), clips, upstream


def test_states_that_end_too_early(stored):
    found, clips, upstream = stored
    states = found.folder / features.STATES
    states.write_bytes(states.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"states.f16 has \d+ bytes, clips.jsonl says \d+"):
        features.extract("random-16", upstream, clips, whole=False)
    with pytest.raises(CheckpointError, match="delete the folder"):
        features.opened(found.folder.name)


def test_a_value_that_is_not_finite(make_clip):
    class Broken:
        layers, width, rate, fingerprint = 3, 4, 50.0, "broken"

        def states(self, samples):
            found = torch.ones(3, 50, 4)
            found[1, 7, 2] = 1e6  # infinite in float16
            return found

    clip = make_clip("loud")
    with pytest.raises(CheckpointError, match="upstream 'odd', clip 'loud': layer 1"):
        features.extract("odd", Broken(), [clip], whole=True)
    folder = features.folder_of("odd", Broken(), "full")
    assert (folder / features.INDEX).read_text() == "", "nothing of it counts as stored"


def test_a_store_of_another_upstream(stored):
    found, clips, upstream = stored
    about = json.loads((found.folder / features.ABOUT).read_text())
    (found.folder / features.ABOUT).write_text(json.dumps(about | {"fingerprint": "other"}))
    with pytest.raises(CheckpointError, match="with fingerprint other, expected"):
        features.extract("random-16", upstream, clips, whole=False)


def test_windows_and_upstreams_have_stores_of_their_own():
    whisper = SimpleNamespace(fingerprint="f", window="full")
    folders = {features.folder_of("whisper-tiny", whisper, window) for window in upstreams.WINDOWS}
    assert len(folders) == 2
    deaf = SimpleNamespace(fingerprint="f")
    assert features.folder_of("fbank", deaf, "full") == features.folder_of("fbank", deaf, "clip")


def test_a_clip_that_was_not_heard(stored, make_clip):
    found, clips, _ = stored
    with pytest.raises(CheckpointError, match="clip 'ccc' is not in the store"):
        found.read(make_clip("ccc", seconds=2.0), whole=False)
    with pytest.raises(CheckpointError, match="clip 'bb' is not whole in the store"):
        found.read(clips[1], whole=True)


def test_a_store_that_is_being_filled(stored):
    found, clips, upstream = stored
    with (
        locked(found.folder / features.INDEX, ""),
        pytest.raises(SpeechMergeError, match="being filled by another process"),
    ):
        features.extract("random-16", upstream, clips, whole=False)


def test_a_disk_that_is_too_small(make_clip, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(SpeechMergeError, match=r"needs about 0\.00 GB but .* has 0\.00 GB free"):
        features.extract("random-16", upstreams.load("random-16"), [make_clip("a")], whole=True)


def test_a_wheel_that_is_not_the_published_one(monkeypatch, tmp_path):
    def download(command, folder, **_):
        (folder / "Resemblyzer-0.1.4-py3-none-any.whl").write_bytes(b"something else")

    monkeypatch.setattr(packages, "_run_watched", download)
    with pytest.raises(SourceError, match=r"the wheel's SHA-256 is .* it is not used"):
        upstreams.load("resemblyzer")
    assert not list((tmp_path / "cache" / "wheels").glob("Resemblyzer*"))


def test_a_graph_without_a_tensor(tmp_path):
    weight = numpy_helper.from_array(np.zeros((288, 1, 127), np.float32), "conv1.weight")
    graph = helper.make_graph([], "encoder", [], [], [weight])
    onnx.save(helper.make_model(graph), tmp_path / "encoder.onnx")
    with pytest.raises(SourceError, match=r"tensor conv2\.weight is missing"):
        moonshine.read(tmp_path / "encoder.onnx", MoonshineConfig())
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(SourceError, match="truncated or no ONNX model"):
        moonshine.read(tmp_path / "encoder.onnx", MoonshineConfig())


def examples(make_clip, *rows):
    return [Example(make_clip(f"{n}x{n}"), label, split, f"r{n}") for n, (label, split) in enumerate(rows)]


def test_a_class_without_training_clips(make_clip):
    rows = [("a", "train"), ("a", "dev"), ("a", "test"), ("b", "test")]
    with pytest.raises(CorpusError, match="class 'b' has 1 clips in test and none in train"):
        check(tasks.find("tones"), examples(make_clip, *rows))


def test_a_dev_split_without_a_class(make_clip):
    rows = [("a", "train"), ("b", "train"), ("a", "dev"), ("a", "test"), ("b", "test")]
    with pytest.raises(CorpusError, match="class 'b' has 1 clips in train and none in dev"):
        check(tasks.find("tones"), examples(make_clip, *rows))


def test_a_recording_in_two_splits(make_clip):
    clip = make_clip("a")
    fold = [Example(clip, "a", split, "same") for split in ("train", "dev", "test")]
    with pytest.raises(CorpusError, match="recording 'same' stands in train and dev"):
        check(tasks.find("tones"), fold)


def test_a_voice_in_two_splits(make_clip):
    rows = [("a", "train"), ("b", "dev"), ("a", "test")]
    with pytest.raises(CorpusError, match="a voice stands in two splits"):
        check(tasks.find("tone-voices"), examples(make_clip, *rows))


def test_a_class_of_two_recordings(make_clip):
    with pytest.raises(CorpusError, match="class 'a' has 2 recordings; expected at least 3"):
        split_recordings(examples(make_clip, ("a", "train"), ("a", "train")))


@pytest.mark.parametrize(
    ("ask", "error", "sentence"),
    [
        (lambda: build("hconv", [(2, 8)]), MethodError, "at least 3 layers, found 2"),
        (lambda: build("hconv", [(5, 8), (5, 8)]), MethodError, "takes one upstream, found 2"),
        (lambda: build("last", [(5, 8), (5, 8)]), MethodError, "'last' takes one upstream, found 2"),
        (lambda: build("hkonv", [(5, 8)]), MethodError, "Did you mean 'hconv'"),
        (lambda: build("layer:5", [(5, 8)]), MethodError, "layer:0 to layer:4"),
        (lambda: build("ws:1", [(5, 8)]), MethodError, "only 'layer' takes a number"),
        (lambda: upstreams.check_set(["fbank", "fbank"]), SourceError, "stands twice in a set; write fbank#2"),
        (lambda: upstreams.check_set([]), SourceError, "has no upstreams"),
        (lambda: upstreams.load("whisper-tny"), SourceError, "Did you mean 'whisper-tiny'"),
        (lambda: upstreams.load("whisper-tiny", "half"), SourceError, "there is no window 'half'"),
        (lambda: upstreams.load("nobody/nothing"), SourceError, "neither the hub nor its local cache"),
        (lambda: tasks.find("voiceid"), CorpusError, "Did you mean 'voice-id'"),
        (lambda: Characters(4, "ab", "lstm"), MethodError, "there is no head 'lstm'"),
        (lambda: Characters(4, "ab").number("abc"), TrainingError, "'c', which is not in the alphabet"),
        (lambda: scoring.eer(np.ones(3), np.ones(3, bool)), ScoringError, "one kind lacks"),
        (lambda: systems.about(packages.cache_folder()), CheckpointError, "holds no fused system"),
    ],
)
def test_what_cannot_be_is_said(ask, error, sentence):
    with pytest.raises(error, match=sentence):
        ask()


def test_a_loss_that_is_not_finite(monkeypatch):
    task = tasks.find("tones")
    fold = task.folds((4, 2, 2))[0]
    hearing = systems.hearing_of(["random-16"], fold, whole=False)
    monkeypatch.setattr(answering.System, "step", lambda self, group, draw: torch.tensor(float("nan")))
    with pytest.raises(TrainingError, match=r"the loss is nan after 0% of the steps at rate 0\.5"):
        training.train(task, fold, hearing, "ws", answering.Options(rate=0.5, steps=2))


def test_a_system_of_other_upstreams(tmp_path):
    task = tasks.find("tones")
    fold = task.folds((4, 2, 2))[0]
    one, two = (systems.hearing_of([name], fold, whole=False) for name in ("random-16", "random-24"))
    system = training.prepare(task, fold, one, "ws", answering.Options())
    systems.save(system, ["random-16"], "ws", "full", tmp_path / "kept")
    with pytest.raises(CheckpointError, match=r"trained with random-16 .* found"):
        systems.read(tmp_path / "kept", task, two)
    (tmp_path / "kept" / systems.WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged or another system's"):
        systems.read(tmp_path / "kept", task, one)


def test_answers_to_other_clips(make_clip):
    fold = examples(make_clip, ("a", "test"), ("b", "test"))
    with pytest.raises(ScoringError, match="1 answers to 2 clips"):
        scoring.measured(tasks.find("tones"), fold, ["a"])
    one = [scoring.by_recording(["x"], [1], [1], "clips")]
    other = [scoring.by_recording(["y"], [1], [1], "clips")]
    with pytest.raises(ScoringError, match="not scored alike"):
        scoring.difference(one, other)


def test_empty_hypotheses_and_unseen_characters_count(make_clip):
    fold = [Example(make_clip("a"), "año", "test", "r"), Example(make_clip("b"), "no", "test", "s")]
    found = scoring.measured(tasks.find("tone-words"), fold, ["", "no"])
    assert found.errors.sum() == 3 and found.words.sum() == 5
