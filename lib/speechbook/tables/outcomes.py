"""Tables for the book: committed rows in the order of their experiment, beside published values, ready to draw.

Whoever reads a page sees word error rates in per cent and BLEU from 0 to 100: the columns ``score, low, high``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from speechmerge.errors import StudyError
from speechmerge.evaluation import resampling
from speechmerge.evaluation.scoring import METRICS, Counts

from ..figures.style import AVERAGE, AVERAGES, DASH, TO, UNITS
from ..study import experiments, store

VERDICTS = {
    "asr": (
        "fewer word errors than",
        "neither reliably fewer nor reliably more word errors than",
        "more word errors than",
    ),
    "st": ("a lower BLEU than", "neither a reliably lower nor a reliably higher BLEU than", "a higher BLEU than"),
}  # for a difference below zero, across it, and above it


def measured(rows: pd.DataFrame, *, seed: int | None = None) -> pd.DataFrame:
    """Return the rows of one seed in the order of the experiment's file, languages in the order of its plan.

    Args:
        rows: what :func:`speechbook.study.store.rows` returns for one experiment.
        seed: of the trainings; None takes the lowest there is. A system without training has one seed only.

    Returns:
        The rows, task by task, with the columns ``score, low, high`` added.

    Raises:
        StudyError: a system or a language of the experiment has no row.
    """
    [(experiment, profile)] = rows[["experiment", "profile"]].drop_duplicates().itertuples(index=False)
    described = experiments.experiments()[experiment]
    languages = experiments.profiles()[profile].sets[described.languages]
    places = [(task, place) for task in described.tasks for place in (*languages, *AVERAGES[task])]
    wanted = [(entry.system, *place) for entry in described.systems for place in places]
    seed = rows["seed"].min() if seed is None else seed
    trained = rows[(rows["seed"] == seed) | (rows["method"] == "none")]
    found = trained.set_index(["system", "task", "language"])
    missing = [place for place in wanted if place not in found.index]
    if missing:
        system, task, language = missing[0]
        raise StudyError(
            f"{experiment} on {profile} lacks {len(missing)} of {len(wanted)} rows, the first of {system!r} in "
            f"{language!r} ({task}); run `speechmerge study run --profile {profile} --experiment {experiment}`."
        )
    return with_scores(found.loc[wanted].reset_index())


def with_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Add ``score, low, high``: word error rates in per cent, BLEU as it is."""
    unit = rows["task"].map({"asr": 100, "st": 1})
    score = rows["wer"] if "bleu" not in rows else rows["wer"].where(rows["task"] == "asr", rows["bleu"])
    return rows.assign(score=unit * score.astype(float), low=unit * rows["ci_low"], high=unit * rows["ci_high"])


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
        table = cells.pivot(index="system", columns="language", values="score").map("{:.1f}".format)
        table = table.loc[own["system"].unique(), cells["language"].unique() if average is not True else []]
        if average is not False:
            table = table.assign(**_averages(own, task, paper))
        groups[UNITS[task]] = table
    return grouped(groups)


def grouped(tables: Mapping[str, pd.DataFrame], title: str | None = None) -> pd.DataFrame:
    """Put tables side by side as named groups of columns; a single one stays flat, under ``title`` or its name."""
    if len(tables) > 1:
        return pd.concat(tables, axis=1).rename_axis(index=None, columns=[None, None])
    [(name, table)] = tables.items()
    return table.rename_axis(index=None, columns=title or name)


def _averages(rows: pd.DataFrame, task: str, paper: pd.DataFrame | None) -> dict[str, pd.Series]:
    """Columns about the average of one task over languages."""
    whole = rows[rows["language"] == AVERAGE[task]].set_index("system")
    shown = whole[["score", "low", "high"]].map("{:.1f}".format)
    columns = {"all" if task == "asr" else "mean": shown["score"], "95 % interval": shown["low"] + DASH + shown["high"]}
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
    both = both[~both["language"].isin(AVERAGE.values())].rename(columns={"score": "here", "published": "paper"})
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
    return with_scores(pd.DataFrame(lines, columns=columns))


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
    order = list(dict.fromkeys(table["system"]))
    table = table.sort_values("system", key=lambda names: names.map(order.index), kind="stable")
    ends = {"wer": table["error"], "ci_low": table["low"], "ci_high": table["high"]}
    return with_scores(table.drop(columns=["error", "low", "high"]).assign(**ends)).reset_index(drop=True)


def value(
    rows: pd.DataFrame, system: str, column: str = "wer", language: str | None = None, *, task: str = "asr"
) -> float:
    """Return one number of the measured rows, to be glued into a sentence.

    Args:
        rows: what :func:`measured` or :func:`scored` returns.
        system: whose number.
        column: ``score`` is in the units shown; ``wer`` is a fraction, as in the rows.
        language: None for the average that is shown.
        task: ``asr`` or ``st``.
    """
    place = (rows["task"] == task) & (rows["language"] == (language or AVERAGE[task]))
    [row] = rows[place & (rows["system"] == system)].itertuples()
    return float(getattr(row, column))


def paired(found: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return one line a system compared with ``against`` on the same utterances, ready to be read.

    Args:
        found: statistics ``NAME.paired``: columns ``system, against, task, seed, difference, ci_low, ci_high,
            p_value``; several tasks become groups of columns. Of several seeds the first is shown, and how many of
            them put the interval on the same side of zero, or across it.
        against: the system the others are compared with. A negative difference means fewer word errors than it makes,
            a positive one in BLEU a better translation.
    """
    groups = {}
    for task, rows in found[found["against"] == against].groupby("task", sort=False):
        side = (rows["ci_low"] > 0).astype(int) - (rows["ci_high"] < 0).astype(int)
        sides = side.groupby(rows["system"]).agg(list)
        rows = rows[rows["seed"] == rows["seed"].min()].set_index("system")
        points = (100 * rows[["difference", "ci_low", "ci_high"]]).map("{:+.1f}".format)
        table = pd.DataFrame({"difference, points": points["difference"]})
        table["95 % interval"] = points["ci_low"] + TO + points["ci_high"]
        table["p"] = rows["p_value"].map(lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}")
        if sides.map(len).max() > 1:
            table["seeds that agree"] = sides.map(lambda seeds: f"{seeds.count(seeds[0])} of {len(seeds)}")
        groups[UNITS[task].split(",")[0]] = table
    return grouped(groups, f"against {against}")


def verdict(found: pd.DataFrame, system: str, against: str, task: str = "asr") -> str:
    """Return in words what the paired intervals of two systems allow to say: a difference must show in every seed.

    Args:
        found: as for :func:`paired`.
        system: the subject of the sentence.
        against: its object.
        task: ``asr``, whose words follow "makes", or ``st``, whose words follow "has".

    Raises:
        StudyError: the two were not compared.
    """
    rows = found[(found["system"] == system) & (found["against"] == against) & (found["task"] == task)]
    if rows.empty:
        raise StudyError(
            f"{system!r} was not compared with {against!r} in task {task!r}; see `against` in experiments/."
        )
    below, across, above = VERDICTS[task]
    if (rows["ci_high"] < 0).all():
        return below
    return above if (rows["ci_low"] > 0).all() else across


def verdicts(found: pd.DataFrame, systems: Sequence[str], against: str, task: str = "asr") -> str:
    """Return one clause that sorts systems by :func:`verdict`: "A makes fewer word errors than B; C and D cannot …".

    Args:
        found: as for :func:`paired`.
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
            subject = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
            predicate = "cannot be told apart from" if said == across else f"{verbs[len(names) == 1]} {said}"
            clauses.append(f"{subject} {predicate} {'it' if clauses else against}")
    return "; ".join(clauses)
