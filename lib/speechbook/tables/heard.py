"""Clips beside what every model wrote of them, and the rules by which some of them are shown.

A rule looks at word errors alone, never at a clip, and ties go to the clip that comes first by corpus and id. Of a clip
at most as many errors count as it has words, as in the protocol, so that one runaway hypothesis cannot lead.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from speechmerge.corpora import Clip
from speechmerge.evaluation import scoring
from speechmerge.evaluation.predictions import Prediction

from ..figures import style
from ..study import experiments, kept

BASE = "Pretrained"


@dataclass(frozen=True)
class Heard:
    """A clip and what models wrote of it.

    Attributes:
        clip: the recording and its reference.
        words: of the reference, as they are counted.
        said: what each system wrote, in the order of the experiment.
        errors: word errors of each system, not capped.
    """

    clip: Clip
    words: int
    said: Mapping[str, Prediction]
    errors: Mapping[str, int]

    def capped(self, system: str) -> int:
        """Return the word errors of a system, at most as many as the reference has words."""
        return min(self.errors[system], self.words)

    def gain(self, system: str, against: str = BASE) -> int:
        """Return how many word errors fewer a system makes than another one, both capped."""
        return self.capped(against) - self.capped(system)


def read(profile: str, experiment: str, *, seed: int = 0) -> list[Heard]:
    """Return every test clip of an experiment in its own languages, with the transcripts that are committed.

    Args:
        profile: whose results.
        experiment: its name.
        seed: of the trainings; a model that was not trained is there with every seed.

    Raises:
        ScoringError: transcripts are missing, or the speech is not that which was measured.
        CorpusError, SourceError: the speech cannot be had.
    """
    plan = experiments.plan(experiment, profile)
    systems = [s for s in plan.systems if not s.variant and (s.seed == seed or s.method == "none")]
    found = kept.read(replace(plan, systems=systems))
    heard: list[Heard] = []
    for cell in (cell for cell in plan.cells if cell.task == "asr" and cell in found.clips):
        own = zip(found.plan.systems, found.predictions, strict=True)
        said = {system.system: predictions[cell] for system, predictions in own if cell in predictions}
        heard += beside(found.clips[cell], said)
    return heard


def beside(clips: Sequence[Clip], said: Mapping[str, Sequence[Prediction]]) -> list[Heard]:
    """Put clips of one language beside what systems wrote of them, and count the word errors.

    Args:
        clips: of one language; there must be some.
        said: predictions of each system, one a clip.

    Raises:
        ScoringError: predictions and clips do not match one to one.
    """
    language = clips[0].language
    counts = {system: scoring.count(own, clips, language) for system, own in said.items()}
    matched = {system: scoring.match(own, clips) for system, own in said.items()}
    found = []
    for i, clip in enumerate(clips):
        errors = {system: int(count.errors[i]) for system, count in counts.items()}
        [words] = {int(count.words[i]) for count in counts.values()}
        found.append(Heard(clip, words, {system: own[i] for system, own in matched.items()}, errors))
    return found


def gains(heard: Iterable[Heard], system: str, against: str = BASE) -> list[Heard]:
    """Choose in each language the clip on which a system makes most errors fewer than another; none without a gain."""
    return _extreme(heard, lambda one: one.gain(system, against))


def losses(heard: Iterable[Heard], system: str, against: str = BASE) -> list[Heard]:
    """Choose in each language the clip on which a system makes most errors more than another; none without a loss."""
    return _extreme(heard, lambda one: -one.gain(system, against))


def runaways(heard: Iterable[Heard], most: int) -> list[Heard]:
    """Choose the clips on which some system ran away into repetition, that with the longest such output first."""
    lengths = [(max((len(p.text) for p in x.said.values() if p.runaway), default=0), x) for x in heard]
    return [one for length, one in sorted(lengths, key=lambda pair: (-pair[0], _place(pair[1]))) if length][:most]


def at_random(heard: Iterable[Heard], each: int, seed: int) -> list[Heard]:
    """Draw some clips of each language, the same whenever it is done."""
    generator = np.random.default_rng(seed)
    drawn = []
    for own in _by_language(heard):
        places = generator.choice(len(own), size=min(each, len(own)), replace=False)
        drawn += [own[i] for i in sorted(places)]
    return drawn


def changes(heard: Iterable[Heard], system: str, against: str = BASE) -> pd.DataFrame:
    """Count for each language the clips on which a system makes fewer, as many and more errors than another.

    Returns:
        One line a language: ``clips, fewer errors, as many, more errors``.
    """
    lines = {}
    for own in _by_language(heard):
        gained = np.array([one.gain(system, against) for one in own])
        counts = [int(those.sum()) for those in (gained > 0, gained == 0, gained < 0)]
        lines[style.language_name(own[0].clip.language)] = [len(own), *counts]
    return pd.DataFrame.from_dict(lines, orient="index", columns=["clips", "fewer errors", "as many", "more errors"])


def _extreme(heard: Iterable[Heard], score: Callable[[Heard], int]) -> list[Heard]:
    """Take the clip with the highest score of each language, where it is above zero."""
    best = [min(own, key=lambda one: (-score(one), _place(one))) for own in _by_language(heard)]
    return [one for one in best if score(one) > 0]


def _by_language(heard: Iterable[Heard]) -> list[list[Heard]]:
    """Part clips by language, in the order in which languages come; clips by corpus and id."""
    parts: dict[str, list[Heard]] = {}
    for one in heard:
        parts.setdefault(one.clip.language, []).append(one)
    return [sorted(own, key=_place) for own in parts.values()]


def _place(one: Heard) -> tuple[str, str]:
    return one.clip.source, one.clip.id
