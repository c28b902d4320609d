"""Live chapters: every model hears the same clips, as many as the budget allows, and the page says how far it came."""

import math
from types import SimpleNamespace

import pytest

from speechbook.pages import live
from speechmerge import budget
from speechmerge.budget import Budget
from speechmerge.evaluation.predictions import Prediction
from speechmerge.finetuning.training_recipe import TrainingLog


class Clock:
    """A clock that only work moves."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(budget, "time", made)
    return made


class Listener:
    """Stands for a decoder: takes some seconds a clip and repeats what was said, or all but its last word."""

    def __init__(self, clock, seconds, drop=False):
        self.clock, self.seconds, self.drop, self.heard = clock, seconds, drop, []

    def decode(self, clips, language, task, *, progress):
        assert len(clips) == len(language) and task == "asr" and not progress
        self.heard += [(clip.id, spoken) for clip, spoken in zip(clips, language, strict=True)]
        self.clock.now += self.seconds * len(clips)
        return [Prediction(clip.id, clip.text.rpartition(" ")[0] if self.drop else clip.text) for clip in clips]


@pytest.fixture
def test(make_clip):
    return {x: [make_clip(f"{x}{i}", language=x) for i in range(n)] for x, n in (("es", 40), ("it", 30))}


@pytest.mark.parametrize(
    ("seconds", "allowed", "heard"),
    [
        (0.01, 60, (40, 30)),  # a fast machine hears all, and no more
        (1.0, 60, (15, 15)),  # 2 models x 2 languages: 4 s a clip
        (1.0, 0.1, (4, 4)),  # whatever the time, a first round is heard
        (1.0, -5, (4, 4)),
        (100.0, 60, (4, 4)),
    ],
)
def test_all_models_hear_the_same_clips_as_many_as_fit(clock, test, seconds, allowed, heard):
    decoders = {"good": Listener(clock, seconds), "poor": Listener(clock, seconds, drop=True)}
    start = clock.now
    found = live.counts(decoders, test, Budget(allowed))
    assert {name: tuple(len(x.ids) for x in languages) for name, languages in found.items()} == dict.fromkeys(
        found, heard
    )
    assert decoders["good"].heard == decoders["poor"].heard
    assert [x.wer for x in found["good"]] == [0, 0] and [x.wer for x in found["poor"]] == [0.5, 0.5]
    assert clock.now - start <= max(allowed, 2 * 2 * live.FEWEST * seconds)
    assert live.listened(found, test) == f"{heard[0]} of 40 in es, {heard[1]} of 30 in it"


def test_a_machine_that_becomes_slower_overruns_by_one_round_at_most(clock, test):
    decoder = Listener(clock, 0.1)
    rounds = []

    def slower(clips, *rest, **named):
        rounds.append(len(clips))
        decoder.seconds *= 4
        return Listener.decode(decoder, clips, *rest, **named)

    found = live.counts({"one": SimpleNamespace(decode=slower)}, test, Budget(10))
    assert rounds == [8, 8] and sum(len(x.ids) for x in found["one"]) == 16


def test_what_training_reached_is_said_in_steps_minutes_and_speed():
    logs = {
        "es": TrainingLog(steps=3, planned=12, minutes_of_speech=5.0, windows=12, seconds=24.0),
        "it": TrainingLog(steps=10, planned=10, minutes_of_speech=5.1, windows=40, seconds=8.0),
    }
    assert live.trained(logs, 2) == (
        "es: 3 of 12 steps over 2.5 minutes of speech, 0.5 windows a second; "
        "it: 10 of 10 steps over 10.2 minutes of speech, 5.0 windows a second"
    )


def test_a_budget_counts_down_and_none_is_endless(clock):
    limited, endless = Budget(20), Budget(None)
    clock.now += 5
    assert (limited.left(), limited.spent()) == (15, 0.25)
    clock.now += 45
    assert (limited.left(), limited.spent()) == (-30, 1.0)
    assert (endless.left(), endless.spent()) == (math.inf, 0.0)
    assert Budget(-1).spent() == Budget(0).spent() == 1.0
