"""The entropy that AdaMerging lowers: of the model's own output, its slopes, what it hears, and what it tells of."""

import logging

import pytest
import torch
from safetensors.torch import load_file

from speechmerge import corpora
from speechmerge.finetuning.packing import Window, pack
from speechmerge.merging import entropy, measuring
from speechmerge.merging.listening import put
from speechmerge.whisper import models

BASE = models.base_model("smoke")
NAME = "model.decoder.layers.1.fc2.weight"


@pytest.fixture(scope="module")
def parts():
    found = [(language, corpora.load("tones", language, "dev")[:4]) for language in ("es", "it")]
    return [pack(clips[:n], language, "asr", None) for n, (language, clips) in zip((2, 4), found, strict=True)]


@pytest.fixture(scope="module")
def state():
    return load_file(BASE / "model.safetensors")


def test_it_is_the_mean_over_the_tokens_that_the_model_itself_finds(parts, state):
    found, slopes = entropy.unsureness(BASE, parts, precision="fp32")(state)
    whisper = models.load_model(BASE)
    hearing, means = entropy._Hearing(BASE, whisper), []
    for windows in parts:
        features, prompts = hearing.heard(windows)
        tokens = hearing.said(windows, features, prompts)
        told = []
        for row, said in enumerate(tokens):
            given = torch.cat([prompts[row], torch.tensor(said[:-1], dtype=torch.long)])[None]
            with torch.inference_mode():
                logits = whisper(features[row : row + 1], decoder_input_ids=given).logits[0, prompts.shape[1] - 1 :]
                logits[:, hearing.forbidden] = -torch.inf
                told += torch.distributions.Categorical(logits=logits[:, hearing.allowed]).entropy().tolist()
            assert logits[1:].argmax(-1).tolist() == said[1:]  # at first the end is forbidden too
        means.append(sum(told) / len(told))
    assert found == pytest.approx(sum(means) / 2, rel=1e-4)
    assert set(slopes) == set(state)


def test_slopes_are_those_of_finite_differences_while_the_output_stays(parts, state):
    _, slopes = entropy.unsureness(BASE, parts, precision="fp32")(state)
    whisper = models.load_model(BASE)
    hearing = entropy._Hearing(BASE, whisper)
    given = [(*hearing.heard(own), hearing.said(own, *hearing.heard(own))) for own in parts]
    direction, ends = slopes[NAME] / slopes[NAME].norm(), []
    for step in (0.05, -0.05):
        put(whisper, {NAME: state[NAME] + step * direction})
        ends.append(sum(hearing.entropies(*own).mean().item() for own in given) / 2)
    assert (ends[0] - ends[1]) / 0.1 == pytest.approx(slopes[NAME].norm().item(), rel=0.05)


def test_texts_are_not_read(parts, state):
    class Silent(Window):
        @property
        def texts(self) -> list[str]:
            raise AssertionError("a text was read")

    silent = [[Silent(w.clips, w.language, w.task) for w in own] for own in parts]
    assert entropy.unsureness(BASE, silent)(state)[0] == entropy.unsureness(BASE, parts)(state)[0]


def test_each_call_hears_the_next_windows(state, monkeypatch):
    clips = corpora.load("tones", "es", "dev")[:5]
    windows = [Window((clip,), "es", "asr") for clip in clips]
    heard = []
    hear = entropy._Hearing.heard
    monkeypatch.setattr(
        entropy._Hearing, "heard", lambda self, own: heard.append([w.clips[0].id for w in own]) or hear(self, own)
    )
    measure = entropy.unsureness(BASE, [windows], heard=2)
    for _ in range(4):
        measure(state)
    names = [clip.id for clip in clips]
    assert heard == [names[:2], names[2:4], names[4:], names[:2]]


@pytest.mark.parametrize(("lengths", "told"), [((30, 20, 50), 0), ((30, 10, 5), 1), ((10, 224, 224), 1)])
def test_an_output_that_collapses_or_runs_away_is_told_of_once(lengths, told, caplog):
    usual: list[float] = []
    with caplog.at_level(logging.WARNING):
        for length in lengths:
            entropy._watch(length, usual)
    assert len(caplog.records) == told
    assert not told or "take fewer steps or a lower rate" in caplog.text


@pytest.mark.parametrize(("count", "words"), [(0, "there is none"), (1, "there is one clip")])
def test_too_little_speech_gets_a_sentence(count, words):
    speech = [[(corpora.load("tones", "es", "dev")[:count], "es", "asr")]]
    for method, what in (("adamerging", "unlabelled speech"), ("evo_merging", "dev speech")):
        with pytest.raises(
            measuring.MethodError, match=f"{method} learns weights from {what}, of which {words}; weights"
        ):
            measuring.extras(method, BASE, [BASE, BASE], speech)
