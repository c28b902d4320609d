"""Tables for the book: committed rows in the order of their experiment, beside published values, ready to draw."""

from collections.abc import Mapping, Sequence

import pandas as pd

from ..errors import StudyError
from ..evaluation import resampling
from ..evaluation.scoring import Counts
from ..studies import experiments, store

AVERAGES = ("macro", "pooled")
BLOCKS = ("attention", "cross-attention", "mlp")  # parts of a layer, in the order they are shown


def _order(experiment: str) -> list[str]:
    """Systems of an experiment, in the order its file lists them."""
    return [entry["system"] for entry in experiments.experiments()[experiment]["systems"]]


def measured(rows: pd.DataFrame, *, seed: int | None = None) -> pd.DataFrame:
    """Return the rows of one seed in the order of the experiment's file, languages in the order of its plan.

    Args:
        rows: what :func:`speechmerge.studies.store.rows` returns for one experiment.
        seed: of the trainings; None takes the lowest there is. A system without training has one seed only.

    Raises:
        StudyError: a system or a language of the experiment has no row.
    """
    [(experiment, profile)] = rows[["experiment", "profile"]].drop_duplicates().itertuples(index=False)
    systems = _order(experiment)
    settings = experiments.profiles()[profile]
    languages = [*settings["sets"][experiments.experiments()[experiment]["languages"]], *AVERAGES]
    seed = rows["seed"].min() if seed is None else seed
    trained = rows[(rows["seed"] == seed) | (rows["method"] == "none")]
    found = trained.set_index(["system", "language"])
    wanted = pd.MultiIndex.from_product([systems, languages], names=["system", "language"])
    missing = wanted.difference(found.index)
    if len(missing):
        system, language = missing[0]
        raise StudyError(
            f"{experiment} on {profile} lacks {len(missing)} of {len(wanted)} rows, the first of {system!r} in "
            f"{language!r}; run `speechmerge study run --profile {profile} --experiment {experiment}`."
        )
    return found.loc[wanted].reset_index()


def published(experiment: str) -> pd.DataFrame:
    """Return the paper's values for an experiment: columns ``system, language, published`` (WER in %, BLEU 0 to 100).

    The paper's average over languages pools words, so its language is ``pooled``, as that of the measured one is.
    """
    source = experiments.experiments()[experiment]["published"]
    table = pd.read_csv(store.project_root() / "experiments" / "published" / source["file"])
    chosen = table[(table["table"] == source["table"]) & (table["language_set"] == source["language_set"])]
    chosen = chosen.assign(language=chosen["language"].replace("avg", "pooled"))
    return chosen.rename(columns={"value": "published"})[["system", "language", "published"]].reset_index(drop=True)


def comparison(rows: pd.DataFrame, paper: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one line a system, ready to be read: per cent in each language and over all, interval, published value.

    Args:
        rows: what :func:`measured` or :func:`scored` returns.
        paper: what :func:`published` returns.
    """
    per_cent = (100 * rows[["wer", "ci_low", "ci_high"]]).map("{:.1f}".format)
    cells = rows.assign(cell=per_cent["wer"], span=per_cent["ci_low"] + "–" + per_cent["ci_high"])
    cells = cells[cells["language"] != "macro"]  # one average is enough to read
    table = cells.pivot(index="system", columns="language", values="cell")
    table = table.loc[cells["system"].unique(), cells["language"].unique()]
    table["95 % interval"] = cells[cells["language"] == "pooled"].set_index("system")["span"]
    if paper is not None:
        values = paper[paper["language"] == "pooled"].set_index("system")["published"]
        table["published"] = [f"{values[system]:.2f}" if system in values else "" for system in table.index]
    return table.rename(columns={"pooled": "all"}).rename_axis(index=None, columns="WER, %")


def scored(
    counts: Mapping[str, Sequence[Counts]], methods: Mapping[str, str], languages: Sequence[str]
) -> pd.DataFrame:
    """Return the rows of systems that were decoded just now, in the columns that figures and tables read.

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
            lines.append((system, methods[system], language, rate, low, high, sum(c.runaway for c in some)))
    return pd.DataFrame(lines, columns=["system", "method", "language", "wer", "ci_low", "ci_high", "runaway"])


def value(rows: pd.DataFrame, system: str, column: str = "wer", language: str = "pooled") -> float:
    """Return one number of the measured rows, to be glued into a sentence; rates as fractions."""
    [row] = rows[(rows["system"] == system) & (rows["language"] == language)].itertuples()
    return float(getattr(row, column))


def trainings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line a training behind the rows: what it heard, the learning rate chosen on dev, the epoch kept.

    Args:
        rows: what :func:`measured` returns.
    """
    found = {name.split()[1]: log for logs in rows["training"] for name, log in logs.items()}
    table = pd.DataFrame.from_dict(found, orient="index")
    table["epoch kept"] = table["best_epoch"].astype(str) + " of " + table["epochs"].astype(str)
    table["windows/s"] = (table["windows"] / table["seconds"]).round(2)
    table = table.rename(columns={"learning_rate": "learning rate"})
    return table[["minutes", "learning rate", "epoch kept", "windows", "windows/s"]]


def paired(found: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return one line a system compared with ``against`` on the same utterances, ready to be read.

    Args:
        found: statistics ``NAME.paired``: columns ``system, against, seed, difference, ci_low, ci_high, p_value``.
        against: the system the others are compared with; a negative difference means fewer errors than it makes.
    """
    rows = found[(found["against"] == against) & (found["seed"] == found["seed"].min())].set_index("system")
    points = (100 * rows[["difference", "ci_low", "ci_high"]]).map("{:+.1f}".format)
    table = pd.DataFrame({"difference, points": points["difference"]})
    table["95 % interval"] = points["ci_low"] + " to " + points["ci_high"]
    table["p"] = rows["p_value"].map(lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}")
    return table.rename_axis(index=None, columns=f"against {against}")


def verdict(found: pd.DataFrame, system: str, against: str) -> str:
    """Return in words what the paired interval of two systems allows to say.

    Args:
        found: as for :func:`paired`.
        system: the subject of the sentence.
        against: its object.
    """
    rows = found[(found["system"] == system) & (found["against"] == against) & (found["seed"] == found["seed"].min())]
    [row] = rows.itertuples()
    if row.ci_high < 0:
        return "fewer word errors than"
    return "more word errors than" if row.ci_low > 0 else "neither reliably fewer nor reliably more word errors than"


def by_layer(norms: pd.DataFrame) -> pd.DataFrame:
    """Join the norms of single tensors into those of parts of the network.

    Args:
        norms: rows of kind ``norm`` of :func:`speechmerge.merging.task_vectors.describe`.

    Returns:
        Columns ``expert, part, layer, relative_norm``, parts in the order of :data:`BLOCKS`: the norm of all updates
        in a part and layer over the norm of the weights they change. Layer norms, whose weights are near one and
        hardly move, and tensors outside the layers are left out.
    """
    inside = norms[norms["layer"].notna() & norms["block"].isin(BLOCKS)]
    inside = inside.sort_values("block", key=lambda blocks: blocks.map(BLOCKS.index), kind="stable")
    inside = inside.sort_values("stack", ascending=False, kind="stable")
    squares = inside.assign(
        part=inside["stack"] + " " + inside["block"],
        layer=inside["layer"].astype(int),
        update=inside["norm"] ** 2,
        weights=inside["base_norm"] ** 2,
    )
    sums = squares.groupby(["expert", "part", "layer"], sort=False)[["update", "weights"]].sum()
    relative = (sums["update"] / sums["weights"]) ** 0.5
    return relative.rename("relative_norm").reset_index()


def spectra(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average the spectra of all matrices of each expert.

    Args:
        rows: rows of kind ``spectrum`` of :func:`speechmerge.merging.task_vectors.describe`.

    Returns:
        ``(values, energy)`` with columns ``expert, share_of_rank, ratio`` and ``expert, share_of_rank, energy``: the
        singular values over the largest one, and the share of the squared norm in the leading ones. Matrices that did
        not move are left out.
    """
    moved = rows[rows["stable_rank"] > 0]
    points = [
        (row.expert, round(i / (len(row.singular_values) - 1), 3), value / row.singular_values[0])
        for row in moved.itertuples()
        for i, value in enumerate(row.singular_values)
    ]
    shares = [
        (row.expert, float(share), value)
        for row in moved.itertuples()
        for share, value in row.energy_at.items()
    ]  # fmt: skip
    frames = (
        pd.DataFrame(points, columns=["expert", "share_of_rank", "ratio"]),
        pd.DataFrame(shares, columns=["expert", "share_of_rank", "energy"]),
    )
    return tuple(frame.groupby(["expert", "share_of_rank"], sort=False).mean().reset_index() for frame in frames)
