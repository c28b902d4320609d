"""What the protocol measured, as pages show it: primary and secondary metrics, all and novel clips, with verdicts.

It reads the tables of :mod:`speechbook.study.measures` and :mod:`~speechbook.study.verdicts`. Intervals are the widened
ones where the deviation between training seeds is known.
"""

import pandas as pd

from speechmerge.errors import StudyError
from speechmerge.evaluation import inference

from ..figures.numbers import points, signed
from ..figures.style import AVERAGE, DASH, TO
from ..study import experiments, protocol, store
from ..study.protocol import ALL, NOVEL, OWN
from . import choices, results
from .outcomes import logs

SHOWN = {  # of metrics, and by what they are multiplied
    "capped_wer": ("WER with the cap", 100), "wer": ("WER", 100), "macro_wer": ("mean of languages", 100),
    "spelled_wer": ("numbers spelled out", 100), "chrf": ("chrF", 1), "bleu": ("BLEU", 1),
}  # fmt: skip
FEW = 4  # places that are named beside the first
CLIPS = {ALL: "all clips", NOVEL: "novel clips"}
WORDS = {
    inference.HOLDS: "better", inference.FAILS: "worse", inference.EQUIVALENT: "the same, within the margin",
    inference.OPEN: "undecided",
}  # fmt: skip


def primary(task: str) -> str:
    """Return the metric that a task is judged by."""
    return protocol.read().metrics[task].primary


def frame(
    profile: str, experiment: str, *, clips: str = ALL, task: str | None = None, metric: str | None = None
) -> pd.DataFrame:
    """Return the measures and comparisons of an experiment as a frame (:mod:`.results`), all seeds together.

    Args:
        profile: whose results.
        experiment: measured by the protocol.
        clips: ``all`` or ``novel``.
        task: None for all.
        metric: of the protocol; the primary one of each task if none is named.

    Returns:
        The frame's columns, and those of the two tables; ``same`` says that a difference lies within the margin.

    Raises:
        StudyError: it has no measures.
    """
    measured = store.statistics(profile, f"{experiment}.measures").assign(against=None)
    compared = store.statistics(profile, f"{experiment}.comparisons")
    compared = compared.assign(value=compared["difference"], same=compared["verdict"] == inference.EQUIVALENT)
    found = results.with_methods(pd.concat([measured, compared], ignore_index=True))
    wanted = found["task"].map({one: primary(one) for one in found["task"].unique()}) if metric is None else metric
    found = found[(found["metric"] == wanted) & (found["clips"] == clips) & (task is None or found["task"] == task)]
    unit = found["metric"].map({name: unit for name, (_, unit) in SHOWN.items()}).astype(float)
    wide = found["wide_low"].notna()
    ends = {end: unit * found[f"wide_{end}"].where(wide, found[f"ci_{end}"]).astype(float) for end in ("low", "high")}
    place = found["group"].where(found["group"] != OWN, found["task"].map(AVERAGE))
    single = _places(profile, experiment, *experiments.experiments()[experiment].also)
    of = found["group"].map(lambda name: "average" if name == OWN else "place" if name in single else "group")
    return found.assign(value=unit * found["value"].astype(float), place=place, of=of, seed=0, before=None, **ends)


def _places(profile: str, experiment: str, *also: str) -> list[str]:
    """Return the languages or domains that an experiment's own table is about, and those of further sets."""
    sets = experiments.settings_of(profile, experiment).sets
    return [place for name in (experiments.experiments()[experiment].languages, *also) for place in sets[name]]


def measured(
    profile: str, experiment: str, *, task: str = "asr", metric: str | None = None, clips: str = ALL
) -> pd.DataFrame:
    """Return one line a system and language, and one for all languages, in the columns that figures and tables read.

    Arguments as for :func:`frame`. The order is that of the experiment's file; error rates are in per cent, BLEU and
    chrF from 0 to 100. Column ``language`` has the place.
    """
    found = frame(profile, experiment, clips=clips, task=task, metric=metric)
    order = [entry.system for entry in experiments.experiments()[experiment].systems]
    places = [*_places(profile, experiment), AVERAGE[task]]
    found = found[found["against"].isna() & found["place"].isin(places) & found["system"].isin(order)]
    return results.ordered(found, system=order, place=places).assign(language=lambda table: table["place"])


def outcomes(profile: str, experiment: str, against: str, *, task: str = "asr") -> pd.DataFrame:
    """Return one line a system held against another over all cells, on all and on novel clips, ready to be read.

    Arguments as for :func:`frame`. Columns, for each kind of clips: difference in points, its 95 % interval, and what
    it says of the system.
    """
    order = [entry.system for entry in experiments.experiments()[experiment].systems if entry.system != against]
    sides = {}
    for clips, title in CLIPS.items():
        found = frame(profile, experiment, clips=clips, task=task)
        own = found[(found["against"] == against) & (found["place"] == AVERAGE[task])]
        own = own.set_index("system").reindex(order).dropna(subset=["value"])
        if own.empty:  # there are no novel clips
            continue
        ends = own["low"].map(signed) + TO + own["high"].map(signed)
        sides[title] = pd.DataFrame(
            {"points": own["value"].map(signed), "95 % interval": ends, "it is": own["verdict"].map(WORDS)}
        )
    return pd.concat(sides, axis=1).rename_axis(index=None, columns=[f"against {against}", None])


def averages(profile: str, experiment: str, *, task: str = "asr") -> pd.DataFrame:
    """Return one line a system: every metric over all cells on all clips, and the primary one on novel clips.

    Arguments as for :func:`frame`.
    """
    metrics = protocol.read().metrics[task]
    columns = {}
    for clips, names in ((ALL, (metrics.primary, *metrics.secondary)), (NOVEL, (metrics.primary,))):
        for metric in names:
            own = measured(profile, experiment, task=task, metric=metric, clips=clips)
            own = own[own["language"] == AVERAGE[task]].set_index("system")
            if own.empty:  # there are no novel clips
                continue
            ends = own["low"].map("{:.1f}".format) + DASH + own["high"].map("{:.1f}".format)
            columns[CLIPS[clips], SHOWN[metric][0]] = own["value"].map("{:.1f}".format) + " (" + ends + ")"
    return pd.DataFrame(columns).rename_axis(index=None)


def verdict(found: pd.DataFrame, system: str, against: str, *, task: str = "asr", place: str | None = None) -> str:
    """Return what a comparison says of a system in words, with the difference and its interval.

    Args:
        found: what :func:`frame` returns; nothing where there are no clips of the kind.
        system: the subject.
        against: what it is compared with.
        task: ``asr`` or ``st``.
        place: a language or group; None for the average.

    Raises:
        StudyError: the two were not compared.
    """
    if found.empty:
        return "not known, for there are no such clips"
    own, other = (results.pair(found, *two, task, place) for two in ((system, against), (against, system)))
    if len(own) == 1:
        [row] = own.itertuples()
        return f"{WORDS[row.verdict]} ({points(row, TO)})"
    if len(other) == 1:
        [row] = results.turned(other).itertuples()
        return f"{_turned(WORDS[row.verdict])} ({points(row, TO)})"
    raise StudyError(f"{system!r} was not compared with {against!r} in task {task!r}; see `against` in experiments/.")


def _turned(word: str) -> str:
    """What a comparison says of the system that was subtracted."""
    return {"better": "worse", "worse": "better"}.get(word, word)


def trainings(profile: str, experiment: str) -> pd.DataFrame:
    """Return one line a training behind an experiment's rows: rate, steps, and what became of the weights.

    Args:
        profile: whose results.
        experiment: with rows of trained systems.

    Returns:
        Columns ``minutes, rate, steps, best step, update`` (its Euclidean norm, per cent of the base's), ``in the
        token table`` and ``in rows never read`` (shares of its squared norm, per cent), a line a model and seed; words
        with which all names end are left out.
    """
    found = pd.DataFrame.from_dict(logs(store.rows(profile, experiment)), orient="index")
    table = pd.DataFrame(
        {
            "minutes": found["minutes"].map("{:.0f}".format),
            "rate": found["learning_rate"].map("{:g}".format),
            "steps": found["steps"],
            "best step": found["best_step"],
            "update, %": (100 * found["update"]).map("{:.2f}".format),
            "in the token table, %": (100 * found["in_table"]).round(1),
            "in rows never read, %": (100 * found["in_unseen_rows"]).round(1),
        }
    )
    table = table.rename(index=_told).sort_index()
    return table.set_axis(_without_common_end(list(table.index)))


def _told(training: str) -> str:
    """Return the name of a training as a table has room for it: of many places the first, and how many others."""
    places, *rest = training.removeprefix("choose ").split()
    first, *others = places.split("+")
    return " ".join([f"{first} and {len(others)} others" if len(others) > FEW else places, *rest])


def _without_common_end(names: list[str]) -> list[str]:
    """Leave out the words with which all of several names end, as a task or seed that is everybody's."""
    parted = [name.rpartition(" ") for name in names]
    if len(names) < 2 or len({last for *_, last in parted}) > 1 or not all(before for before, *_ in parted):
        return names
    return _without_common_end([before for before, *_ in parted])


def seeds(profile: str, experiment: str, *, task: str = "asr") -> pd.DataFrame:
    """Return one line a system: its primary metric over all cells with each training seed, and how far they lie apart.

    Arguments as for :func:`frame`. A pretrained model says the same with every seed and is left out.
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
    table = pd.DataFrame.from_dict(lines, orient="index").round(4)
    return table.rename_axis(columns="development loss at the rate")


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
