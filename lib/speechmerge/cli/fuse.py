"""Commands that fuse frozen speech models: list, plan, features, train, score."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .groups import Group, example, with_options

if TYPE_CHECKING:
    from ..fusion.examples import Fold, Task

LABELS = ("folder", "speaker", "text", "language")


@click.group(cls=Group, epilog=example("speechmerge fuse train voices --speech ./clips --label speaker"))
def fuse() -> None:
    """Fuse frozen speech models: their layers, an interface, a small head that learns a task."""


@fuse.command("list", epilog=example("speechmerge fuse list"))
def fuse_list() -> None:
    """Show upstreams, interfaces and tasks."""
    from ..fusion.interfaces import INTERFACES
    from ..fusion.tasks import TASKS
    from ..fusion.upstreams import UPSTREAMS

    click.echo("upstreams (or any folder or hub repository with a speech encoder):")
    for one in UPSTREAMS.values():
        size = f"{one.layers} layers of {one.width}, {one.rate:.4g} a second"
        click.echo(f"  {one.name:15} {size:33} {one.licence:11} {one.trained_for}")
    click.echo("\ninterfaces:")
    for face in INTERFACES.values():
        click.echo(f"  {face.name:12} {face.title}: {face.equation}")
    click.echo("\ntasks (or --speech of your own):")
    for task in TASKS.values():
        click.echo(f"  {task.name:14} {task.title} ({task.metric}); {task.caution}")


def _options(*, several: bool = True) -> Callable:
    """Add the options that say which task, on which upstreams."""
    options = (
        click.option("--task", "task", metavar="NAME", help="A task that `fuse list` shows."),
        click.option("--speech", metavar="WHERE[:LANGUAGE]", help="Labelled clips of your own, in place of a task."),
        click.option(
            "--label",
            default="folder",
            show_default=True,
            type=click.Choice(LABELS),
            help="What names the class of a clip of --speech; only text needs to be told what is said.",
        ),
        click.option(
            "--upstream",
            "names",
            multiple=True,
            default=("whisper-tiny",),
            show_default=True,
            metavar="NAME",
            help="Frozen model; repeat to fuse several, and write NAME#2 to use one twice.",
        ),
        click.option("--window", type=click.Choice(["full", "clip"]), default="full", show_default=True),
    )
    return with_options(*options[: 5 if several else 3])


def _task(task: str | None, speech: str | None, label: str) -> "tuple[Task, list[Fold]]":
    """Return the task that is asked for, and its folds."""
    from ..fusion import tasks

    if bool(task) == bool(speech):
        raise click.UsageError("name a task, --task NAME, or clips of your own, --speech WHERE.")
    found = tasks.find(task) if task else tasks.own(speech, label)
    return found, found.folds()


@fuse.command(
    "plan", epilog=example("speechmerge fuse plan --task voice-id --upstream whisper-tiny --upstream resemblyzer")
)
@_options()
def fuse_plan(task: str | None, speech: str | None, label: str, names: tuple[str, ...], window: str) -> None:
    """Print clips, disk and time of a task before anything is heard."""
    from ..fusion import planning, upstreams

    upstreams.check_set(names)
    found, folds = _task(task, speech, label)
    for number, fold in enumerate(folds):
        counts = [sum(one.split == split for one in fold) for split in ("train", "dev", "test")]
        classes = len({one.label for one in fold}) if found.kind != "characters" else "-"
        click.echo(f"fold {number + 1}: {counts[0]} train, {counts[1]} dev, {counts[2]} test clips; {classes} classes")
    clips = [(one, found.whole) for fold in folds for one in fold]
    for name in names:
        size, seconds = planning.hearing_cost(name, clips, window)
        click.echo(f"{name}: {size / 1e6:.0f} MB, about {seconds / 60:.1f} min of one core if nothing is stored yet")
    click.echo(f"beside the numbers: {found.caution}")


@fuse.command("features", epilog=example("speechmerge fuse features --task asr-en --upstream moonshine-tiny"))
@_options()
def fuse_features(task: str | None, speech: str | None, label: str, names: tuple[str, ...], window: str) -> None:
    """Let upstreams hear the clips of a task, each once; what is stored is not heard again."""
    from ..fusion.systems import hearing_of

    found, folds = _task(task, speech, label)
    heard = hearing_of(names, [one for fold in folds for one in fold], whole=found.whole, window=window)
    for name, one in zip(names, heard.features, strict=True):
        click.echo(f"{name}: {len(one.entries)} clips in {one.folder}")


@fuse.command(
    "train",
    epilog=example(
        "speechmerge fuse train voices --speech ./clips --label speaker\n"
        "speechmerge fuse train who --task voice-id --upstream whisper-tiny --interface hconv --rate 3e-3"
    ),
)
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@_options()
@click.option("--interface", "interface", help="One that `fuse list` shows. [default: ws, of several chconv]")
@click.option("--rate", "rates", type=float, multiple=True, help="Peak learning rate; repeat to let dev choose.")
@click.option("--steps", type=click.IntRange(1), default=300, show_default=True, help="Of tasks about whole clips.")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="Of speech recognition.")
@click.option("--width", type=click.IntRange(1), help="To which upstreams are projected (default: the largest).")
@click.option("--normalise", type=click.Choice(["frame", "none", "standard"]), default="frame", show_default=True)
@click.option("--head", type=click.Choice(["linear", "context"]), default="linear", show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it exists.")
def fuse_train(
    output: Path,
    task: str | None,
    speech: str | None,
    label: str,
    names: tuple[str, ...],
    window: str,
    interface: str | None,
    rates: tuple[float, ...],
    overwrite: bool,
    **options: object,
) -> None:
    """Train an interface and a head on a task, test once, and write the system into OUTPUT.

    The learning rate is chosen on dev: from those given, or from four and what lies beyond the best of them. Of several
    folds the first is written.
    """
    from ..files import check_output
    from ..fusion import answering, interfaces, scoring, systems, training

    check_output(output, overwrite=overwrite, marks=[systems.ABOUT])
    interface = interface or ("ws" if len(names) == 1 else "chconv")
    interfaces.find(interface)
    found, folds = _task(task, speech, label)
    heard = systems.hearing_of(names, [one for fold in folds for one in fold], whole=found.whole, window=window)
    asked, tests, answers, made = training.Options(**options), [], [], None
    for fold in folds:
        grid = (rates, 0) if rates else (training.RATES, training.BEYOND)
        system, tried = training.tuned(found, fold, heard, interface, asked, *grid)
        tests.append([one for one in fold if one.split == "test"])
        answers.append(answering.said(system, system.answers(tests[-1])))
        click.echo("; ".join(f"rate {one['rate']:g}: dev {found.metric} {one['dev']:.1%}" for one in tried), err=True)
        made = made or system
    systems.save(made, names, interface, window, output, overwrite=overwrite)
    sizes = made.sizes()
    click.echo(f"{output}: {interface} of {' + '.join(names)}, {sizes['interface']:,} + {sizes['head']:,} parameters")
    _tell(found, scoring.summary(found, tests, answers))
    for name, weights in zip(names, made.weights() or [], strict=False):
        click.echo(f"layers of {name}: {' '.join(f'{weight:.2f}' for weight in weights)}")


def _tell(task: "Task", row: dict) -> None:
    """Print what a test gave."""
    told = "{metric} {error:.1%} [{ci_low:.1%}, {ci_high:.1%}] on {n_clips} clips of {n_recordings} recordings"
    told += {"classes": ", balanced accuracy {balanced:.1%}, {classes} classes", "characters": ", WER {wer:.1%}"}.get(
        task.kind, ""
    )
    click.echo(f"{task.title}: {told.format(**row)}")
    click.echo(f"beside it: {task.caution}")


@fuse.command("score", epilog=example("speechmerge fuse score voices --speech ./clips --label speaker"))
@click.argument("model", type=click.Path(path_type=Path, file_okay=False))
@_options(several=False)
@click.option(
    "--answers", "table", type=click.Path(path_type=Path, dir_okay=False), help="Also write a TSV of answers."
)
@click.option("--overwrite", is_flag=True, help="Replace the file of --answers if it exists.")
def fuse_score(
    model: Path, task: str | None, speech: str | None, label: str, table: Path | None, overwrite: bool
) -> None:
    """Test a trained system on the test clips of a task or of labelled clips of your own."""
    from ..errors import ScoringError
    from ..files import atomic_file, check_output
    from ..fusion import answering, scoring, systems

    about = systems.about(model)
    found, folds = _task(task, speech, label)
    if found.kind != about["kind"]:
        raise ScoringError(f"{model} answers {about['kind']}, the task {found.name!r} asks for {found.kind}.")
    if table:
        if found.kind == "verification":
            raise ScoringError("a verification has trials, not answers; leave --answers out.")
        check_output(table, overwrite=overwrite)
    test = [one for one in folds[0] if one.split == "test"]
    heard = systems.hearing_of(about["upstreams"], test, whole=found.whole, window=about["window"])
    system = systems.read(model, found, heard)
    answers = answering.said(system, system.answers(test))
    _tell(found, scoring.summary(found, [test], [answers]))
    if table:
        rows = [f"{one.clip.id}\t{one.label}\t{said}" for one, said in zip(test, answers, strict=True)]
        with atomic_file(table) as file:
            file.write_text("\n".join(["id\tlabel\tanswer", *rows]) + "\n", encoding="utf-8")
