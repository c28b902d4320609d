"""What the protocol measured, as pages show it: primary and secondary metrics, all and novel clips, with verdicts.

It reads the tables of :mod:`speechbook.study.measures` and :mod:`~speechbook.study.verdicts`. Intervals are the widened
ones where the deviation between training seeds is known.
"""

import pandas as pd

from speechmerge.errors import StudyError
from speechmerge.evaluation import inference

from ..figures.curves import signed
from ..figures.style import AVERAGE, DASH, TO
from ..study import experiments, protocol, store
from ..study.measures import ALL, NOVEL, OWN
from . import choices

SHOWN = {  # of metrics, and by what they are multiplied
    "capped_wer": ("WER with the cap", 100), "wer": ("WER", 100), "macro_wer": ("mean of languages", 100),
    "spelled_wer": ("numbers spelled out", 100), "chrf": ("chrF", 1), "bleu": ("BLEU", 1),
}  # fmt: skip
CLIPS = {ALL: "all clips", NOVEL: "novel clips"}
WORDS = {
    inference.HOLDS: "better", inference.FAILS: "worse", inference.EQUIVALENT: "the same, within the margin",
    inference.OPEN: "undecided",
}  # fmt: skip


def primary(task: str) -> str:
    """Return the metric that a task is judged by."""
    return protocol.read().metrics[task].primary


def _read(profile: str, name: str, *, task: str, metric: str | None, clips: str | None) -> pd.DataFrame:
    """Return the lines of a table on one metric, the primary one if none is named, with ``low, high`` in points."""
    metric = metric or primary(task)
    found = store.statistics(profile, name)
    found = found[(found["task"] == task) & (found["metric"] == metric)]
    if clips:
        found = found[found["clips"] == clips]
    wide, unit = found["wide_low"].notna(), SHOWN[metric][1]
    low, high = (found[f"wide_{end}"].where(wide, found[f"ci_{end}"]).astype(float) for end in ("low", "high"))
    return found.assign(low=unit * low, high=unit * high)


def measures(
    profile: str, experiment: str, *, task: str = "asr", metric: str | None = None, clips: str | None = ALL
) -> pd.DataFrame:
    """Return the measures of an experiment with ``score, low, high`` in points; arguments as for :func:`compared`."""
    found = _read(profile, f"{experiment}.measures", task=task, metric=metric, clips=clips)
    return found.assign(score=SHOWN[metric or primary(task)][1] * found["value"].astype(float))


def measured(
    profile: str, experiment: str, *, task: str = "asr", metric: str | None = None, clips: str = ALL
) -> pd.DataFrame:
    """Return one line a system and language, and one for all languages, in the columns that figures and tables read.

    Args:
        profile: whose results.
        experiment: with measures of the task.
        task: ``asr`` or ``st``.
        metric: of the protocol; its primary one if none is named.
        clips: ``all`` or ``novel``.

    Returns:
        Columns ``system, method, task, language, variant, score, low, high, runaway, n_clips, n_words, by_seed``, in
        the order of the experiment's file; error rates in per cent, BLEU and chrF from 0 to 100.
    """
    found = measures(profile, experiment, task=task, metric=metric, clips=clips)
    known = experiments.experiments()[experiment]
    order = {name: place for place, name in enumerate(entry.system for entry in known.systems)}
    languages = experiments.profiles()[profile].sets[known.languages]
    found = found[found["group"].isin((OWN, *languages)) & found["system"].isin(order)]
    place = found["group"].map({name: number for number, name in enumerate((*languages, OWN))})
    found = found.assign(language=found["group"].replace(OWN, AVERAGE[task]))
    found = found.assign(order=found["system"].map(order), place=place).sort_values(["order", "place"])
    columns = ["system", "method", "task", "language", "variant", "score", "low", "high", "runaway", "n_clips"]
    return found[[*columns, "n_words", "by_seed"]].reset_index(drop=True)


def compared(
    profile: str, experiment: str, *, task: str = "asr", metric: str | None = None, clips: str | None = None
) -> pd.DataFrame:
    """Return the comparisons of an experiment in points: ``system, against, group, clips, difference, low, high, …``.

    Args:
        profile: whose results.
        experiment: with comparisons of the task.
        task: ``asr`` or ``st``.
        metric: of the protocol; its primary one if none is named.
        clips: ``all`` or ``novel``; None for both.
    """
    found = _read(profile, f"{experiment}.comparisons", task=task, metric=metric, clips=clips)
    unit = SHOWN[metric or primary(task)][1]
    return found.assign(difference=unit * found["difference"].astype(float))


def outcomes(
    profile: str, experiment: str, against: str, *, task: str = "asr", metric: str | None = None, group: str = OWN
) -> pd.DataFrame:
    """Return one line a system held against another, on all and on novel clips, ready to be read.

    Arguments as for :func:`compared`; ``group`` is one of the table's groups of cells. Columns, for each kind of clips:
    difference in points, its 95 % interval, and what it says of the system.
    """
    found = compared(profile, experiment, task=task, metric=metric)
    found = found[(found["against"] == against) & (found["group"] == group) & (found["variant"] == "")]
    order = [entry.system for entry in experiments.experiments()[experiment].systems if entry.system != against]
    sides = {}
    for clips, title in CLIPS.items():
        own = found[found["clips"] == clips].set_index("system").reindex(order).dropna(subset=["difference"])
        ends = own["low"].map(_signed) + TO + own["high"].map(_signed)
        sides[title] = pd.DataFrame(
            {"points": own["difference"].map(_signed), "95 % interval": ends, "it is": own["verdict"].map(WORDS)}
        )
    return pd.concat(sides, axis=1).rename_axis(index=None, columns=[f"against {against}", None])


def _signed(points: float) -> str:
    return signed(points, 1)


def averages(profile: str, experiment: str, *, task: str = "asr") -> pd.DataFrame:
    """Return one line a system: every metric over all cells on all clips, and the primary one on novel clips.

    Arguments as for :func:`measured`.
    """
    metrics = protocol.read().metrics[task]
    columns = {}
    for clips, names in ((ALL, (metrics.primary, *metrics.secondary)), (NOVEL, (metrics.primary,))):
        for metric in names:
            own = measured(profile, experiment, task=task, metric=metric, clips=clips)
            own = own[own["language"] == AVERAGE[task]].set_index("system")
            ends = own["low"].map("{:.1f}".format) + DASH + own["high"].map("{:.1f}".format)
            columns[CLIPS[clips], SHOWN[metric][0]] = own["score"].map("{:.1f}".format) + " (" + ends + ")"
    return pd.DataFrame(columns).rename_axis(index=None)


def verdict(
    profile: str, experiment: str, system: str, against: str, *, task: str = "asr", clips: str = ALL, group: str = OWN
) -> str:
    """Return what a comparison says of a system in words, with the difference and its interval.

    Arguments as for :func:`compared` and :func:`outcomes`.

    Raises:
        StudyError: the two were not compared.
    """
    found = compared(profile, experiment, task=task, clips=clips)
    for first, second, sign in ((system, against, 1), (against, system, -1)):
        own = found[(found["system"] == first) & (found["against"] == second) & (found["group"] == group)]
        if len(own) == 1:
            [row] = own.itertuples()
            low, high = sorted((sign * row.low, sign * row.high))
            said = WORDS[row.verdict] if sign > 0 else _turned(WORDS[row.verdict])
            return f"{said} ({_signed(sign * row.difference)} points, {_signed(low)}{TO}{_signed(high)})"
    raise StudyError(f"{system!r} was not compared with {against!r} in {experiment}; see `against` in experiments/.")


def _turned(word: str) -> str:
    """What a comparison says of the system that was subtracted."""
    return {"better": "worse", "worse": "better"}.get(word, word)


def trainings(profile: str, experiment: str) -> pd.DataFrame:
    """Return one line a training behind an experiment's rows: rate, steps, and what became of the weights.

    Args:
        profile: whose results.
        experiment: with rows of trained systems.

    Returns:
        Columns ``minutes, rate, steps, best step, update`` (its Euclidean norm, in per cent of the base's), ``in the
        token table`` and ``in rows never read`` (shares of its squared norm, per cent), a line a model and seed.
    """
    rows = store.rows(profile, experiment)
    logs = {name: log for own in rows["training"] for name, log in own.items()}
    table = pd.DataFrame.from_dict(logs, orient="index")
    table = table.assign(
        **{
            "minutes": table["minutes"].map("{:.0f}".format),
            "rate": table["learning_rate"].map("{:g}".format),
            "best step": table["best_step"],
            "update": table["update"],
            "in the token table, %": (100 * table["in_table"]).round(1),
            "in rows never read, %": (100 * table["in_unseen_rows"]).round(1),
        }
    )
    table = table[["minutes", "rate", "steps", "best step", "update", "in the token table, %", "in rows never read, %"]]
    return table.rename(index=lambda name: name.removeprefix("choose ")).sort_index()


def seeds(profile: str, experiment: str, *, task: str = "asr") -> pd.DataFrame:
    """Return one line a system: its primary metric over all cells with each training seed, and how far they lie apart.

    Arguments as for :func:`measured`. A pretrained model says the same with every seed and is left out.
    """
    found = measured(profile, experiment, task=task)
    found = found[(found["language"] == AVERAGE[task]) & (found["method"] != "none")].set_index("system")
    unit, numbers = SHOWN[primary(task)][1], store.statistics(profile, f"{experiment}.measures")["seeds"].iloc[0]
    table = pd.DataFrame([unit * pd.Series(one) for one in found["by_seed"]], index=found.index)
    table = table.set_axis([f"seed {number}" for number in numbers], axis=1)
    return table.assign(distance=table.max(axis=1) - table.min(axis=1)).round(2).rename_axis(index=None)


def rates(profile: str, experiment: str) -> pd.DataFrame:
    """Return the dev losses that learning rates were chosen by: a line a model, a column a rate, the chosen one named.

    Args:
        profile: whose results.
        experiment: that chose rates.
    """
    lines = {}
    for step, tried in store.choices(profile, experiment).items():
        if step.startswith("rate "):
            losses = {f"{one['learning_rate']:g}": one["dev_loss"] for one in tried}
            lines[step.removeprefix("rate ")] = losses | {"chosen": min(losses, key=losses.get)}
    return pd.DataFrame.from_dict(lines, orient="index").round(4)


def beside_choices(profile: str, experiment: str) -> pd.DataFrame:
    """Return what was chosen of each expert of an experiment beside what the paper chose of its own, by language.

    The paper's learning rates, rank ratios and densities are those of its tables 5 and 6 (arXiv 2502.17380).

    Args:
        profile: whose results.
        experiment: with rows of merges by MP and SVP, in one task.
    """
    rows = store.rows(profile, experiment)
    [task] = rows["task"].unique()
    here = choices.choices(rows[rows["seed"] == rows["seed"].min()])
    paper = pd.read_csv(store.project_root() / "experiments" / "published" / "lors_hyperparameters.csv", dtype=str)
    paper = paper[paper["task"] == task].set_index("language").drop(columns="task")
    paper.columns = ["learning rate", "rank ratio", "density"]
    table = pd.concat({"here": here, "paper": paper}, axis=1).swaplevel(axis=1)
    order = [(name, side) for name in paper for side in ("here", "paper")]
    return table.reindex(columns=order).fillna("").rename_axis(index=None, columns=[None, None])
