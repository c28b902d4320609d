"""The command line: every step of the project as a command with an example; errors are sentences, not tracebacks."""

import functools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import click

from .errors import SpeechMergeError, nearest

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def example(text: str) -> str:
    """Return an epilog that shows how the command is called."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in text.splitlines())


class Group(click.Group):
    """A group that names the nearest command when one is misspelt."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        """Find the command; an unknown name ends with a suggestion."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"there is no command {args[0]!r}.{nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


@click.group(cls=Group, context_settings=CONTEXT, epilog=example("speechmerge study plan --experiment table1"))
@click.version_option(package_name="speechmerge")
@click.option("-v", "--verbose", is_flag=True, help="Say more about what is done.")
def cli(verbose: bool) -> None:
    """Merge fine-tuned speech models, and recompute or render the book about it."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("speechmerge").setLevel(logging.INFO)


def main() -> None:
    """Entry point: run the command line; expected errors end as one sentence and exit code 1."""
    try:
        cli(standalone_mode=True)
    except SpeechMergeError as error:
        click.secho(f"speechmerge: {error}", err=True, fg="red")
        sys.exit(1)


@cli.group(cls=Group, epilog=example("speechmerge fetch models"))
def fetch() -> None:
    """Bring real weights and real speech into the cache folder ($SPEECHMERGE_CACHE)."""


@fetch.command("models", epilog=example("speechmerge fetch models whisper-tiny whisper-base"))
@click.argument("names", nargs=-1)
def fetch_models(names: tuple[str, ...]) -> None:
    """Fetch, convert and verify base models (default: whisper-tiny)."""
    from . import models

    for name in names or ("whisper-tiny",):
        click.echo(f"{name}: {models.base_model(name)}")


@fetch.command("corpora", epilog=example("speechmerge fetch corpora asterisk:es stamps"))
@click.argument("names", nargs=-1)
def fetch_corpora(names: tuple[str, ...]) -> None:
    """Fetch corpora, as NAME or NAME:LANGUAGE (default: all that come as packages)."""
    from . import corpora

    wanted = names or [name for name, corpus in corpora.registry().items() if not corpus.synthetic]
    for item in wanted:
        name, _, language = item.partition(":")
        for code in [language] if language else corpora.find(name).languages:
            clips = corpora.load(name, code)
            click.echo(f"{name} {code}: {len(clips)} clips, {sum(c.seconds for c in clips) / 60:.1f} minutes")


@cli.command(epilog=example("speechmerge train experts/es --source asterisk:es --source stamps:es --minutes 12"))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--source", "sources", multiple=True, required=True, help="corpus:language[:asr|st]; repeat to mix.")
@click.option("--base", default="whisper-tiny", show_default=True, help="Name or folder of the model to start from.")
@click.option("--minutes", type=float, help="Cap on training speech per language and task.")
@click.option("--epochs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--learning-rate", type=float, default=1e-5, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="30 s windows a step.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True)
def train(output: Path, sources: tuple[str, ...], **options: object) -> None:
    """Fine-tune a model on a mixture of corpora, languages and tasks; write the best epoch to OUTPUT.

    An interrupted training goes on after its last finished epoch when the same command is given again.
    """
    from .training import Recipe, Source
    from .training import train as run

    log = run(Recipe(sources=tuple(Source.parse(s) for s in sources), **options), output)
    click.echo(
        f"{output}: best epoch {log.best_epoch + 1}, dev loss {min(log.dev_loss):.3f}, "
        f"{log.windows_per_second:.2f} windows/s, {log.seconds:.0f} s"
    )


@cli.command(
    epilog=example("speechmerge merge task_arithmetic merged --base whisper-tiny experts/es experts/it --scaling 0.3")
)
@click.argument("method")
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("experts", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--base", default="whisper-tiny", show_default=True, help="Name or folder of the experts' base model.")
@click.option("--scaling", type=float, default=1.0, show_default=True, help="λ in base + λ·τ.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of the method; see `methods show`."
)
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it exists.")
def merge(
    method: str, output: Path, experts: tuple[Path, ...], base: str, scaling: float, settings: tuple, overwrite: bool
) -> None:
    """Merge EXPERTS with METHOD into the Hugging Face folder OUTPUT."""
    from . import engine, methods, models

    params = dict(_setting(text) for text in settings)
    methods.find(method).check(params, experts=len(experts))
    folder = models.base_model(base)
    engine.merge_folders(method, folder, list(experts), output, scaling=scaling, overwrite=overwrite, **params)
    click.echo(f"{output}: {method} of {len(experts)} experts")


def _setting(text: str) -> tuple[str, object]:
    """Read ``name=value``; the value is JSON (a number, a list, true) or else a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--set {text!r} is not NAME=VALUE, for example --set density=0.4.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _test_options(command: Callable) -> Callable:
    """Add the options that name a test set."""
    options = (
        click.option("--corpus", "names", multiple=True, required=True, help="Corpus to test on; repeat to pool."),
        click.option("--language", required=True, help="Whisper's language code, e.g. es."),
        click.option("--split", default="test", show_default=True, type=click.Choice(["train", "dev", "test"])),
        click.option("--task", default="asr", show_default=True, type=click.Choice(["asr", "st"])),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@cli.command(epilog=example("speechmerge decode merged es.jsonl.gz --corpus asterisk --language es"))
@click.argument("model")
@click.argument("output", type=click.Path(path_type=Path))
@_test_options
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True, help="1 is greedy.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True)
def decode(
    model: str, output: Path, names: tuple, language: str, split: str, task: str, beams: int, precision: str
) -> None:
    """Decode a test set with MODEL (a folder or a base model's name) and keep the hypotheses in OUTPUT."""
    from . import models
    from .decoding import Decoder, Decoding, write_predictions
    from .study import evaluation_clips

    clips = evaluation_clips(list(names), language, split)
    decoder = Decoder(models.base_model(model), Decoding(beams=beams, precision=precision))
    predictions = decoder.decode(clips, language, task)
    write_predictions(predictions, output)
    click.echo(f"{output}: {len(predictions)} hypotheses")


@cli.command(epilog=example("speechmerge score es.jsonl.gz --corpus asterisk --language es"))
@click.argument("predictions", type=click.Path(path_type=Path))
@_test_options
def score(predictions: Path, names: tuple, language: str, split: str, task: str) -> None:
    """Score kept hypotheses against the fetched references: WER and CER, or BLEU and chrF, with 95 % intervals."""
    from . import scoring
    from .decoding import read_predictions
    from .study import evaluation_clips

    clips, found = evaluation_clips(list(names), language, split), read_predictions(predictions)
    if task == "st":
        t = scoring.translation(found, clips)
        click.echo(
            f"BLEU {t.bleu:.2f} [{t.ci_low:.2f}, {t.ci_high:.2f}]  chrF {t.chrf:.2f}  {len(clips)} clips  {t.signature}"
        )
        return
    counts = scoring.count(found, clips, language)
    low, high = scoring.interval(scoring.resampled_rates([counts]))
    click.echo(
        f"WER {counts.wer:.2%} [{low:.2%}, {high:.2%}]  CER {counts.cer:.2%}  {len(clips)} clips, "
        f"{counts.words.sum()} words, {counts.runaway} runaway"
    )


@cli.group(cls=Group, epilog=example("speechmerge methods list"))
def methods() -> None:
    """The merge methods and their parameters."""


@methods.command("list", epilog=example("speechmerge methods list"))
def methods_list() -> None:
    """List every merge method with its title and paper."""
    from .methods import registry

    for name, method in registry().items():
        click.echo(f"{name:22s} {method.title}  [{method.paper}]")


@methods.command("show", epilog=example("speechmerge methods show lors"))
@click.argument("name")
def methods_show(name: str) -> None:
    """Show what METHOD does, its equation, parameters and deviations."""
    from .methods import find

    method = find(name)
    click.echo(f"{method.title} ({method.name}), {method.paper}\n\n{method.summary}\n\n  {method.equation}\n")
    for parameter, meaning in method.parameters.items():
        click.echo(f"  {parameter}: {meaning}")
    if method.deviations:
        click.echo(f"\nDeviations: {method.deviations}")


@cli.group(cls=Group, epilog=example("speechmerge study status --experiment table1"))
def study() -> None:
    """Plan, run or look at the experiments of the book."""


def _study_options(command: Callable) -> Callable:
    """Add the options that choose experiments."""
    options = (
        click.option("--experiment", "names", multiple=True, help="Experiment to take; repeatable (default: all)."),
        click.option("--profile", default="speech", show_default=True),
        click.option("--system", "systems", multiple=True, help="Only this system of a table; repeatable."),
        click.option(
            "--seed", "seeds", multiple=True, type=int, help="Training seed; repeatable (default: the profile's)."
        ),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def _plans(names: tuple, profile: str, systems: tuple, seeds: tuple) -> list:
    from . import experiments

    if systems and not names:
        raise click.UsageError("--system needs --experiment, whose systems it chooses from.")
    wanted = names or tuple(experiments.experiments())
    return [
        experiments.narrowed(experiments.plan(name, profile, list(seeds) or None), list(systems)) for name in wanted
    ]


@study.command(epilog=example("speechmerge study plan --experiment table1"))
@_study_options
def plan(names: tuple, profile: str, systems: tuple, seeds: tuple) -> None:
    """Print what a run would do and how long it would take here; do nothing."""
    for made in _plans(names, profile, systems, seeds):
        _print_plan(made)


def _print_plan(made: object) -> None:
    pending = made.pending()
    kinds = {kind: sum(s.kind == kind for s in pending) for kind in dict.fromkeys(s.kind for s in made.steps.values())}
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    minutes = sum(step.seconds for step in pending) / 60
    done = len(made.steps) - len(pending)
    click.echo(
        f"{made.experiment['experiment']} ({made.profile}): {done} of {len(made.steps)} steps done; "
        f"to do: {counts}; about {minutes:.0f} min"
    )


@study.command(
    "run",
    epilog=example("speechmerge study run --experiment table1\nspeechmerge study run --experiment table1 --recompute"),
)
@_study_options
@click.option("--recompute", is_flag=True, help="Forget finished steps and do everything again.")
@click.option("--executor", default="local", show_default=True, type=click.Choice(["local", "ray"]))
def study_run(names: tuple, profile: str, systems: tuple, seeds: tuple, recompute: bool, executor: str) -> None:
    """Train, merge, decode and score what is not done yet; write rows and predictions to results/PROFILE."""
    from .study import forget, run

    for made in _plans(names, profile, systems, seeds):
        if recompute:
            forget(made)
        _print_plan(made)
        done = run(made, executor=executor)
        click.echo(f"{made.experiment['experiment']}: {done} steps run, rows written")


@study.command(epilog=example("speechmerge study status"))
@_study_options
def status(names: tuple, profile: str, systems: tuple, seeds: tuple) -> None:
    """Say for every experiment which steps are done here and how many rows are committed."""
    from . import store
    from .errors import StudyError

    for made in _plans(names, profile, systems, seeds):
        name = made.experiment["experiment"]
        try:
            rows = len(store.rows(profile, name) if made.systems else store.statistics(profile, name))
        except StudyError:
            rows = 0
        done = len(made.steps) - len(made.pending())
        click.echo(f"{name} ({profile}): {rows} committed rows; {done} of {len(made.steps)} steps in this cache")


@cli.command(epilog=example("speechmerge cards --update"))
@click.option("--update", is_flag=True, help="Rewrite the generated numbers instead of only checking them.")
def cards(update: bool) -> None:
    """Check that the numbers in data_cards/ are those of the fetched corpora."""
    from . import corpora
    from .cards import check_card, update_card
    from .store import project_root

    for name in corpora.registry():
        path = project_root() / "data_cards" / f"{name}.md"
        if update:
            click.echo(f"{name}: {'updated' if update_card(path) else 'current'}")
        else:
            check_card(path)
            click.echo(f"{name}: current")


@cli.command(epilog=example("speechmerge book --profile speech"))
@click.option("--profile", default="speech", show_default=True)
def book(profile: str) -> None:
    """Execute the notebooks that are not current, render the book, check it, and print its first page."""
    from .notebooks import build_book

    click.echo(build_book(profile))


if __name__ == "__main__":
    main()
