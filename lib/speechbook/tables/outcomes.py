"""Tables for the book: committed rows in the order of their experiment, beside published values, ready to draw.

Whoever reads a page sees word error rates in per cent and BLEU from 0 to 100: the columns ``value, low, high``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from speechmerge.errors import StudyError
from speechmerge.evaluation import resampling
from speechmerge.evaluation.scoring import METRICS, Counts

from ..figures.numbers import signed
from ..figures.style import AVERAGE, AVERAGES, DASH, TO, UNITS
from ..study import experiments, store
from ..study.plans import Plan, System
from .results import first_seed, ordered, with_values


def measured(rows: pd.DataFrame, *, seed: int | None = None) -> pd.DataFrame:
    """Return the rows of one seed in the order of the experiment's plan: systems, tasks, languages, averages.

    Args:
        rows: what :func:`speechbook.study.store.rows` returns for one experiment.
        seed: of the trainings; None takes the lowest there is. A system without training has one seed only.

    Returns:
        The rows with the columns ``value, low, high`` added.

    Raises:
        StudyError: a system or a language of the experiment has no row.
    """
    plan = plan_of(rows)
    seed = int(rows["seed"].min()) if seed is None else seed
    keys = ["system", "variant", "task", "language"]
    found = rows[(rows["seed"] == seed) | (rows["method"] == "none")].set_index(keys)
    wanted = dict.fromkeys(place for system in plan.systems for place in _places(plan, system))
    missing = [place for place in wanted if place not in found.index]
    if missing:
        raise StudyError(
            f"{plan.name} on {plan.profile} lacks {len(missing)} of {len(wanted)} rows of seed {seed}, the first of "
            f"{' '.join(filter(None, missing[0]))}; run "
            f"`speechmerge study run --profile {plan.profile} --experiment {plan.name}`."
        )
    return with_values(found.loc[list(wanted)].reset_index())


def plan_of(rows: pd.DataFrame) -> Plan:
    """Return the plan that the rows of one experiment were made by."""
    [(experiment, profile)] = rows[["experiment", "profile"]].drop_duplicates().itertuples(index=False)
    return experiments.plan(experiment, profile)


def _places(plan: Plan, system: System) -> Iterator[tuple[str, str, str, str]]:
    """Yield what tells the rows of a system apart: of the table's own languages and of their averages."""
    for task in plan.experiment.tasks:
        languages = [cell.language for cell in system.decodes if cell.task == task and cell in plan.cells]
        for language in (*languages, *AVERAGES[task]):
            yield system.system, system.variant, task, language


def logs(rows: pd.DataFrame) -> dict[str, dict]:
    """Return the log of every training behind some rows, by the name of the step that chose it."""
    return {name: log for own in rows["training"] for name, log in own.items()}


def published(experiment: str) -> pd.DataFrame:
    """Return the paper's values for an experiment: columns ``system, task, language, published`` (WER in %, BLEU).

    The paper's average over languages pools words for WER and is the mean for BLEU, so its language is ``pooled`` or
    ``macro``, as that of the measured one is.
    """
    source = experiments.experiments()[experiment].published
    table = pd.read_csv(store.project_root() / "experiments" / "published" / source.file)
    chosen = table[(table["table"] == source.table) & (table["language_set"] == source.language_set)]
    task = chosen["metric"].map({metric: task for task, metric in METRICS.items()})
    language = chosen["language"].where(chosen["language"] != "avg", task.map(AVERAGE))
    chosen = chosen.assign(task=task, language=language, published=chosen["value"])
    return chosen[["system", "task", "language", "published"]].reset_index(drop=True)


def comparison(rows: pd.DataFrame, paper: pd.DataFrame | None = None, *, average: bool | None = None) -> pd.DataFrame:
    """Return one line a system, ready to be read: the score in each language, the average, interval, published value.

    Args:
        rows: what :func:`measured` or :func:`scored` returns; several tasks become groups of columns.
        paper: what :func:`published` returns.
        average: True for the columns about averages only, False for those of languages only, None for both.
    """
    groups = {}
    for task, own in rows.groupby("task", sort=False):
        cells = own[~own["language"].isin(AVERAGES[task])]
        table = cells.pivot(index="system", columns="language", values="value").map("{:.1f}".format)
        table = table.loc[own["system"].unique(), cells["language"].unique() if average is not True else []]
        if average is not False:
            table = table.assign(**_averages(own, task, paper))
        groups[UNITS[task]] = table
    return grouped(groups)


def grouped(tables: Mapping[str, pd.DataFrame], title: str | None = None) -> pd.DataFrame:
    """Put tables side by side as named groups of columns, under ``title``; a single one stays flat, or has its name."""
    if len(tables) > 1:
        return pd.concat(tables, axis=1).rename_axis(index=None, columns=[title, None])
    [(name, table)] = tables.items()
    return table.rename_axis(index=None, columns=title or name)


def _averages(rows: pd.DataFrame, task: str, paper: pd.DataFrame | None) -> dict[str, pd.Series]:
    """Columns about the average of one task over languages."""
    whole = rows[rows["language"] == AVERAGE[task]].set_index("system")
    shown = whole[["value", "low", "high"]].map("{:.1f}".format)
    columns = {"all" if task == "asr" else "mean": shown["value"], "95 % interval": shown["low"] + DASH + shown["high"]}
    if task == "st":
        columns["chrF"] = whole["chrf"].map("{:.1f}".format)
    if paper is not None:
        values = paper[(paper["language"] == AVERAGE[task]) & (paper["task"] == task)].set_index("system")["published"]
        columns["published"] = values.reindex(whole.index).map("{:.2f}".format, na_action="ignore").fillna("")
    return columns


def beside(rows: pd.DataFrame, paper: pd.DataFrame) -> pd.DataFrame:
    """Return measured beside published scores in the languages that both have, one group of columns a language.

    Args:
        rows: what :func:`measured` returns, of one task.
        paper: what :func:`published` returns.
    """
    both = rows.merge(paper, on=["system", "task", "language"])
    both = both[~both["language"].isin(AVERAGE.values())].rename(columns={"value": "here", "published": "paper"})
    table = both.pivot(index="system", columns="language", values=["here", "paper"]).swaplevel(axis=1)
    order = [(language, kind) for language in both["language"].unique() for kind in ("here", "paper")]
    return table.loc[both["system"].unique(), order].map("{:.1f}".format).rename_axis(index=None, columns=[None, None])


def scored(
    counts: Mapping[str, Sequence[Counts]], methods: Mapping[str, str], languages: Sequence[str]
) -> pd.DataFrame:
    """Return the rows of systems that transcribed just now, in the columns that figures and tables read.

    Args:
        counts: of each system, one entry a language.
        methods: of each system, as in result rows.
        languages: codes, in the order of the counts.
    """
    lines = []
    for system, found in counts.items():
        parts = [*((language, [count]) for language, count in zip(languages, found, strict=True)), ("pooled", found)]
        for language, some in parts:
            low, high = resampling.interval(resampling.resampled_rates(some))
            rate = resampling.pooled(some)
            lines.append((system, methods[system], "asr", language, rate, low, high, sum(c.runaway for c in some)))
    columns = ["system", "method", "task", "language", "wer", "ci_low", "ci_high", "runaway"]
    return with_values(pd.DataFrame(lines, columns=columns))


def tuned(numbers: Mapping[str, Any]) -> pd.DataFrame:
    """Return what a tuning heard on the speech that reports, in the columns that figures and tables read.

    Args:
        numbers: what :func:`speechmerge.tuning.tune.tune` returns; of transcription.
    """
    methods = {"base": "none", "average": "weight_average", "joint training": "joint training"}
    methods["chosen merge"] = numbers["chosen"]["method"]
    whole = [row | {"speech": "pooled"} for row in numbers["means"] if row["group"] == "all"]
    table = pd.DataFrame([*numbers["rows"], *whole]).rename(columns={"speech": "language"})
    table["method"] = table["system"].map(methods).fillna("fine-tuning")
    table["task"] = "asr"
    table = ordered(table, system=dict.fromkeys(table["system"]))
    ends = {"wer": table["error"], "ci_low": table["low"], "ci_high": table["high"]}
    return with_values(table.drop(columns=["error", "low", "high"]).assign(**ends))


def kept(measured: pd.DataFrame, base: str, experts: str) -> pd.Series:
    """Return how much of what the experts gain over the base each system keeps on average, in per cent.

    Args:
        measured: columns ``system, task, language, value``.
        base: the system that the gain is counted from.
        experts: the system that gains all of it; where it gains nothing, the shares mean nothing.
    """
    own = measured[measured["language"] == measured["task"].map(AVERAGE)].set_index("system")["value"]
    return 100 * (own[base] - own) / (own[base] - own[experts])


def value(
    rows: pd.DataFrame, system: str, column: str = "wer", language: str | None = None, *, task: str = "asr"
) -> float:
    """Return one number of the measured rows, to be glued into a sentence.

    Args:
        rows: what :func:`measured` or :func:`scored` returns.
        system: whose number.
        column: ``value`` is in the units shown; ``wer`` is a fraction, as in the rows.
        language: None for the average that is shown.
        task: ``asr`` or ``st``.
    """
    place = (rows["task"] == task) & (rows["language"] == (language or AVERAGE[task]))
    [row] = rows[place & (rows["system"] == system)].itertuples()
    return float(getattr(row, column))


def paired(found: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return one line a system compared with ``against`` on the same utterances, ready to be read.

    Args:
        found: a frame; several tasks become groups of columns. Of several seeds the first is shown, and how many of
            them put the interval on the same side of zero, or across it.
        against: the system the others are compared with. A negative difference means fewer word errors than it makes,
            a positive one in BLEU a better translation.
    """
    groups, own = {}, found[(found["against"] == against) & (found["place"] == found["task"].map(AVERAGE))]
    for task, rows in own.groupby("task", sort=False):
        sides = (rows["low"] > 0).astype(int) - (rows["high"] < 0).astype(int)
        sides = sides.groupby(rows["system"]).agg(list)
        rows = first_seed(rows).set_index("system")
        points = rows[["value", "low", "high"]].map(signed)
        table = pd.DataFrame({"difference, points": points["value"]})
        table["95 % interval"] = points["low"] + TO + points["high"]
        table["p"] = rows["p_value"].map(lambda p: "<\u00a00.001" if p < 0.001 else f"{p:.3f}")
        if sides.map(len).max() > 1:
            table["seeds that agree"] = sides.map(lambda seeds: f"{seeds.count(seeds[0])} of {len(seeds)}")
        groups[UNITS[task].split(",")[0]] = table
    return grouped(groups, f"against {against}")
