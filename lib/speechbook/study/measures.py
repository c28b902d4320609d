"""What the protocol judges by: every metric of every system, on all clips and on novel ones, with intervals.

For each task, group of cells, kind of clips and metric. The groups are the table's own cells, those that the experiment
names, all others that a system is tested on where languages are compared one by one, and every single cell. Novel clips
are those whose text is less similar to every training text than the protocol says.

All systems of a table share the draws of one bootstrap: over clips and, where the protocol asks for several training
seeds, over these too. With one seed an interval knows nothing of training; beside it stands one that is widened by what
seeds did in the experiments that have several (:func:`spread`), once these are measured.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from speechmerge.corpora import Clip
from speechmerge.evaluation import inference, scoring
from speechmerge.evaluation.predictions import Prediction
from speechmerge.evaluation.resampling import interval
from speechmerge.evaluation.scoring import Scores
from speechmerge.text import normalise

from . import store
from .comparisons import OTHERS
from .kept import Kept
from .plans import Cell
from .protocol import ALL, NOVEL, OWN, Protocol

log = logging.getLogger(__name__)

IDENTITY = ("system", "variant", "task", "group", "clips", "metric")
DIGITS = 6  # behind the point

Model = tuple[str, str]  # system and variant, whatever the seed
Said = Mapping[Cell, Sequence[Prediction]]
Counting = Mapping[Cell, np.ndarray]  # which clips of a cell count, [n]; a cell without any is left out
Spread = Mapping[tuple[str, str, bool, int], float]  # see spread


@dataclass(frozen=True, eq=False)
class Sampled:
    """A model's metric on a group of cells, in the metric's unit: each seed's value, and bootstrap samples ``[R]``."""

    cells: tuple[Cell, ...]
    by_seed: tuple[float, ...]
    samples: np.ndarray

    @property
    def value(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.by_seed))


class Table:
    """The models of an experiment that were tested with all seeds of the protocol, counted by every metric."""

    def __init__(self, kept: Kept, rules: Protocol) -> None:
        """Count what the systems said."""
        self.plan, self.clips, self.rules = kept.plan, kept.clips, rules
        self.seeds = rules.seeds_of(self.plan.name)
        self.method = {(s.system, s.variant): s.method for s in self.plan.systems}
        self.said = dict(self._complete(kept.predictions))
        self.scores = {
            model: [{cell: _by_metric(cell, self.clips[cell], own) for cell, own in one.items()} for one in seeds]
            for model, seeds in self.said.items()
        }
        self.words = {cell: np.array([_words(cell, clip) for clip in clips]) for cell, clips in self.clips.items()}
        self.runaway = {
            model: {cell: sum(np.array([p.runaway for p in one[cell]], int) for one in seeds) for cell in seeds[0]}
            for model, seeds in self.said.items()
        }
        self.spread = spread(self.plan.profile, rules) if len(self.seeds) == 1 else {}

    def _complete(self, said: Sequence[Said]) -> Iterator[tuple[Model, list[Said]]]:
        """Yield each model's predictions, seed by seed; one without training says the same with each."""
        found: dict[Model, dict[int, Said]] = defaultdict(dict)
        for system, own in zip(self.plan.systems, said, strict=True):
            ordered = {cell: scoring.match(one, self.clips[cell]) for cell, one in own.items()}
            found[system.system, system.variant][system.seed] = ordered
        for model, by_seed in found.items():
            if not self.trained(model):
                by_seed = dict.fromkeys(self.seeds, next(iter(by_seed.values())))
            if missing := [seed for seed in self.seeds if seed not in by_seed]:
                name = " ".join(filter(None, model))
                log.warning("%s: %s is not measured with the seeds %s yet", self.plan.name, name, missing)
            else:
                yield model, [by_seed[seed] for seed in self.seeds]

    def trained(self, model: Model) -> bool:
        """Tell whether a model depends on the training seed."""
        return self.method[model] != "none"

    def slices(self) -> Iterator[tuple[dict, Counting]]:
        """Yield task, kind of clips and metric of what is judged together, and the clips that count."""
        novel = {
            cell: np.array([c.similarity is not None and c.similarity < self.rules.splits.novel for c in clips], bool)
            for cell, clips in self.clips.items()
        }
        for clips, kept in ((ALL, {cell: np.ones(len(own), bool) for cell, own in novel.items()}), (NOVEL, novel)):
            kept = {cell: own for cell, own in kept.items() if own.any()}
            for task in dict.fromkeys(cell.task for cell in kept):
                metrics = self.rules.metrics[task]
                for metric in (metrics.primary, *metrics.secondary):
                    yield {"task": task, "clips": clips, "metric": metric}, kept

    def groups(self, model: Model, task: str) -> dict[str, tuple[Cell, ...]]:
        """Return the groups of a task's cells that a model was tested on whole."""
        tested = [cell for cell in self.said[model][0] if cell.task == task]
        found = {OWN: [cell for cell in tested if cell in self.plan.cells], **self.plan.groups}
        if self.plan.experiment.by_language:
            found[OTHERS] = [cell for cell in tested if cell in self.plan.also]
        found = {name: tuple(cell for cell in cells if cell.task == task) for name, cells in found.items()}
        found |= {cell.name: (cell,) for cell in tested}
        return {name: cells for name, cells in found.items() if cells and set(cells) <= set(tested)}

    def sampled(self, model: Model, task: str, metric: str, kept: Counting) -> dict[str, Sampled]:
        """Return a model's metric on every group whose cells all have clips that count."""
        unit, macro, found = 100 if task == "st" else 1, metric == "macro_wer", {}
        cells = tuple(cell for cell in dict.fromkeys((*self.plan.cells, *self.plan.also)) if cell.task == task)
        seeds = [
            {cell: by[metric].only(kept[cell]) for cell, by in own.items() if cell.task == task and cell in kept}
            for own in self.scores[model]
        ]
        if not self.trained(model):
            seeds = [seeds[0]] * len(seeds)  # the same scores, redrawn once
        for name, group in self.groups(model, task).items():
            if all(cell in kept for cell in group):
                own = [{cell: scores[cell] for cell in group} for scores in seeds]
                rate, samples = inference.Bootstrap(cells, len(own), macro).rate(own)
                single = inference.Bootstrap(cells, macro=macro)
                rates = [single.rate([scores])[0] for scores in own] if len(own) > 1 else [rate]
                found[name] = Sampled(group, tuple(unit * one for one in rates), unit * samples)
        return found

    def measures(self, place: dict, found: Mapping[Model, dict[str, Sampled]], kept: Counting) -> Iterator[dict]:
        """Yield a row for each model and group."""
        for model, by_group in found.items():
            for group, own in by_group.items():
                row = {"system": model[0], "variant": model[1], "method": self.method[model], "group": group, **place}
                row |= {"value": rounded(own.value), "by_seed": list(map(rounded, own.by_seed))}
                row |= intervals(own.samples, self.widened(own.samples, place, own.cells, model))
                row |= {"seeds": list(self.seeds), "n_cells": len(own.cells)}
                row |= {
                    name: int(sum(many[cell][kept[cell]].sum() for cell in own.cells))
                    for name, many in (("n_clips", kept), ("n_words", self.words), ("runaway", self.runaway[model]))
                }
                yield row

    def widened(self, samples: np.ndarray, place: dict, cells: Sequence[Cell], *models: Model) -> np.ndarray | None:
        """Widen samples of a model's value, or of a difference of two; None where it is not known by how much.

        Where two models differ on no clip, they are taken for one, whatever the seed.
        """
        kind = place["metric"], place["clips"], len(cells) > 1, sum(map(self.trained, models))
        if kind not in self.spread:
            return None
        return samples if len(models) > 1 and not samples.any() else inference.widened(samples, self.spread[kind])


def spread(profile: str, rules: Protocol) -> Spread:
    """Return the standard deviations between training seeds in the experiments that have several.

    They come from the experiment with the most seeds, by metric, kind of clips, whether cells are averaged, and how
    many trained models a number is about: 1 for a value (or its difference from a model without training), 2 for a
    difference. What was not measured yet is missing.
    """
    by_place, found = defaultdict(list), defaultdict(list)
    most = max(rules.seeds, key=lambda name: len(rules.seeds[name]))
    for row in store.lines(profile, f"{most}.measures"):
        if row["method"] != "none" and len(row["seeds"]) > 1:
            kind = row["metric"], row["clips"], row["n_cells"] > 1
            by_place[row["variant"], row["group"], *kind].append(row["by_seed"])
    for (*_, metric, clips, several), values in by_place.items():
        found[metric, clips, several, 1] += values
        found[metric, clips, several, 2] += [np.subtract(a, b) for a, b in combinations(values, 2)]
    return {kind: inference.seed_deviation(np.array(values)) for kind, values in found.items() if len(values)}


def intervals(samples: np.ndarray, wide: np.ndarray | None) -> dict:
    """Return the ends of the interval of samples, and of that of widened ones, if there are any."""
    ends = (*interval(samples), *((None, None) if wide is None else interval(wide)))
    fields = ("ci_low", "ci_high", "wide_low", "wide_high")
    return {name: None if end is None else rounded(end) for name, end in zip(fields, ends, strict=True)}


def rounded(number: float) -> float:
    """Round to :data:`DIGITS`: what another computer does differently lies beyond."""
    return round(float(number), DIGITS) + 0.0  # no minus in front of zero


def _by_metric(cell: Cell, clips: Sequence[Clip], said: Sequence[Prediction]) -> dict[str, Scores]:
    """Score a cell's predictions in every way that the protocol may name."""
    plain = scoring.score(said, clips, cell.language, cell.task)
    if cell.task == "st":
        return {"bleu": plain, "chrf": plain.by_chrf()}
    own = {"wer": plain, "macro_wer": plain, "capped_wer": plain.capped()}
    return own | {"spelled_wer": scoring.spelled(plain, said, clips, cell.language)}


def _words(cell: Cell, clip: Clip) -> int:
    """Count the words of a reference, as rows do."""
    return len((clip.translation if cell.task == "st" else normalise(clip.text, cell.language)).split())
