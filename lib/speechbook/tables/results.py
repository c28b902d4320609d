"""Committed results as one tidy frame: a line a measured number, whichever table of its experiment holds it.

Columns of a frame:

- ``system, method, variant, seed, task``: what was measured.
- ``place``: a language or domain, an average over all (``pooled``, ``macro``), or a group that the experiment names;
  ``of`` says which: ``"place"``, ``"average"`` or ``"group"``.
- ``against``: the system that a difference is counted from, ``before`` its variant if it is the same system; both are
  empty for a score.
- ``value, low, high``: the number and its 95 % interval, in the units that are shown: per cent of the words, BLEU from
  0 to 100, and points of either for a difference. ``p_value`` is that of a difference.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from speechmerge.errors import StudyError

from ..figures.style import AVERAGE
from ..study import store
from ..study.comparisons import OTHERS

KINDS = ("rows", "paired", "by_language", "groups")  # of tables, whose numbers a frame holds
SAME = ["system", "variant", "seed", "task", "place", "against", "before"]  # what tells the lines of a frame apart
COLUMNS = [*SAME, "method", "of", "value", "low", "high", "p_value"]
READ = (
    "system", "variant", "seed", "task", "method", "language", "domain", "against", "kind", "group",
    "wer", "bleu", "difference", "ci_low", "ci_high", "p_value",
)  # fmt: skip
CAPPED = "capped "  # begins the kind of an average over a group whose utterances count no more errors than words
VERDICTS = {
    "asr": (
        "fewer word errors than",
        "neither reliably fewer nor reliably more word errors than",
        "more word errors than",
    ),
    "st": ("a lower BLEU than", "neither a reliably lower nor a reliably higher BLEU than", "a higher BLEU than"),
}  # for a difference below zero, across it, and above it


def read(profile: str, experiment: str, *, capped: bool = False) -> pd.DataFrame:
    """Return the frame of an experiment.

    Args:
        profile: whose results.
        experiment: its name.
        capped: whether an utterance counts at most as many errors as it has words; only groups are counted so.

    Raises:
        StudyError: it has no results.
    """
    tables = {kind: store.lines(profile, f"{experiment}.{kind}", READ) for kind in KINDS}
    found = tidy(**{kind: pd.DataFrame(lines) for kind, lines in tables.items()}, capped=capped)
    if found.empty:
        store.rows(profile, experiment)  # says what to do
    return found


def tidy(
    rows: pd.DataFrame | None = None, paired: pd.DataFrame | None = None, by_language: pd.DataFrame | None = None,
    groups: pd.DataFrame | None = None, *, capped: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Return the frame of tables as :func:`speechbook.study.rows.collect` writes them; what is missing is left out."""
    if groups is not None and len(groups):
        groups = groups[groups["kind"].str.startswith(CAPPED) == capped]
    makers = {_scores: rows, _of_groups: groups, _by_language: by_language, _paired: paired}
    asked = {_of_groups: groups} if capped else makers
    parts = [make(table) for make, table in asked.items() if table is not None and len(table)]
    found = pd.concat([part.reindex(columns=COLUMNS) for part in parts]) if parts else pd.DataFrame(columns=COLUMNS)
    return with_methods(found).drop_duplicates(SAME).reset_index(drop=True)


def with_methods(found: pd.DataFrame) -> pd.DataFrame:
    """Tell differences the method of their system, which scores have."""
    methods = found.dropna(subset="method").drop_duplicates("system").set_index("system")["method"]
    return found.assign(method=found["method"].fillna(found["system"].map(methods)))


def with_values(rows: pd.DataFrame) -> pd.DataFrame:
    """Add ``value, low, high`` to rows: word error rates in per cent, BLEU as it is."""
    unit = rows["task"].map({"asr": 100, "st": 1})
    value = rows["wer"] if "bleu" not in rows else rows["wer"].where(rows["task"] == "asr", rows["bleu"])
    return rows.assign(value=unit * value.astype(float), low=unit * rows["ci_low"], high=unit * rows["ci_high"])


def places(rows: pd.DataFrame) -> pd.Series:
    """Return the name of the domain or language of each row: ``pkunk`` of ``uqm/pkunk``, else the language."""
    inside = rows["domain"].str.partition("/")[2]
    return inside.where(inside != "", rows["language"])


def _scores(rows: pd.DataFrame) -> pd.DataFrame:
    of = rows["domain"].map(lambda domain: "average" if domain == "all" else "place")
    return with_values(rows).assign(place=places(rows), of=of)


def _points(table: pd.DataFrame, **columns: object) -> pd.DataFrame:
    ends = {"value": 100 * table["difference"], "low": 100 * table["ci_low"], "high": 100 * table["ci_high"]}
    return table.assign(**ends, **columns)


def _paired(table: pd.DataFrame) -> pd.DataFrame:
    return _points(table, place=table["task"].map(AVERAGE), of="average")


def _by_language(table: pd.DataFrame) -> pd.DataFrame:
    of = table["language"].map({"pooled": "average", OTHERS: "group"}).fillna("place")
    return _points(table, place=table["language"], of=of)


def _of_groups(table: pd.DataFrame) -> pd.DataFrame:
    kind = table["kind"].str.removeprefix(CAPPED)
    grown = kind == "grown"
    told = table.assign(difference=table["wer"].where(kind == "average", table.get("difference")))
    before, against = table["against"].where(grown), table["against"].mask(grown, table["system"])
    return _points(told, place=table["group"], of="group", task="asr", before=before, against=against)


def first_seed(found: pd.DataFrame) -> pd.DataFrame:
    """Keep what was measured with the first seed of the trainings."""
    return found[found["seed"] == found["seed"].min()]


def averages(found: pd.DataFrame) -> pd.DataFrame:
    """Return the error of every system, of the first seed, on each group of places that the experiment names."""
    return first_seed(found[found["against"].isna() & (found["of"] == "group")]).reset_index(drop=True)


def differences(found: pd.DataFrame, against: str, *, seed: int | None = None) -> pd.DataFrame:
    """Return the differences from one system, of one seed.

    Args:
        found: a frame.
        against: the system the others were compared with.
        seed: None takes the lowest there is.

    Raises:
        StudyError: nothing was compared with it.
    """
    chosen = found[(found["against"] == against) & found["before"].isna()]
    chosen = chosen[chosen["seed"] == (chosen["seed"].min() if seed is None else seed)]
    if chosen.empty:
        raise StudyError(f"no system was compared with {against!r} (seed {seed}); see `against` in experiments/.")
    return chosen.reset_index(drop=True)


def in_panels(
    found: pd.DataFrame, names: Mapping[str, str] | Sequence[str], systems: Iterable[str] | None = None
) -> pd.DataFrame:
    """Return the lines about some places, in the order of these, with the column ``panel`` that figures read.

    Args:
        found: a frame of scores, or of differences.
        names: the places, and what their panels are called if that is not their own name.
        systems: to be kept, in their order; None for all, as they come.
    """
    names = names if isinstance(names, Mapping) else dict(zip(names, names, strict=True))
    keys = {"place": list(names)} | ({} if systems is None else {"system": list(systems)})
    kept = found[found[list(keys)].isin(keys).all(axis=1)]
    return ordered(kept.assign(panel=kept["place"].map(names)), **keys)


def ordered(table: pd.DataFrame, **orders: Sequence) -> pd.DataFrame:
    """Sort lines by columns whose values are listed in order, by the first column before the next one."""
    places = {name: {x: place for place, x in enumerate(dict.fromkeys(own))} for name, own in orders.items()}
    return table.sort_values(list(places), key=lambda own: own.map(places[own.name]), kind="stable", ignore_index=True)


def pair(found: pd.DataFrame, system: str, against: str, task: str = "asr", place: str | None = None) -> pd.DataFrame:
    """Return the differences of two systems at one place, one line a variant and seed; an average if none is named."""
    same = (found["system"] == system) & (found["against"] == against) & found["before"].isna()
    return found[same & (found["task"] == task) & (found["place"] == (place or AVERAGE[task]))]


def turned(found: pd.DataFrame) -> pd.DataFrame:
    """Return differences counted the other way round."""
    return found.assign(value=-found["value"], low=-found["high"], high=-found["low"])


def side(row: pd.Series, below: str, across: str, above: str) -> str:
    """Return the words for an interval that lies below zero, across it, or above it."""
    return below if row["high"] < 0 else above if row["low"] > 0 else across


def verdict(found: pd.DataFrame, system: str, against: str, task: str = "asr", *, place: str | None = None) -> str:
    """Return in words what the paired intervals of two systems allow to say: a difference must show in every seed.

    Args:
        found: a frame.
        system: the subject of the sentence.
        against: its object.
        task: ``asr``, whose words follow "makes", or ``st``, whose words follow "has".
        place: a language, domain or group; None for the average.

    Raises:
        StudyError: the two were not compared.
    """
    if system == against:
        return VERDICTS[task][1]
    own = pair(found, system, against, task, place)
    if own.empty:
        raise StudyError(
            f"{system!r} was not compared with {against!r} in task {task!r}; see `against` in experiments/."
        )
    return side({"low": own["low"].min(), "high": own["high"].max()}, *VERDICTS[task])


def joined(words: Sequence[str]) -> str:
    """Return words as a sentence lists them: "A, B and C"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def verdicts(found: pd.DataFrame, systems: Sequence[str], against: str, task: str = "asr") -> str:
    """Return one clause that sorts systems by :func:`verdict`: "A makes fewer word errors than B; C and D cannot …".

    Args:
        found: a frame.
        systems: the subjects; ``against`` itself is skipped.
        against: what they are compared with.
        task: ``asr`` or ``st``.
    """
    words = {system: verdict(found, system, against, task) for system in systems if system != against}
    clauses, verbs = [], ("make", "makes") if task == "asr" else ("have", "has")
    below, across, above = VERDICTS[task]
    for said in (below, above, across):
        names = [system for system, word in words.items() if word == said]
        if names:
            subject = joined(names)
            predicate = "cannot be told apart from" if said == across else f"{verbs[len(names) == 1]} {said}"
            clauses.append(f"{subject} {predicate} {'it' if clauses else against}")
    return "; ".join(clauses)
