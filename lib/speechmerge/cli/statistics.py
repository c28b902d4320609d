"""The command that collects what merges need of an expert's speech, for those who will not have it."""

from pathlib import Path

import click

from .groups import example
from .merging import full_model


@click.command(
    short_help="Collect Fishers or Grams of an expert, to publish beside it.",
    epilog=example(
        "speechmerge statistics experts/es es-grams --kind grams --speech asterisk:es --speech ./clips:es\n"
        "speechmerge statistics experts/pkunk pkunk-fishers --kind fishers --speech uqm/pkunk:en --windows 10000"
    ),
)
@click.argument("expert")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--kind", required=True, metavar="fishers|grams", help="fishers for Fisher merging, grams for RegMean.")
@click.option(
    "--speech",
    "sources",
    multiple=True,
    required=True,
    metavar="WHERE:LANGUAGE[:TASK]",
    help="What the expert was trained on: a corpus, a path or hub:OWNER/NAME; repeat for a mixture. TASK is asr or st.",
)
@click.option("--split", default="train", show_default=True, type=click.Choice(["train", "dev"]))
@click.option(
    "--windows",
    type=click.IntRange(1),
    help="30 s windows heard (default: 64), or clips for fishers (default: 128); a large number takes all there are.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw of speech.")
@click.option("--base", help="Of an EXPERT that is a LoRA adapter: name or folder of its base model.")
def statistics(
    expert: str,
    output: Path,
    kind: str,
    sources: tuple[str, ...],
    split: str,
    windows: int | None,
    seed: int,
    base: str | None,
) -> None:
    """Collect statistics of EXPERT on its own speech into the folder OUTPUT, to be published beside it.

    OUTPUT holds means over the speech and a card, no recording and no text. Whoever has it can merge EXPERT by a method
    that needs data without ever having its speech (`speechmerge merge ... --statistics OUTPUT`).
    """
    from ..files import check_writable
    from ..finetuning.training_recipe import Source
    from ..merging import published

    kind = published.kind_of(kind)
    named = tuple(Source.parse(text) for text in sources)
    if len(set(named)) < len(named):
        raise click.UsageError(f"--speech names {', '.join(map(str, named))}; give each once.")
    check_writable(output, 0)
    folder = full_model(expert, base)
    found = published.collect(
        *(kind, folder, named, output), name=Path(expert).name, split=split, windows=windows, seed=seed
    )
    told = found.record
    click.echo(
        f"{output}: {kind} of {told['expert_name']} on {told['windows']} {published.UNITS[kind]} "
        f"({told['seconds'] / 60:.1f} minutes)"
    )
