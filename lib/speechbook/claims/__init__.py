"""Every claim of the papers, put to a test that reads the committed rows: the verdicts of the claims page.

:data:`TESTS` says which tests a claim must pass; its text and the published numbers are in
``experiments/published/claims.csv``. A claim that needs rows nobody has made yet is *not run here*; one that no
experiment of the book is about is *not testable here*, with the reason.
"""

import html
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from speechmerge.errors import StudyError, nearest

from ..study import fusion_planning, protocol, store
from ..study.experiments import settings_of
from ..tables import evidence
from ..tables.results import joined
from . import curves, fusing, measures
from .parts import EQUIVALENT, FAILS, HOLDS, MARKS, NOT_RUN, NOT_TESTABLE, OPEN, SAME, VERDICTS, Part, lines, verdict
from .results import Judged, NotRunError, NotTestableError, Results

BASE, EXPERT, JOINT, MULTI_TASK = "Pretrained", "Finetuned", "Multi-lingual training", "Multi-task training"
WA, TA, MP, SVP, LORS = "Weight Averaging", "Task Arithmetic", "MP-Merging", "SVP-Merging", "LoRS-Merging"
ALL, ALL_TA, ALL_LORS = "ML and MT training", "ML and MT Task Arithmetic", "ML and MT LoRS-Merging"
MT, MT_TA, MT_LORS = "MT training", "MT training + ML Task Arithmetic", "MT training + ML LoRS-Merging"
ML, ML_TA, ML_LORS = "ML training", "ML training + MT Task Arithmetic", "ML training + MT LoRS-Merging"
TASKS = ("asr", "st")
ZERO, FULL, OWN = "Zero-shot", "Full-FT", "Own expert"
TSVM, BOOSTED = "TSV-M (Newton-Schulz)", "BoostedTSV-M"
WEIGHTS = ("Model Soups", "Model Stock", "Karcher", "Multi-SLERP")
VECTORS = ("Task Arithmetic", "TIES", "PCB", "SCE")
SUBSPACE = ("TSV-M (Procrustes)", TSVM, BOOSTED, "Iso-C", "Iso-CTS")
INSIDE, OUTSIDE, KEPT = "in domain", "out of domain", ("other English", "other languages")
TRAINED = "trained languages"
TABLE4 = (BASE, EXPERT, ALL, ALL_TA, ALL_LORS, MT, MT_TA, MT_LORS, ML, ML_TA)
LAYERS = ("fusion_layers", "fusion_words")

Test = tuple[Callable[..., list[Part]], ...]


def _beats(experiment: str, system: str, rivals: Sequence[str], tasks: Sequence[str] = ("asr",)) -> list[Test]:
    """Tests that a system is better than each of its rivals in each task."""
    return [(measures.paired, experiment, system, rival, task) for task in tasks for rival in rivals]


def _equals(experiment: str, system: str, other: str, tasks: Sequence[str] = TASKS) -> list[Test]:
    """Tests that two systems differ by less than the margin in each task."""
    return [(measures.paired, experiment, system, other, task, "equal") for task in tasks]


TESTS: dict[str, list[Test]] = {
    "L1": [*_beats("table1", TA, [JOINT]), *_beats("table1", LORS, [JOINT])],
    "L2": _beats("table1", LORS, [WA, TA, MP, SVP]),
    "L3": _beats("table1", LORS, [EXPERT]),
    "L4": _beats("table1", TA, [WA]),
    "L5": [*_beats("table1", MP, [SVP]), *_beats("table2", MP, [SVP], ["st"])],
    "L6": _beats("table2", LORS, [JOINT, WA, TA, MP, SVP], ["st"]),
    "L7": [
        (measures.correlation, ["table1", "table7"], [EXPERT, JOINT], BASE),
        (measures.worse_somewhere, ["table1", "table7"], JOINT, BASE),
    ],
    "L8": _beats("table3", LORS, [EXPERT], TASKS),
    "L9": [(measures.gain_by_task, "table3", LORS, EXPERT)],
    "L10": [
        *_equals("table3", MULTI_TASK, EXPERT, ["asr"]),
        (measures.paired, "table3", MULTI_TASK, EXPERT, "st", "worse"),
    ],
    "L11": _equals("table4", ALL, BASE),
    "L12": _equals("table4", ALL_LORS, EXPERT),
    "L13": _beats("table4", ML_LORS, TABLE4, TASKS),
    "L14": [(measures.relative, "table4", [ALL_LORS, MT_LORS, ML_LORS], ALL, "asr", 10)],
    "L15": [(measures.relative, "table4", [ALL_LORS, MT_LORS, ML_LORS], ALL, "st", 4)],
    "L16": [(curves.trend, "figure3", system) for system in (TA, LORS)],
    "L17": [(curves.paired_by_size, "figure3", LORS, TA)],
    "L18": [(curves.step_worse, "figure4", JOINT, TASKS)],
    "L19": [(curves.trend, "figure4", system, EXPERT, task) for task in TASKS for system in (TA, LORS)],
    "L20": [(curves.pruning, "figure5", method) for method in ("MP", "SVP")],
    "L21": [(curves.pruning_trend, "figure5", method) for method in ("MP", "SVP")],
    "L22": [(curves.pruning_more, "figure5", ("MP", "asr"), ("SVP", "asr"))],
    "L23": [(curves.pruning_more, "figure5", (method, "asr"), (method, "st")) for method in ("MP", "SVP")],
    "B1": [(measures.paired, "domains", FULL, ZERO, "asr", "worse", group) for group in KEPT],
    "B2": [(measures.best, "domains", SUBSPACE, [*WEIGHTS, *VECTORS], INSIDE)],
    "B3": [(measures.best, "domains", WEIGHTS, [*SUBSPACE, *VECTORS], group) for group in KEPT],
    "B4": [(measures.paired, "domains", BOOSTED, TSVM, "asr", "better", INSIDE)],
    "B5": [(measures.paired, "domains", BOOSTED, TSVM, "asr", "worse", group) for group in KEPT],
    "B6": [(measures.paired, "domains", BOOSTED, FULL, "asr", "better", "full average")],
    "B7": [(measures.paired, "domains", system, FULL, "asr", "better", OUTSIDE) for system in (TSVM, BOOSTED)],
    "B8": [
        (measures.swept, "beta", "kept values", TSVM, INSIDE, "better"),
        (measures.swept, "beta", "kept values", TSVM, OUTSIDE, "worse"),
    ],
    "B9": [
        (measures.swept, "rank", "Procrustes", "Procrustes rank_ratio=0.5", INSIDE, "worse", True),
        (measures.swept, "rank", "Newton-Schulz", "Newton-Schulz rank_ratio=0.5", INSIDE, "equal", True),
    ],
    "B10": [(measures.paired, "domains", "TIES", ZERO, "asr", "worse", "other English")],
    "G1": [(measures.paired, "every_method", "Learned average", "Model Soups", "asr", "better", TRAINED, 1)],
    "G2": [(measures.relative, "every_method", ["Fisher"], "Model Soups", "asr", 2, TRAINED)],
    "G3": [(measures.paired, "every_method", "RegMean", JOINT, "asr", "equal", TRAINED)],
    "F1": [(fusing.reduction, LAYERS, "hconv", "ws")],
    "F1b": [(fusing.reduction, LAYERS, "hconv", control) for control in ("mlp", "hlinear")],
    "F2": [(fusing.pair_beats_one, "fusion_pairs")],
    "F3": [(fusing.which_over_how_many, "fusion_growing", "chconv")],
    "F5": [(fusing.reduction, "fusion_sizes", "hconv", "ws", [letter]) for letter in "TB"],
    "F6": [(fusing.weakest, "fusion_pairs", "gumd", "ws", task) for task in ("voice-verify", "voice-id")],
    "F7": [(fusing.equal, "fusion_pairs", "hconv_add", "chconv")],
}
OLDER = "older measurement"
FUSION = "F"  # begins claims about fused frozen models
ABSENT = {  # verdict and reason of claims without a test, by the letter they begin with
    "G": (NOT_TESTABLE, "that something may not help is nothing a measurement could deny"),
    FUSION: (NOT_TESTABLE, "no self-supervised model is among the upstreams that are had without a hub"),
}


@dataclass(frozen=True)
class Table:
    """A table of claims as HTML: long sentences, several lines a cell."""

    frame: pd.DataFrame

    def _repr_html_(self) -> str:
        looks = {"index": False, "escape": False, "border": 0, "justify": "left", "classes": "claims"}
        return self.frame.to_html(formatters=dict.fromkeys(self.frame, _lines), **looks)


def _lines(text: str) -> str:
    """Return the lines of a cell, marked as what they are, a verdict or a part of one, for the style sheet."""
    kinds = dict.fromkeys(VERDICTS, "verdict") | dict.fromkeys((*MARKS.values(), SAME), "part")
    marked = [(kinds.get(line) or kinds.get(line[:1]), line) for line in text.split("\n")]
    return "".join(f'<div class="{kind or "line"}">{html.escape(line)}</div>' for kind, line in marked)


def experiments() -> list[str]:
    """Return the names of the experiments that tests read, in the order of the claims."""
    named = [first for tests in TESTS.values() for _, first, *_ in tests]
    return list(dict.fromkeys(name for names in named for name in ([names] if isinstance(names, str) else names)))


def results(profile: str, clips: str = evidence.ALL) -> Results:
    """Return the results of a profile as the tests read them; only those of the protocol know novel clips."""
    if profile in fusion_planning.profiles() or not protocol.governs(settings_of(profile)):
        return Results(profile)
    return Judged(profile, clips)


def measure(results: Results, claim: str) -> tuple[str, list[str]]:
    """Return the verdict on a claim and what was measured, line by line."""
    if claim not in TESTS:
        found, reason = ABSENT[claim[0]]
        return found, [reason]
    try:
        parts = [part for test, *arguments in TESTS[claim] for part in test(results, *arguments)]
    except NotTestableError as error:
        return NOT_TESTABLE, [str(error)]
    except NotRunError as error:
        return NOT_RUN, [str(error)]
    return verdict(parts), lines(parts)


def verdicts(
    profile: str, ids: Sequence[str] | None = None, *, clips: str = evidence.ALL, before: str | None = None
) -> pd.DataFrame:
    """Return one line a claim: ``id, place, claim, published, measured, verdict, older``, whether older rows decide it.

    Args:
        profile: whose committed results are asked.
        ids: of the claims, in order; ``"L"`` stands for all that begin so. None: all claims.
        clips: ``all`` or ``novel``, where the profile is measured by the protocol.
        before: profile with the rows there were, which is asked where the first one has not been measured.

    Raises:
        StudyError: there is no such claim.
    """
    known = pd.read_csv(store.project_root() / "experiments" / "published" / "claims.csv").set_index("id")
    wanted = []
    for name in known.index if ids is None else ids:
        chosen = [name] if name in known.index else [claim for claim in known.index if claim[0] == name]
        if not chosen:
            raise StudyError(f"there is no claim {name!r}.{nearest(name, known.index)}")
        wanted += chosen
    read = results(profile, clips)
    found = [measure(read, claim) for claim in wanted]
    table = known.loc[wanted, ["place", "claim", "published"]].reset_index()
    table = table.assign(measured=["\n".join(told) for _, told in found], verdict=[what for what, _ in found])
    older = (table["verdict"] == NOT_RUN) & (before is not None)
    if older.any():
        table.loc[older, ["measured", "verdict"]] = verdicts(before, table["id"][older])[["measured", "verdict"]].values
    return table.assign(older=older & (table["verdict"] != NOT_RUN))


def table(found: pd.DataFrame) -> Table:
    """Return lines of :func:`verdicts`, ready to be read."""
    told = found["verdict"] + found["older"].map({True: f"\n({OLDER})", False: ""})
    shown = found.assign(id=found["id"] + "\n" + found["place"], verdict=told)
    names = {"id": "place", "claim": "claim", "published": "published", "measured": "measured here (95 % interval)"}
    return Table(shown[[*names, "verdict"]].rename(columns=names))


def measured(found: pd.DataFrame) -> pd.Series:
    """Tell of each line of :func:`verdicts` whether rows decided it, whatever they said."""
    return ~found["verdict"].isin((NOT_RUN, NOT_TESTABLE))


def changes(before: str, after: str) -> Table:
    """Return the claims that the protocol measured again: the verdict there was, and those on all and on novel clips.

    Args:
        before: profile of the rows there were.
        after: profile that the protocol governs.
    """
    everything, novel = verdicts(after), verdicts(after, clips=evidence.NOVEL)
    again = measured(everything) & ~everything["id"].str.startswith(FUSION)  # whose rows are those of either profile
    shown = everything[again].assign(id=everything["id"] + "\n" + everything["place"], old=verdicts(before)["verdict"])
    for title, found in (("all", everything), ("novel", novel)):
        shown[title] = found["verdict"] + "\n" + found["measured"]
    names = {"id": "place", "claim": "claim", "old": "before", "all": "now, on all clips", "novel": "on novel clips"}
    return Table(shown[list(names)].rename(columns=names))


def counted(lines: pd.DataFrame) -> str:
    """Return a sentence that counts the verdicts of some lines of :func:`verdicts`."""
    found = Counter(lines["verdict"])
    words = {HOLDS: ("holds", "hold"), FAILS: ("does not hold", "do not hold")}
    words[EQUIVALENT] = tuple(f"{verb} {EQUIVALENT}" for verb in ("shows", "show"))
    other = {OPEN: OPEN, NOT_TESTABLE: NOT_TESTABLE, NOT_RUN: NOT_RUN}
    words |= {name: (f"is {text}", f"are {text}") for name, text in other.items()}
    told = [f"{found[name]} {words[name][found[name] != 1]}" for name in VERDICTS if found[name]]
    rests = int(lines["older"].sum())
    verb = "rests" if rests == 1 else "rest"
    aside = f" {rests} of these verdicts {verb} on an {OLDER}." if rests else ""
    return f"Of {found.total()} claim{'s' * (found.total() != 1)} {joined(told)}.{aside}"
