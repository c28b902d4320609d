"""What a tuning found in plain numbers: systems on the clips that report, with intervals and paired differences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..corpora import Clip
from ..evaluation import scoring
from ..evaluation.resampling import comparison, interval, resampled_rates
from .choosing import Choice
from .ear import error
from .lab import Lab
from .speech import REPORT
from .systems import AVERAGE, BASE, System

WORST = 3  # clips of each speech that are shown


def systems(lab: Lab, choice: Choice, joint: System | None) -> list[System]:
    """Return the systems that are heard on the clips that report, the chosen merge last."""
    experts = [lab.expert(number) for number in range(len(lab.experts))]
    chosen = System("chosen merge", merge=choice.chosen.system.merge)
    return [BASE, *experts, AVERAGE, *([joint] if joint else []), chosen]


def heard_by(system: System, lab: Lab, crossed: bool) -> list[int]:
    """Return the speech a system is heard on: an expert, if time is short, on its own alone."""
    every = range(len(lab.speeches))
    return [i for i in every if crossed or system.expert is None or lab.speeches[i].expert == system.expert]


def table(lab: Lab, heard: Sequence[System], crossed: bool, seed: int) -> tuple[list[dict[str, Any]], dict]:
    """Decode what reports; return a row for each system and speech, and bootstrap samples of the errors.

    Returns:
        Rows with ``system, speech, error, low, high, wer | chrf, runaway, clips, words``; ``error`` is the capped word
        error rate or 1 - chrF, as a fraction; and samples ``[R]`` by system's name and number of the speech.
    """
    rows, samples = [], {}
    for system in heard:
        places = heard_by(system, lab, crossed)
        lab.listen(system, places, REPORT)
        for i in places:
            one, scores = lab.speeches[i], lab.scores(system, i, REPORT)
            drawn = resampled_rates([scores], seed=seed, places=[i])
            drawn = 1 - drawn if one.task == "st" else drawn
            rate = error(scores, one.task)
            samples[system.name, i] = (rate, drawn)
            low, high = interval(drawn)
            row = {"system": system.name, "speech": one.name, "error": rate, "low": low, "high": high}
            predictions = lab.hear(system, i, REPORT)
            whole = scoring.score(predictions, one.report, one.language, one.task)
            row |= {"chrf": whole.chrf / 100, "bleu": whole.bleu / 100} if one.task == "st" else {"wer": whole.wer}
            words = whole.words if one.task == "st" else whole.words.sum()
            rows.append(row | {"runaway": int(whole.runaway), "clips": len(one.report), "words": int(words)})
    return rows, samples


def means(samples: dict, groups: dict[str, Sequence[int]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return each system's mean error over groups of speech, each speech counting alike, with intervals."""
    rows = []
    for name in names:
        for group, places in groups.items():
            if places and all((name, i) in samples for i in places):
                rate = float(np.mean([samples[name, i][0] for i in places]))
                low, high = interval(np.mean([samples[name, i][1] for i in places], axis=0))
                rows.append({"system": name, "group": group, "error": rate, "low": low, "high": high})
    return rows


def own_experts(lab: Lab, samples: dict, names: Sequence[str]) -> dict:
    """Return the samples of the system made of every expert on its own speech, by number of the speech."""
    return {i: samples[names[one.expert], i] for i, one in enumerate(lab.speeches) if one.expert is not None}


def paired(samples: dict, lab: Lab, chosen: str, against: dict[str, dict]) -> list[dict[str, Any]]:
    """Compare the chosen merge with others on the same clips, speech by speech and over the speech both were heard on.

    Args:
        samples: as :func:`table` returns them.
        lab: of the tuning.
        chosen: its name.
        against: by name, samples by number of the speech.

    Returns:
        Rows with ``against, speech, difference, low, high, p``; ``speech`` is ``None`` for the mean.
    """
    rows = []
    for name, other in against.items():
        each = {i: (samples[chosen, i][0] - rate, samples[chosen, i][1] - drawn) for i, (rate, drawn) in other.items()}
        every = (np.mean([d for d, _ in each.values()]), np.mean([s for _, s in each.values()], axis=0))
        told = [(lab.speeches[i].name, *found) for i, found in each.items()] + [(None, *every)]
        for speech, difference, drawn in told:
            found = comparison(float(difference), drawn)
            row = {"against": name, "speech": speech, "difference": found.difference}
            rows.append(row | {"low": found.ci_low, "high": found.ci_high, "p": found.p_value})
    return rows


def worst(lab: Lab, chosen: System) -> list[dict[str, Any]]:
    """Return the clips that report on which the chosen merge errs most, with what base and own expert heard."""
    rows = []
    for i, one in enumerate(lab.speeches):
        texts = {clip.id: (clip.translation if one.task == "st" else clip.text) for clip in one.report}
        clips: dict[str, Clip] = {clip.id: clip for clip in one.report}
        before = {p.id: p.text for p in lab.hear(BASE, i, REPORT)}
        own = None if one.expert is None else lab.expert(one.expert)
        expert = {p.id: p.text for p in lab.hear(own, i, REPORT)} if own else {}
        after = {p.id: p for p in lab.hear(chosen, i, REPORT)}
        wrong = {name: _wrong(after[name], clips[name], one) for name in texts}
        for name in sorted(wrong, key=lambda n: (-wrong[n], n))[:WORST]:
            if wrong[name] > 0:
                row = {"speech": one.name, "clip": name, "reference": texts[name], "errors": wrong[name]}
                row |= {"base": before[name], "expert": expert.get(name), "chosen": after[name].text}
                rows.append(row | {"runaway": after[name].runaway})
    return rows


def _wrong(prediction, clip: Clip, speech) -> float:
    """Return the errors of one clip: words, uncapped, or 1 - chrF."""
    scores = scoring.score([prediction], [clip], speech.language, speech.task)
    return round(1 - scores.chrf / 100, 3) if speech.task == "st" else int(scores.errors.sum())
