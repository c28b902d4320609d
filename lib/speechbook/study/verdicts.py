"""Comparisons by the protocol: of every pair of systems that an experiment compares, with a verdict.

The claim that is judged is that the system is better than the one it is compared with. Verdict and p-value are those of
the widened samples, where the deviation between seeds is known (:mod:`.measures`). In experiments on domains the test
of matched pairs (:mod:`speechmerge.evaluation.mapsswe`) stands beside the bootstrap of word error rates.
"""

import functools
import math
from collections.abc import Iterator, Mapping

import numpy as np

from speechmerge.evaluation import inference
from speechmerge.evaluation.mapsswe import error_places, mapsswe, segmented
from speechmerge.evaluation.resampling import comparison
from speechmerge.text import normalise

from . import comparisons, measures
from .measures import Model, Sampled, Table, rounded
from .plans import Cell
from .protocol import METRICS

IDENTITY = (*measures.IDENTITY, "against", "against_variant")
UNTESTABLE = "not testable here"


def rows(table: Table) -> tuple[list[dict], list[dict]]:
    """Return a table's measures and comparisons; error rates are fractions, chrF and BLEU 0 to 100."""
    measured, compared, places = [], [], functools.cache(functools.partial(_places, table))
    on_domains = table.plan.experiment.languages == "domains"
    for place, kept in table.slices():
        found = {model: table.sampled(model, place["task"], place["metric"], kept) for model in table.said}
        measured += table.measures(place, found, kept)
        for model, other, one_by_one in _pairs(table):
            for group, own, against in _groups(found, model, other, one_by_one):
                row = {"system": model[0], "variant": model[1], "against": other[0], "against_variant": other[1]}
                row |= {"group": group, **place} | _judged(table, place, (model, own), (other, against))
                if place["metric"] == "wer" and place["clips"] == measures.ALL and on_domains:
                    row |= _matched_pairs([(places(model, cell), places(other, cell)) for cell in own.cells])
                compared.append(row)
    return measured, compared


def _pairs(table: Table) -> Iterator[tuple[Model, Model, bool]]:
    """Yield the pairs that the experiment compares, and whether they are compared cell by cell too."""
    single = table.plan.experiment.by_language
    for system, variant in table.said:
        named = [other[:2] for _, _, other in comparisons.others(table.plan, (system, variant, 0))]
        if single not in (None, system):
            named.append((single, variant))
        yield from (((system, variant), other, other[0] == single) for other in dict.fromkeys(named))


def _groups(
    found: Mapping[Model, Mapping[str, Sampled]], model: Model, other: Model, one_by_one: bool
) -> Iterator[tuple[str, Sampled, Sampled]]:
    """Yield the groups that both models were tested on: single cells only where pairs are compared cell by cell."""
    others = found.get(other, {})
    for name, own in found[model].items():
        single = name == own.cells[0].name
        if name in others and own.cells == others[name].cells and (one_by_one or not single):
            yield name, own, others[name]


def _judged(table: Table, place: dict, first: tuple[Model, Sampled], second: tuple[Model, Sampled]) -> dict:
    """Compare two models on a group of cells; the other way round everything is the exact opposite."""
    (model, own), (other, against) = first, second
    samples, sign = own.samples - against.samples, 1 if model < other else -1
    wide = table.widened(sign * samples, place, own.cells, model, other)
    wide = None if wide is None else sign * wide
    last = samples if wide is None else wide
    higher, margin = METRICS[place["task"]][place["metric"]], table.rules.margin(place["metric"])
    untestable = place["task"] in table.rules.below_the_floor.get(table.plan.experiment.languages, ())
    return {
        "difference": rounded(own.value - against.value),
        "by_seed": [rounded(a - b) for a, b in zip(own.by_seed, against.by_seed, strict=True)],
        **measures.intervals(samples, wide),
        "p_value": rounded(comparison(0.0, last).p_value),
        "verdict": UNTESTABLE if untestable else inference.verdict(last, "higher" if higher else "lower", margin),
        "margin": margin,
        "seeds": list(table.seeds),
    }


def _places(table: Table, model: Model, cell: Cell) -> np.ndarray:
    """Return where a model errs, with the first seed."""
    said, language = table.said[model][0][cell], cell.language
    references = [normalise(clip.text, language) for clip in table.clips[cell]]
    return error_places(references, [normalise(one.text, language) for one in said])


def _matched_pairs(places: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    """Test two models on all segments of several cells."""
    found = mapsswe(np.concatenate([segmented(*pair) for pair in places]))
    z = rounded(found.z) if math.isfinite(found.z) else None
    return {"segments": found.segments, "z": z, "mapsswe_p": rounded(found.p_value)}
