"""What stands behind a table of systems: the trainings, and what was chosen on dev."""

from collections.abc import Iterator

import pandas as pd

from speechmerge.merging.methods import registry

from ..figures.style import AVERAGES
from ..study import experiments
from ..study.partitions import label, parts
from ..study.plans import Cell
from .outcomes import logs

NAMES = {"density": "density", "rank_ratio": "rank ratio"}  # parameters that every expert has one of, as shown


def _named(training: str) -> str:
    """The group of cells in the name of a training's step: ``es asr`` of ``choose es asr seed 1``."""
    return training.removeprefix("choose ").split(" seed ")[0].rstrip(",")


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """Leave the task out of the index where all lines have the same."""
    return table.rename(index=lambda name: name.split()[0]) if len({n.split()[1] for n in table.index}) == 1 else table


def _logs(rows: pd.DataFrame) -> dict[str, dict]:
    """The log of every training behind the rows, by the cells it was trained on."""
    return {_named(name): log for name, log in logs(rows).items()}


def trainings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line a training behind the rows: what it heard, the learning rate chosen on dev, the epoch kept.

    Args:
        rows: what :func:`speechbook.tables.outcomes.measured` returns. Of trainings in sequence the last one is listed.
    """
    table = pd.DataFrame.from_dict(_logs(rows), orient="index")
    table["epoch kept"] = table["best_epoch"].astype(str) + " of " + table["epochs"].astype(str)
    table["windows/s"] = (table["windows"] / table["seconds"]).round(2)
    table = table.rename(columns={"learning_rate": "learning rate"})
    return _short(table[["minutes", "learning rate", "epoch kept", "windows", "windows/s"]])


def _merged(rows: pd.DataFrame) -> Iterator[tuple[str, str, list[str], dict]]:
    """Yield system, name of the merged model, names of its experts, and parameters, for every cell of every merge."""
    known = experiments.experiments()
    cells = rows[rows["method"].isin(registry()) & ~rows["language"].isin(sum(AVERAGES.values(), ()))]
    for row in cells.itertuples():
        [entry] = [e for e in known[row.experiment].systems if e.system == row.system]
        every = tuple(Cell(name, name, task, ()) for name, task in (expert.split(":") for expert in row.experts))
        [group] = [
            part
            for part in parts(every, entry.into)
            if (row.language, row.task) in {(cell.name, cell.task) for cell in part}
        ]
        yield row.system, label(group), [label(part) for part in parts(group, entry.of)], row.params


def choices(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line an expert: its learning rate, and the density and rank ratio that merges keep of it.

    All were chosen on development clips: the rate by the loss, the others by the error of that expert pruned alone.
    Where systems chose differently, all their values stand in the cell.

    Args:
        rows: what :func:`speechbook.tables.outcomes.measured` returns.
    """
    rates = {name: log["learning_rate"] for name, log in _logs(rows).items()}
    found: dict[str, dict[str, dict[str, None]]] = {}
    for _, _, experts, params in _merged(rows):
        for number, expert in enumerate(experts):
            line = found.setdefault(expert, {"learning rate": {f"{rates[expert]:g}": None}})
            for parameter, shown in NAMES.items():
                values = params.get(parameter)
                if values is not None:
                    own = values[number] if isinstance(values, list) else values
                    line.setdefault(shown, {})[f"{own:g}"] = None
    table = pd.DataFrame.from_dict(found, orient="index")
    kept = [column for column in ("learning rate", *NAMES.values()) if column in table]
    return _short(table[kept].map(", ".join, na_action="ignore").fillna(""))


def scalings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the scaling that each merge chose by its own dev error: one line a system, one column a merged model.

    Args:
        rows: what :func:`speechbook.tables.outcomes.measured` returns. Merges without a tuned scaling are left out.
    """
    found: dict[str, dict[str, str]] = {}
    for system, model, _, params in _merged(rows):
        if "scaling" in params:
            found.setdefault(system, {})[model] = f"{params['scaling']:.3g}"
    table = _short(pd.DataFrame.from_dict(found)).T.fillna("")
    return (table.set_axis(["λ"], axis=1) if table.shape[1] == 1 else table).rename_axis(columns="λ of")
