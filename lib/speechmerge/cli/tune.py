"""The command tune: from experts and what they should hear to a merged model, a recipe and a report."""

from pathlib import Path

import click

from .groups import example


@click.command(
    short_help="Choose a merge of experts by speech: model, recipe, report.",
    epilog=example(
        "speechmerge tune tuned --expert experts/es clips/es:es --expert experts/it asterisk:it --minutes 10\n"
        "speechmerge tune tuned --expert es asterisk:es,stamps:es --expert it asterisk:it --also asterisk:fr "
        "--keep fr:0.01"
    ),
)
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--base", default="whisper-tiny", show_default=True, help="Name or folder of the experts' base model.")
@click.option(
    "--expert",
    "experts",
    nargs=2,
    multiple=True,
    metavar="FOLDER SPEECH",
    help="A fine-tuned model or LoRA adapter, and its speech, WHERE:LANGUAGE[:TASK]; several joined by commas.",
)
@click.option("--also", multiple=True, metavar="SPEECH", help="Speech that must be kept though no expert is for it.")
@click.option(
    "--keep",
    multiple=True,
    metavar="NAME:LOSS",
    help="What may be lost: fr:0.01 is one point of WER at most, beside its own expert, or the base for --also.",
)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=10, show_default=True, help="Budget.")
@click.option(
    "--evaluations",
    type=click.FloatRange(0, min_open=True),
    help="Budget in evaluations instead of minutes, the same on every machine.",
)
@click.option("--clips", type=click.IntRange(1), help="Most clips of each part of each speech.")
@click.option("--finalists", type=click.IntRange(1), default=3, show_default=True, help="Merges that transcribe.")
@click.option("--methods", help="Names joined by commas, or all (default: ten that did well).")
@click.option("--joint", is_flag=True, help="Also train one model on all training speech, as the rival.")
@click.option("--train", multiple=True, metavar="SPEECH", help="Training speech of --joint (default: train splits).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it exists, and forget unfinished work of another.")
def tune(output: Path, overwrite: bool, **options: object) -> None:
    """Choose a merge of experts by what it hears, within a budget, and write it into the folder OUTPUT.

    OUTPUT gets model/ (a Hugging Face folder), recipe.yaml (repeats the merge with `speechmerge merge`), report.html
    (opens offline), report.json (all numbers) and tried.jsonl. A tuning that was interrupted goes on where it was when
    the same command is given again.
    """
    from ..tuning.tune import tune as run

    numbers = run(asked(options), output, overwrite=overwrite, tell=lambda line: click.echo(line, err=True))
    for row in numbers["means"]:
        if row["group"] == "all":
            click.echo(f"{row['system']:20s} {row['error']:6.1%} [{row['low']:.1%}, {row['high']:.1%}]")
    count = sum(map(len, numbers["worries"].values()))
    click.echo(f"{output / 'report.html'}: {numbers['chosen']['title']}, λ = {numbers['chosen']['scaling']:g}")
    if count:
        click.echo(f"{count} {'thing' if count == 1 else 'things'} to worry about, see there.")


def asked(options: dict) -> "object":
    """Return the request that the command's options amount to."""
    from ..finetuning.training_recipe import Source
    from ..tuning.request import Request, pair

    found = dict(options)
    found["experts"] = tuple((folder, Source.parse_all(text)) for folder, text in options["experts"])
    found["also"] = tuple(map(Source.parse_all, options["also"]))
    found["train"] = tuple(source for text in options["train"] for source in Source.parse_all(text))
    found["keep"] = tuple(map(pair, options["keep"]))
    found["methods"] = tuple(options["methods"].split(",")) if options["methods"] else None
    if options["evaluations"]:
        found["minutes"] = None
    return Request(**found)
