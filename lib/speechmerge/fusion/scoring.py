"""From what systems answered to numbers: error rates over recordings, equal error rates over voices, intervals."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein

from ..errors import ScoringError
from ..evaluation.resampling import Comparison, check_alike, comparison, interval, resampled_rates
from ..evaluation.scoring import Errors
from .examples import Example, Fold, Task

Answers = np.ndarray | list[str]  # embeddings or log-probabilities, a row a clip; classes or texts

DRAWS = 2_000  # of voices, for equal error rates


def by_recording(groups: Sequence[str], errors: Sequence[int], totals: Sequence[int], unit: str) -> Errors:
    """Add up the errors of clips by the recording they come from, which is what a bootstrap redraws.

    Args:
        groups: recording of each clip.
        errors: of each clip.
        totals: of each clip, what the errors are a share of: 1, or its characters.
        unit: what is counted, such as ``"clips"``; scores of other units cannot be compared.
    """
    names = sorted(set(groups))
    place = {name: number for number, name in enumerate(names)}
    at = np.array([place[group] for group in groups], np.int64)
    counted = [np.bincount(at, np.asarray(values), len(names)).astype(np.int64) for values in (errors, totals)]
    return Errors(tuple(names), *counted, normaliser=unit)


def balanced(labels: Sequence[str], answers: Sequence[str]) -> float:
    """Return the mean over classes of the share of their clips that are recognised."""
    right = np.array([label == answer for label, answer in zip(labels, answers, strict=True)], float)
    names = np.array(labels)
    return float(np.mean([right[names == name].mean() for name in sorted(set(labels))]))


def character_errors(texts: Sequence[str], answers: Sequence[str]) -> list[int]:
    """Return the edits between each text and its answer, character by character."""
    return [Levenshtein.distance(text, answer) for text, answer in zip(texts, answers, strict=True)]


def word_errors(texts: Sequence[str], answers: Sequence[str]) -> list[int]:
    """Return the edits between each text and its answer, word by word."""
    return [Levenshtein.distance(text.split(), answer.split()) for text, answer in zip(texts, answers, strict=True)]


def eer(scores: np.ndarray, same: np.ndarray) -> float:
    """Return the equal error rate: where as many true trials are missed as false ones are accepted.

    Between the two scores at which the rates cross, both are taken to be linear.

    Args:
        scores: of trials, higher for the same voice, ``[n]``.
        same: whether the voices are the same, ``[n]``.

    Raises:
        ScoringError: there are no trials of one kind.
    """
    _, place = np.unique(scores, return_inverse=True)
    return _eer(np.bincount(place, same), np.bincount(place, ~same))


def _eer(true: np.ndarray, false: np.ndarray) -> float:
    """Return the equal error rate, given the true and the false trials counted by their scores, from the lowest up."""
    if not true.sum() or not false.sum():
        raise ScoringError(
            "an equal error rate needs trials of the same voice and of different voices; one kind lacks."
        )
    miss = np.concatenate([[0.0], np.cumsum(true) / true.sum()])
    alarm = 1.0 - np.concatenate([[0.0], np.cumsum(false) / false.sum()])
    after = int(np.argmax(miss >= alarm))
    gap, next_gap = alarm[after - 1] - miss[after - 1], miss[after] - alarm[after]
    return float(miss[after - 1] + (miss[after] - miss[after - 1]) * gap / (gap + next_gap))


@dataclass(frozen=True, eq=False)
class Trials:
    """All pairs of the clips of some voices but those of one recording, and how alike they are.

    Attributes:
        pairs: numbers of the two clips, ``[n, 2]``.
        scores: ``[n]``.
        same: whether both are of one voice, ``[n]``.
        voices: of each clip.
    """

    pairs: np.ndarray
    scores: np.ndarray
    same: np.ndarray
    voices: tuple[str, ...]

    @property
    def rate(self) -> float:
        """The equal error rate."""
        return eer(self.scores, self.same)

    def resampled(self, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
        """Return equal error rates of redrawn voices, of each of which the clips are redrawn: ``[draws]``.

        The same seed redraws the same clips for every system. A clip is never paired with itself; a draw without pairs
        of one kind gives no number.
        """
        return _resampled(self, draws, seed)


@functools.lru_cache(maxsize=512)  # a system is compared with several others
def _resampled(found: Trials, draws: int, seed: int) -> np.ndarray:
    order = np.argsort(found.scores, kind="stable")
    first, second, same = found.pairs[order, 0], found.pairs[order, 1], found.same[order]
    place = np.cumsum(np.concatenate([[True], np.diff(found.scores[order]) > 0])) - 1
    rates = np.full(draws, np.nan)
    for number, counts in enumerate(_redrawn(found.voices, draws, seed)):
        weights = counts[first] * counts[second]
        true, false = (np.bincount(place, weights * kind) for kind in (same, ~same))
        if true.sum() and false.sum():
            rates[number] = _eer(true, false)
    return rates


def trials(embeddings: np.ndarray, voices: Sequence[str], recordings: Sequence[str]) -> Trials:
    """Compare all clips by the cosine of their embeddings, ``[clips, D]`` of length 1."""
    first, second = np.triu_indices(len(voices), 1)
    where, who = np.array(recordings), np.array(voices)
    apart = where[first] != where[second]
    first, second = first[apart], second[apart]
    scores = np.einsum("nd,nd->n", embeddings[first], embeddings[second])
    return Trials(np.stack([first, second], 1), scores, who[first] == who[second], tuple(voices))


@functools.lru_cache(maxsize=8)  # the same for all systems
def _redrawn(voices: tuple[str, ...], draws: int, seed: int) -> list[np.ndarray]:
    """Return how often each clip is drawn, draw by draw: voices with replacement, then clips of each."""
    generator = np.random.default_rng([seed, len(voices)])
    names = sorted(set(voices))
    clips = [np.flatnonzero(np.array(voices) == name) for name in names]
    found = []
    for _ in range(draws):
        counts = np.zeros(len(voices))
        for voice in generator.integers(0, len(names), len(names)):
            drawn = generator.integers(0, len(clips[voice]), len(clips[voice]))
            np.add.at(counts, clips[voice][drawn], 1)
        found.append(counts)
    return found


def late(log_probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Return the average of several systems' log-probabilities: what fusing inside must beat."""
    return np.mean(list(log_probabilities), axis=0)


def measured(task: Task, fold: Sequence[Example], answers: Answers) -> "Errors | Trials":
    """Return the errors of answers by recording, or all trials of a verification.

    Args:
        task: that was answered.
        fold: the examples.
        answers: to each: its class, its text, or its embedding.
    """
    labels, recordings = [one.label for one in fold], [one.recording for one in fold]
    if len(answers) != len(fold):
        raise ScoringError(f"task {task.name!r}: {len(answers)} answers to {len(fold)} clips; score all of them.")
    if task.kind == "verification":
        return trials(np.asarray(answers), labels, recordings)
    if task.kind == "characters":
        return by_recording(recordings, character_errors(labels, answers), list(map(len, labels)), "characters")
    return by_recording(recordings, [a != b for a, b in zip(labels, answers, strict=True)], [1] * len(fold), "clips")


def samples(found: Sequence["Errors | Trials"]) -> np.ndarray:
    """Return bootstrap rates of a system over all folds: recordings are pooled, equal error rates averaged."""
    if isinstance(found[0], Trials):
        drawn = np.mean([one.resampled(seed=fold) for fold, one in enumerate(found)], axis=0)
        return drawn[np.isfinite(drawn)]  # which draws have none is the same for every system
    return resampled_rates(found)


def rate(found: Sequence["Errors | Trials"]) -> float:
    """Return the error of a system over all folds."""
    if isinstance(found[0], Trials):
        return float(np.mean([one.rate for one in found]))
    return float(sum(one.errors.sum() for one in found) / max(1, sum(one.words.sum() for one in found)))


def summary(task: Task, folds: Sequence[Fold], answers: Sequence[Answers]) -> dict:
    """Return what a system's answers to the test clips of all folds amount to, with a 95 % interval.

    Args:
        task: that was answered.
        folds: test examples alone.
        answers: to the examples of each fold, as :func:`measured` takes them.
    """
    found = [measured(task, fold, own) for fold, own in zip(folds, answers, strict=True)]
    low, high = interval(samples(found))
    row = {"metric": task.metric, "error": rate(found), "ci_low": low, "ci_high": high}
    row |= {"n_clips": sum(map(len, folds)), "n_recordings": len({one.recording for fold in folds for one in fold})}
    labels = [one.label for fold in folds for one in fold]
    if task.kind == "classes":
        flat = [answer for own in answers for answer in own]
        row |= {"accuracy": 1 - row["error"], "balanced": balanced(labels, flat), "classes": len(set(labels))}
    if task.kind == "characters":
        flat = [answer for own in answers for answer in own]
        row["wer"] = sum(word_errors(labels, flat)) / max(1, sum(len(text.split()) for text in labels))
    return row


def difference(first: Sequence["Errors | Trials"], second: Sequence["Errors | Trials"]) -> Comparison:
    """Compare two systems on the same clips, fold by fold: the first's error minus the second's.

    Raises:
        ScoringError: they were tested on other clips.
    """
    for one, other in zip(first, second, strict=True):
        if isinstance(one, Trials):
            if one.voices != other.voices or len(one.pairs) != len(other.pairs):
                raise ScoringError("the systems were not tested on the same trials; test both on the same clips.")
        else:
            check_alike(one, other)
    return comparison(rate(first) - rate(second), samples(first) - samples(second))
