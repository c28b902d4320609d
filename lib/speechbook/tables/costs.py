"""What it costs to get one model for several languages: windows heard, seconds of training, merging and choosing."""

import pandas as pd

from speechmerge.errors import StudyError
from speechmerge.merging import searching

from ..figures.style import AVERAGE
from ..study import estimates, experiments
from ..study.plans import Plan, Step, System
from .outcomes import logs


def of_systems(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line a system: what making its model or models took.

    Args:
        rows: what :func:`speechbook.tables.outcomes.measured` returns, of one task.

    Returns:
        Index ``system``; ``method``; ``languages``; ``trainings`` and the training ``windows`` and ``training``
        seconds of those that were kept (each was done once for every learning rate that was tried); ``merging``
        seconds of the final merge; ``clips`` of dev speech decoded to choose its parameters; ``pruning`` and
        ``scaling``, the seconds of choosing what is kept of each expert and how much of the sum is added, estimated
        from the speed on test clips of the system that was decoded fastest (other work slows single ones down), from
        that of training, of which hearing takes a part, and one merge a candidate.

    Raises:
        StudyError: the rows are of a version that did not note the seconds of merging.
    """
    [(experiment, profile, task)] = rows[["experiment", "profile", "task"]].drop_duplicates().itertuples(index=False)
    if rows["merge_seconds"].isna().any():
        raise StudyError(
            f"rows of {experiment} on {profile} do not say how long merging took; collect them again: "
            f"`speechmerge study run --profile {profile} --experiment {experiment}`."
        )
    plan = experiments.plan(experiment, profile)
    planned = {(s.system, s.seed): s for s in plan.systems}
    lines, averages = {}, rows[rows["language"] == AVERAGE[task]]
    pace = float((averages["seconds"] / averages["n_utterances"]).min())
    for row in averages.itertuples():
        trainings = logs(rows[rows["system"] == row.system])
        merging = float(row.merge_seconds)
        windows, seconds = (sum(log[key] for log in trainings.values()) for key in ("windows", "seconds"))
        hearing = seconds / windows / estimates.FORWARD if windows else 0.0
        (alone, pruned, listened), (merged, scaled, heard) = _choosing(plan, planned[row.system, row.seed])
        lines[row.system] = {
            "method": row.method,
            "languages": len(row.experts),
            "trainings": len(trainings),
            "windows": windows,
            "training": seconds,
            "merging": merging,
            "clips": pruned + scaled,
            "pruning": pruned * pace + listened * hearing + alone * merging / max(1, len(row.experts)),
            "scaling": scaled * pace + heard * hearing + merged * merging,
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("system")


def _choosing(plan: Plan, system: System) -> tuple[tuple[int, int, float], ...]:
    """Count candidate models, dev clips decoded and windows heard, for choices about experts and about the merge."""
    waiting, tunes = list(system.decodes.values()), set()
    while waiting:
        needs = plan.steps[waiting.pop()].needs
        waiting += needs
        tunes |= {need for need in needs if plan.steps[need].kind == "tune"}
    found = []
    for per_expert in (True, False):
        chosen = [plan.steps[name] for name in tunes if plan.steps[name].spec["per_expert"] == per_expert]
        decoded, heard = (sum(count(plan, step) for step in chosen) for count in (_decoded, _heard))
        found.append((sum(map(_candidates, chosen)), decoded, heard))
    return tuple(found)


def _candidates(step: Step) -> int:
    """Count the merges that a choice made: those of its grid, or about as many as a search tries."""
    search = step.spec.get("search")
    return len(search["values"] or range(estimates.EVALUATIONS)) if search else len(step.spec["grid"])


def _decoded(plan: Plan, step: Step) -> int:
    """Count the dev clips that a choice decoded: of each point of a grid, or of the best that a search found."""
    if "search" not in step.spec:
        return len(step.needs) * estimates.dev_clips(plan.settings)
    models = _candidates(step) if "decoded" in step.spec["search"] else searching.FINALISTS
    return models * len(step.spec["cells"]) * estimates.dev_clips(plan.settings)


def _heard(plan: Plan, step: Step) -> float:
    """Count the windows whose loss a search took, with all its candidates."""
    return _candidates(step) * len(step.spec.get("cells", ())) * estimates.windows(estimates.dev_clips(plan.settings))


def one_more(costs: pd.DataFrame, joint: str, merges: list[str]) -> pd.DataFrame:
    """Return what one more language costs, given those there are: as much speech, trained as long, as their mean.

    Joint training is done again with all languages. With experts, one is trained, what is kept of it is chosen, and all
    are merged again; merging and choosing the scaling grow with the number of languages.

    Args:
        costs: what :func:`of_systems` returns.
        joint: the system that trains on all languages.
        merges: systems that merge one expert a language.
    """
    many = costs.loc[joint, "languages"]
    once, again = ["windows", "training", "pruning"], ["merging", "scaling"]
    table = costs.loc[[joint, *merges], [*once, *again]].astype(float)
    table.loc[joint] *= (many + 1) / many
    table.loc[merges, again] *= (many + 1) / many
    table.loc[merges, once] /= many
    return table.assign(total=table[["training", "pruning", "merging", "scaling"]].sum(axis=1))


def growth(costs: pd.DataFrame, joint: str, merges: list[str], most: int = 10) -> pd.DataFrame:
    """Return the time spent in all if languages come one by one and there is one model for all after each.

    Returns:
        Columns ``panel, system, method, x, value, low, high``: minutes by number of languages, from two on. This is
        arithmetic on the measured costs of one language and of one merge; it has no interval.
    """
    each = costs[["training", "pruning", "merging", "scaling"]].div(costs["languages"], axis=0)
    lines = []
    for name in (joint, *merges):
        own = each.loc[name]
        again = own["training"] if name == joint else own["merging"] + own["scaling"]
        once = 0.0 if name == joint else own["training"] + own["pruning"]
        for count in range(2, most + 1):
            seconds = once * count + again * sum(range(2, count + 1))  # of 2 languages, then of 3, ...
            lines.append(("", name, costs.loc[name, "method"], count, seconds / 60))
    table = pd.DataFrame(lines, columns=["panel", "system", "method", "x", "value"])
    return table.assign(low=float("nan"), high=float("nan"))
