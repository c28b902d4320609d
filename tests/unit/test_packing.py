"""Clips packed into windows, and windows turned into batches."""

import itertools

import numpy as np
import pytest
import torch

from speechmerge.audio import SAMPLE_RATE
from speechmerge.errors import TrainingError
from speechmerge.finetuning.packing import FULL_SECONDS, IGNORED, MAX_LABELS, PAUSE_SECONDS, Window, collate, pack
from speechmerge.whisper import models
from speechmerge.whisper.prompts import prompt_ids

PROMPT = 4  # start, language, task, no timestamps


@pytest.fixture(scope="module")
def clips(make_clip):
    lengths = np.random.default_rng(0).uniform(0.5, 12.0, size=60)
    one = make_clip("a")
    made = [make_clip(f"c{i}", f"texto {i}", flac=one.flac, translation=f"text {i}") for i in range(len(lengths))]
    return [type(c)(**{**vars(c), "seconds": float(s)}) for c, s in zip(made, lengths, strict=True)]


@pytest.fixture(scope="module")
def tools():
    folder = models.base_model("smoke")
    return models.load_tokenizer(folder), models.load_feature_extractor(folder)


def rng(*seed):
    return np.random.default_rng(seed)


def ids(windows):
    return [[clip.id for clip in window.clips] for window in windows]


def length(window):
    return sum(c.seconds for c in window.clips) + PAUSE_SECONDS * (len(window.clips) - 1)


@pytest.mark.parametrize("generator", [None, rng(1), rng(2), rng(3)])
def test_every_clip_is_in_exactly_one_window_and_windows_fit(clips, generator):
    windows = pack(clips, "es", "asr", generator)
    assert sorted(name for window in ids(windows) for name in window) == sorted(c.id for c in clips)
    assert all(length(w) <= FULL_SECONDS for w in windows)
    assert {(w.language, w.task) for w in windows} == {("es", "asr")}


def test_evaluation_keeps_the_order_and_fills_windows(clips):
    windows = pack(clips, "es", "asr", None)
    assert [name for window in ids(windows) for name in window] == [c.id for c in clips]
    following = itertools.pairwise(windows)
    assert all(length(w) + PAUSE_SECONDS + after.clips[0].seconds > FULL_SECONDS for w, after in following)


def test_training_windows_are_also_short(clips):
    lengths = [length(w) for seed in range(5) for w in pack(clips, "es", "asr", rng(seed))]
    assert min(lengths) < 8 < 24 < max(lengths)
    assert len(lengths) / 5 > len(pack(clips, "es", "asr", None))


def test_a_clip_longer_than_the_drawn_limit_stands_alone(make_clip):
    long = make_clip("long", seconds=28.0)
    for seed in range(8):
        windows = pack([long, make_clip("short")], "es", "asr", rng(seed))
        assert ["long"] in ids(windows)


def test_the_seed_decides_the_packing(clips):
    assert ids(pack(clips, "es", "asr", rng(7, 0))) == ids(pack(clips, "es", "asr", rng(7, 0)))
    assert ids(pack(clips, "es", "asr", rng(7, 0))) != ids(pack(clips, "es", "asr", rng(7, 1)))


def test_no_clips_make_no_windows():
    assert pack([], "es", "asr", rng(0)) == []


def test_a_batch_is_shifted_by_one_and_hides_the_prompt(tools, make_clip):
    tokenizer, extractor = tools
    windows = [Window((make_clip("a", "sol"), make_clip("b", "mar azul")), "es", "asr")]
    windows.append(Window((make_clip("c", "pan"),), "es", "asr"))
    batch = collate(windows, tokenizer, extractor)
    assert batch["input_features"].shape == (2, 80, 3000) and batch["input_features"].dtype == torch.float32
    for row, text in enumerate(["sol mar azul", "pan"]):
        labels, inputs = batch["labels"][row], batch["decoder_input_ids"][row]
        target = labels[labels != IGNORED]
        assert tokenizer.decode(target[:-1]) == text and target[-1] == tokenizer.eos_token_id
        assert inputs[:PROMPT].tolist() == prompt_ids(tokenizer, "es", "asr")
        assert (labels[: PROMPT - 1] == IGNORED).all() and labels[PROMPT - 1] != IGNORED
        end = PROMPT - 1 + len(target)
        assert torch.equal(inputs[PROMPT:end], labels[PROMPT - 1 : end - 1])
        assert (labels[end:] == IGNORED).all() and (inputs[end:] == tokenizer.eos_token_id).all()


def test_translation_targets_are_english_and_ask_for_translation(tools, make_clip):
    tokenizer, extractor = tools
    batch = collate([Window((make_clip("a", "sol", translation="sun"),), "es", "st")], tokenizer, extractor)
    target = batch["labels"][batch["labels"] != IGNORED]
    assert tokenizer.decode(target[:-1]) == "sun"
    names = tokenizer.convert_ids_to_tokens(batch["decoder_input_ids"][0, :PROMPT])
    assert names == ["<|startoftranscript|>", "<|es|>", "<|translate|>", "<|notimestamps|>"]


def test_a_very_long_text_ends_within_the_decoders_positions(tools, make_clip):
    batch = collate([Window((make_clip("a", "sol " * 300),), "es", "asr")], *tools)
    assert batch["decoder_input_ids"].shape[1] == PROMPT + MAX_LABELS <= 448
    assert batch["labels"][0, -1] == tools[0].eos_token_id


def test_clips_are_heard_one_after_the_other_with_a_pause(make_clip):
    heard = []

    def extractor(samples, **_):
        heard.extend(samples)
        return type("Features", (), {"input_features": torch.zeros(1, 80, 3000)})

    first, second = make_clip("a", seconds=1.0), make_clip("bbb", seconds=0.5)
    collate([Window((first, second), "es", "asr")], models.load_tokenizer(models.base_model("smoke")), extractor)
    pause = int(PAUSE_SECONDS * SAMPLE_RATE)
    np.testing.assert_array_equal(heard[0][:SAMPLE_RATE], first.samples())
    assert not heard[0][SAMPLE_RATE : SAMPLE_RATE + pause].any()
    np.testing.assert_array_equal(heard[0][SAMPLE_RATE + pause :], second.samples())


def test_a_language_that_whisper_does_not_know_is_refused(tools):
    with pytest.raises(TrainingError, match=r"no <\|xx\|>; take a multilingual Whisper"):
        prompt_ids(tools[0], "xx", "asr")
