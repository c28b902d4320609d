"""Commands of the study and the book: study, book, students, cards; entry points of the library's command line."""

import logging
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from speechmerge.cli.groups import Group, example, with_options

if TYPE_CHECKING:
    from .study.plans import Plan

logging.getLogger("speechbook").setLevel(logging.INFO)  # what a long run is at is said, as by the library's commands


@click.group(cls=Group, epilog=example("speechmerge study status --experiment table1"))
def study() -> None:
    """Plan, run or look at the experiments of the book."""


KINDS = (  # of steps, in the order in which they are told
    *("train", "rate", "choose", "decode", "tune", "match", "describe"),
    *("hear", "fuse_rate", "fuse", "late", "alike"),
)


_study_options = with_options(  # that choose experiments
    click.option("--experiment", "names", multiple=True, help="Experiment to take; repeatable (default: all)."),
    click.option("--profile", default="speech", show_default=True),
    click.option("--system", "systems", multiple=True, help="Only this system of a table; repeatable."),
    click.option(
        "--seed",
        "seeds",
        multiple=True,
        type=click.IntRange(0),
        help="Training seed; repeatable (default: the profile's).",
    ),
)


def _plans(
    names: tuple, profile: str, systems: tuple, seeds: tuple, *, take: bool = False, measured: bool = False
) -> list:
    from .study import experiments, fusion_planning

    if systems and not names:
        raise click.UsageError("--system needs --experiment, whose systems it chooses from.")
    planner = fusion_planning if profile in fusion_planning.profiles() else experiments
    wanted, expand = names or tuple(planner.runnable(profile)), planner.plan
    if measured:
        from .study.pace import measure  # which brings in what trains and decodes

        if planner is fusion_planning:
            raise click.UsageError("--measure times the training of Whisper, of which a profile of fusion does none.")
        expand = partial(expand, pace=measure(expand(wanted[0], profile)))
    return [_plan(expand, name, profile, systems, seeds, take) for name in wanted]


def _plan(expand: Callable, name: str, profile: str, systems: tuple, seeds: tuple, take: bool) -> "Plan":
    """Plan an experiment, or a part of it; seeds that are not the profile's make a plan of their own."""
    from .study import plans

    made = expand(name, profile)
    own = set(seeds) <= {system.seed for system in made.systems}
    made = made if own else expand(name, profile, list(seeds))
    if take:
        from .study.study import take_choices  # which brings in what trains and decodes

        click.echo(f"{name} ({profile}): {take_choices(made)} committed choices taken over")
    return plans.narrowed(made, systems, seeds if own else ())


def _is_fusion(made: "Plan") -> bool:
    """Whether a plan is of an experiment that fuses frozen models, whose rows have fields of their own."""
    return made.experiment.kind == "fusion"


def _committed(made: "Plan") -> int:
    """Count the committed rows of an experiment, or its statistics where nothing is tested."""
    from .study import store, table_files

    kind = "fused" if _is_fusion(made) else "rows" if made.systems else "statistics"
    return table_files.count(store.table_path(made.profile, f"{made.name}.{kind}"))


@study.command(epilog=example("speechmerge study plan --experiment table1"))
@_study_options
@click.option(
    "--measure", is_flag=True, help="Train and decode for a minute first, and count with what this machine does."
)
def plan(names: tuple, profile: str, systems: tuple, seeds: tuple, measure: bool) -> None:
    """Print what a run would do, how long it would take on the machine the profile describes, and the disk it needs."""
    made = _plans(names, profile, systems, seeds, measured=measure)
    left = [one.pending() for one in made]
    for one, pending in zip(made, left, strict=True):
        _print_plan(f"{one.name} ({profile})", len(one.steps), pending)
    if len(made) > 1:
        steps = {step.key for one in made for step in one.steps.values()}
        pending = {step.key: step for part in left for step in part}.values()
        _print_plan(f"together ({profile}), shared steps once", len(steps), pending)
        trainings = sum(step.kind == "train" for step in pending)
        click.echo(f"trained models to be kept: {trainings * made[0].settings.here.model_gb:.0f} GB")
    click.echo(f"times are those of {made[0].settings.here.machine}")


def _print_plan(title: str, steps: int, pending: Collection) -> None:
    counts = [(kind, sum(step.kind == kind for step in pending)) for kind in KINDS]
    todo = ", ".join(f"{count} {kind}" for kind, count in counts if count) or "nothing"
    minutes = sum(step.seconds for step in pending) / 60
    needed = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    click.echo(f"{title}: {steps - len(pending)} of {steps} steps done; to do: {todo}; about {needed}")


@study.command(
    "run",
    epilog=example("speechmerge study run --experiment table1\nspeechmerge study run --experiment table1 --recompute"),
)
@_study_options
@click.option("--recompute", is_flag=True, help="Forget finished steps and do everything again.")
@click.option(
    "--take-choices",
    is_flag=True,
    help="Take committed choices on dev over, of the same steps: for seeds and systems that are still to be measured.",
)
@click.option(
    "--executor",
    default="local",
    show_default=True,
    type=click.Choice(["local", "ray"]),
    help="One step after another, or several at once: Ray, on this machine or its cluster.",
)
def study_run(
    names: tuple, profile: str, systems: tuple, seeds: tuple, recompute: bool, take_choices: bool, executor: str
) -> None:
    """Train, merge, decode and score what is not done yet; write rows and predictions to results/PROFILE.

    Ends with how the new rows compare with the committed ones.
    """
    from .study.store import measured
    from .study.study import forget, run

    for made in _plans(names, profile, systems, seeds, take=take_choices):
        if recompute:
            forget(made)
        _print_plan(f"{made.name} ({profile})", len(made.steps), made.pending())
        before = measured(profile, made.name)
        rows = run(made, executor=executor)
        if _is_fusion(made):
            click.echo(f"{made.name}: {len(rows)} rows written")
        else:
            _print_changes(made.name, "written", before, rows)


@study.command(epilog=example("speechmerge study rescore --experiment table1"))
@_study_options
def rescore(names: tuple, profile: str, systems: tuple, seeds: tuple) -> None:
    """Score the committed predictions again, without a model, and compare with the committed rows and verdicts.

    Fetches the test speech it needs. Ends with exit code 1 if a row differs.
    """
    from .study import fusion_rows
    from .study.rows import judged, rescored
    from .study.store import measured, unlike

    differ = 0
    for made in (made for made in _plans(names, profile, systems, seeds) if made.systems):
        if not names and not _committed(made):
            continue  # it was not measured yet
        if not _is_fusion(made):
            differ += _print_changes(made.name, "scored", measured(profile, made.name), rescored(made))
        tables = fusion_rows.rescored(made) if _is_fusion(made) else judged(made)
        for name, found in tables.items():
            other = unlike(profile, name, found)
            click.echo(f"{name}: {len(found)} rows; {len(found) - len(other)} as committed, {len(other)} differ")
            differ += len(other)
    if differ:
        raise SystemExit(1)


def _print_changes(name: str, done: str, before: list[dict], after: list[dict]) -> int:
    """Say how many rows are new, the same as committed, or different, name the different ones and return how many."""
    from speechmerge.evaluation.scoring import METRICS

    from .study.reproduction import changes

    pairs = list(changes(before, after))
    differ = [pair for pair in pairs if pair[2]]
    same, new = len(pairs) - len(differ), len(after) - len(pairs)
    click.echo(f"{name}: {len(after)} rows {done}; {same} as committed, {len(differ)} differ, {new} are new")
    for was, row, points in differ:
        metric = METRICS[row["task"]]
        unit = 100 if metric == "wer" else 1
        place = " ".join(filter(None, (row["system"], row["variant"], row["language"], row["domain"], row["task"])))
        told = f"{metric} {unit * was[metric]:.2f} -> {unit * row[metric]:.2f} ({points:+.2f})"
        click.echo(f"  {place} seed {row['seed']}: {told}")
    return len(differ)


@study.command(epilog=example("speechmerge study compare again --experiment interference"))
@click.argument("results", type=click.Path(file_okay=False, path_type=Path))
@click.option("--experiment", "names", multiple=True, required=True, help="Experiment to compare; repeatable.")
@click.option("--profile", default="speech", show_default=True)
@click.option("--keep", is_flag=True, help="Add the outcome to results/PROFILE, for the book's status page.")
def compare(results: Path, names: tuple, profile: str, keep: bool) -> None:
    """Compare rows and transcripts that were measured again, in the folder RESULTS, with the committed ones.

    `study run` writes there if the environment variable SPEECHMERGE_RESULTS names the folder. Ends with exit code 1 if
    they were measured on other speech, or an average differs by more than the tolerance.
    """
    from .study import reproduction

    found = [reproduction.compared(profile, name, results) for name in names]
    for one in found:
        counts = "the same" if one["counts"] else "DIFFERENT"
        click.echo(
            f"{one['experiment']}: {one['rows']} rows; speech and counts {counts}; {one['same']} of "
            f"{one['transcripts']} transcripts equal; largest difference {one['largest']:.2f} points in a language, "
            f"{one['average']:.2f} in an average (tolerance {reproduction.TOLERANCE:g})"
        )
    if keep:
        reproduction.keep(profile, found)
    if not all(one["within"] for one in found):
        raise SystemExit(1)


@study.command(epilog=example("speechmerge study status"))
@_study_options
def status(names: tuple, profile: str, systems: tuple, seeds: tuple) -> None:
    """Say for every experiment which steps are done here and how many rows are committed."""
    for made in _plans(names, profile, systems, seeds):
        done, rows = len(made.steps) - len(made.pending()), _committed(made)
        click.echo(f"{made.name} ({profile}): {rows} committed rows; {done} of {len(made.steps)} steps in this cache")


@click.command(
    epilog=example(
        "speechmerge book --profile speech\nspeechmerge book --again table1\nspeechmerge book --pdf book.pdf"
    ),
    short_help="Execute the notebooks and render the book.",
)
@click.option("--profile", help="Whose rows the pages show (default: each page's own).")
@click.option("--again", multiple=True, help="Page to execute even if it is current; repeatable.")
@click.option(
    "--pdf", type=click.Path(dir_okay=False, path_type=Path), help="Also print the whole book into this file."
)
def book(profile: str | None, again: tuple, pdf: Path | None) -> None:
    """Execute the notebooks that are not current, render the book, check it, and print its first page.

    A notebook that fails leaves a page that says so; the others are rendered, and the command ends with exit code 1.
    """
    from .pages import printing
    from .pages.building import build_book
    from .study.experiments import settings_of
    from .study.store import project_root

    if profile:
        settings_of(profile)  # a misspelt name ends here, not in the first notebook
    if pdf:
        printing.browser()
    click.echo(build_book(profile, again=again))
    if pdf:
        click.echo(printing.print_book(project_root(), pdf))


@click.command(epilog=example("speechmerge students course --page table1"))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--page", "pages", multiple=True, help="Page to write; repeatable (default: all).")
def students(folder: Path, pages: tuple) -> None:
    """Write the notebooks of the book to FOLDER as students get them: without solutions, with room for their own."""
    from .pages.course import write_students
    from .study.store import project_root

    for path in write_students(project_root(), folder, pages):
        click.echo(path)


@click.command(epilog=example("speechmerge cards --update"))
@click.option("--update", is_flag=True, help="Rewrite the generated numbers instead of only checking them.")
def cards(update: bool) -> None:
    """Check the numbers in data_cards/ against the fetched corpora, and pages against registry, findings and rows."""
    from speechmerge import corpora

    from .pages import adapter_tables, in_short, method_cards, surprises
    from .pages.cards import check_block, check_card, update_card, write_block
    from .study.store import project_root

    root = project_root()
    generated = {
        surprises.PAGE: surprises.render(root / "findings"),
        in_short.PAGE: in_short.render(),
        adapter_tables.PAGE: adapter_tables.render(),
    }
    if update:
        for path in method_cards.update(root / "book"):
            click.echo(f"{path.relative_to(root)}: updated")
        for page, text in generated.items():
            click.echo(f"{page}: {'updated' if write_block(root / page, text) else 'current'}")
    else:
        method_cards.check(root / "book")
        for page, text in generated.items():
            check_block(root / page, text)
        click.echo("methods, findings, adapters and the README: current")
    for name, declared in corpora.registry().items():
        if reason := corpora.skipped(declared):
            click.echo(f"{name}: not checked, because {reason}")
            continue
        path = root / "data_cards" / f"{name}.md"
        if update:
            click.echo(f"{name}: {'updated' if update_card(path) else 'current'}")
        else:
            check_card(path)
            click.echo(f"{name}: current")
