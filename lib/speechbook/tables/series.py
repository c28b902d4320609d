"""Rows of experiments that vary something, as the tables that :mod:`speechbook.figures.curves` draws."""

import re
from collections.abc import Sequence

import pandas as pd

from speechmerge.errors import StudyError

from ..figures import numbers, style
from ..figures.style import AVERAGE, AVERAGES, UNITS
from .outcomes import measured, plan_of
from .results import differences, first_seed, ordered, side, turned

SWEPT = re.compile(r"(?P<system>.+) \w+=(?P<x>[\d.e+-]+)")  # a system that sweeps a parameter: "MP density=0.1"
GROUPS = {"pooled": "trained languages", "others": "other languages"}


def number(variant: str) -> float:
    """Return the number in a variant: minutes of ``"3 min"``, languages of ``"es+it"``."""
    found = re.match(r"[\d.]+(?= min$)", variant)
    return float(found[0]) if found else variant.count("+") + 1


def single(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of the first seed about one domain or language, without averages."""
    return first_seed(rows[~rows["language"].isin(AVERAGES["asr"])])


def methods(rows: pd.DataFrame) -> dict[str, str]:
    """Return the method of every system that is not the pretrained model, in the order of the experiment's plan."""
    return {system.system: system.method for system in plan_of(rows).systems if system.method != "none"}


def groups(rows: pd.DataFrame) -> dict[str, str]:
    """Return what statistics by language are shown for: the two groups, and each language that nobody trained on."""
    return GROUPS | {cell.language: style.language_name(cell.language) for cell in plan_of(rows).also}


def scores(rows: pd.DataFrame, *, language: str | None = None, seed: int | None = None) -> pd.DataFrame:
    """Return the scores of an experiment's systems in every variant, in the order of its plan.

    Args:
        rows: what :func:`speechbook.study.store.rows` returns for one experiment.
        language: None for the average over languages that tables show.
        seed: of the trainings; None takes the lowest there is.

    Returns:
        Columns ``task, system, method, variant, minutes, value, low, high``, in per cent or BLEU; ``minutes`` is the
        number in the variant (see :func:`number`).

    Raises:
        StudyError: a system of the plan has no row, or nothing is about the language.
    """
    found = measured(rows, seed=seed)
    found = found[found["language"] == (found["task"].map(AVERAGE) if language is None else language)]
    if found.empty:
        raise StudyError(f"there are no rows of the language {language!r}; name one that the experiment is about.")
    found = found.assign(minutes=found["variant"].map(number)).reset_index(drop=True)
    return found[["task", "system", "method", "variant", "minutes", "value", "low", "high"]]


def against_minutes(found: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return scores against minutes of training speech, one panel a task, and what each panel's value is."""
    titles = {"asr": "transcription", "st": "translation"}
    labels = {titles[task]: f"{UNITS[task]} (95 % interval)" for task in found["task"].unique()}
    return found.assign(panel=found["task"].map(titles), x=found["minutes"]), labels


def swept(found: pd.DataFrame) -> pd.DataFrame:
    """Return scores against a swept parameter in per cent, one panel a sweep and variant; other systems are level.

    Args:
        found: what :func:`scores` returns, with systems such as ``MP density=0.1``.
    """
    parts = found["system"].str.extract(SWEPT)
    moving = found.assign(x=100 * parts["x"].astype(float), system=parts["system"])[parts["x"].notna()]
    level = found[parts["x"].isna()].assign(x=float("nan"))
    panels = []
    for (system, variant), own in moving.groupby(["system", "variant"], sort=False):
        beside = pd.concat([level[level["variant"] == variant], own])
        panels.append(beside.assign(panel=f"{system}, {variant}", order=list(moving["system"].unique()).index(system)))
    return pd.concat(panels).sort_values("order", kind="stable").drop(columns="order").reset_index(drop=True)


def gains(
    found: pd.DataFrame, methods: dict[str, str], *, languages: Sequence[str] | None = None, seed: int | None = None
) -> pd.DataFrame:
    """Return what each system gains in each subset of languages: points of error fewer than the pretrained model makes.

    Args:
        found: frame of an experiment that varies subsets, transcription.
        methods: of each system, as in rows; the order of systems is taken from it.
        languages: None for all subsets; else only those made of these languages.
        seed: None takes the lowest there is.

    Returns:
        Columns ``panel, system, method, variant, x, value, low, high``, ``x`` being the number of languages.
    """
    table = differences(found, "Pretrained", seed=seed)
    if languages is not None:
        table = table[table["variant"].map(lambda subset: set(subset.split("+")) <= set(languages))]
    table = turned(ordered(table[table["system"].isin(list(methods))], system=methods))
    table = table.assign(panel="", method=table["system"].map(methods), x=table["variant"].map(number))
    return table[["panel", "system", "method", "variant", "x", "value", "low", "high"]]


def averaged(single: pd.DataFrame) -> pd.DataFrame:
    """Average gains over the subsets of each size.

    Subsets share languages, so their errors are not independent. The ends of the intervals are averaged as the values
    are: a mean varies at most as much as its parts do on average, so the interval is no narrower than it should be.
    """
    groups = single.groupby(["panel", "system", "method", "x"], sort=False)
    return groups[["value", "low", "high"]].mean().assign(subsets=groups.size()).reset_index()


def shown(table: pd.DataFrame, index: str, columns: str, *, signed: bool = True) -> pd.DataFrame:
    """Lay out values with their intervals to be read: one line an ``index``, one column a ``columns``."""
    text, between = (numbers.change, style.TO) if signed else (numbers.level, style.DASH)
    texts = [text(row, between) for row in table.itertuples()]
    laid = table.assign(text=texts).pivot(index=index, columns=columns, values="text")
    laid = laid.loc[table[index].unique(), table[columns].unique()].fillna("")
    return laid.rename(index=str).rename_axis(index=None, columns=None)


def tally(found: pd.DataFrame, system: str) -> pd.DataFrame:
    """Count, for each size of the subsets, in how many the interval of a paired difference leaves out zero.

    Args:
        found: differences, of an experiment that varies subsets.
        system: whose differences.
    """
    words = ("fewer errors", "unclear", "more errors")
    own = found[found["system"] == system]
    sizes = own["variant"].map(number).rename("languages")
    counts = own.apply(side, axis=1, args=words).groupby(sizes).value_counts().unstack(fill_value=0)
    return counts.reindex(columns=list(words), fill_value=0).rename_axis(index=None, columns=None)


def harmless(found: pd.DataFrame, sweep: str) -> str:
    """Return the smallest share of a sweep from which on no difference is reliably above zero, in words.

    Args:
        found: differences from the unpruned expert, of one variant.
        sweep: name of the swept system, as ``MP``.
    """
    parts = found["system"].str.extract(SWEPT)
    own = found.assign(x=parts["x"].astype(float))[parts["system"] == sweep].sort_values("x", ascending=False)
    kept = own[(own["low"] <= 0).cummin()]
    return f"{100 * kept['x'].min():g} %" if len(kept) else "none of the shares tried"


def best(found: pd.DataFrame, sweep: str) -> str:
    """Return the share of a sweep with the lowest difference, and the difference with its interval, in words."""
    own = found[found["system"].str.extract(SWEPT)["system"] == sweep]
    row = own.loc[own["value"].idxmin()]
    share = 100 * float(SWEPT.fullmatch(row["system"])["x"])
    return f"{numbers.signed(row['value'])} points ({numbers.interval(row)}) at {share:g} %"
