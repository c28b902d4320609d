"""Commands on one model and its hypotheses: train, score; and how a test set is named."""

from collections.abc import Callable
from pathlib import Path

import click

from .groups import example, with_options

SPLITS = click.Choice(["train", "dev", "test"])
TASKS = click.Choice(["asr", "st"])
WHERE = "a corpus, a path or hub:OWNER/NAME"


@click.command(epilog=example("speechmerge train experts/es --source asterisk:es --source stamps:es --minutes 12"))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--source",
    "sources",
    multiple=True,
    required=True,
    metavar="WHERE:LANGUAGE[:TASK]",
    help=f"What to train on: {WHERE}; repeat to mix. TASK is asr or st.",
)
@click.option("--base", default="whisper-tiny", show_default=True, help="Name or folder of the model to start from.")
@click.option("--minutes", type=float, help="Cap on training speech per language and task.")
@click.option("--epochs", type=click.IntRange(1), default=5, show_default=True, help="Passes over the speech, at most.")
@click.option(
    "--patience",
    type=click.IntRange(1),
    help="End after so many epochs in a row without a lower dev loss; the rate then stays at its peak.",
)
@click.option("--learning-rate", type=float, default=1e-5, show_default=True, help="AdamW's peak.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="30 s windows a step.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--unseen-rows",
    type=click.Choice(["trained", "kept"]),
    default="trained",
    show_default=True,
    help="What becomes of tokens that no training text uses: trained like all others, or kept as the base has them.",
)
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True)
def train(output: Path, sources: tuple[str, ...], **options: object) -> None:
    """Fine-tune a model on speech of one or several corpora, languages and tasks.

    The best epoch is written to OUTPUT. An interrupted training goes on after its last finished epoch when the same
    command is given again.
    """
    from ..finetuning.training import Recipe, Source
    from ..finetuning.training import train as run

    log = run(Recipe(sources=tuple(Source.parse(s) for s in sources), **options), output)
    click.echo(
        f"{output}: best epoch {log.best_epoch + 1}, dev loss {min(log.dev_loss):.3f}, "
        f"{log.windows_per_second:.2f} windows/s, {log.seconds:.0f} s"
    )


def with_test_set(language: dict, corpus: str) -> Callable:
    """Return the decorator that adds the options of a test set."""
    return with_options(
        click.option("--corpus", "names", multiple=True, metavar="WHERE", help=f"{corpus}: {WHERE}; repeat to pool."),
        click.option("--language", **language),
        click.option("--split", default="test", show_default=True, type=SPLITS, help="Of the test set."),
        click.option("--task", default="asr", show_default=True, type=TASKS, help="st: translate into English."),
    )


def clips_of_test_set(names: tuple[str, ...], language: str, task: str, split: str) -> list:
    """Return the clips of a test set, of which there must be some, each once."""
    from ..speech import some_clips

    if len(set(names)) < len(names):
        raise click.UsageError(f"--corpus names {', '.join(names)}; give each corpus once.")
    return some_clips(names, language, task, split)


@click.command(
    epilog=example(
        "speechmerge score es.jsonl.gz --corpus asterisk --language es\n"
        "speechmerge score talks.jsonl --references texts.csv --language es --clips errors.tsv"
    )
)
@click.argument("predictions", type=click.Path(path_type=Path))
@with_test_set({"required": True, "help": "Whisper's code, e.g. es."}, "Test set that was decoded")
@click.option(
    "--references",
    type=click.Path(path_type=Path, dir_okay=False),
    help="In place of a test set: .jsonl, .csv or .tsv with id and text (for st: translation).",
)
@click.option(
    "--clips",
    "table",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a TSV with every clip's errors, reference and hypothesis.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file of --clips if it exists.")
def score(
    predictions: Path,
    names: tuple[str, ...],
    language: str,
    split: str,
    task: str,
    references: Path | None,
    table: Path | None,
    overwrite: bool,
) -> None:
    """Score kept hypotheses: WER and CER, or BLEU and chrF.

    The references are those of the test set, or of a file. Predictions and references must be the same clips.
    Intervals are bootstrapped over clips, 95 %. Languages written without spaces show CER first; where Whisper's
    authors compare letter by letter (zh, yue, ja, th, lo, my), the WER is the CER.
    """
    from ..evaluation import references as own
    from ..evaluation.predictions import read_predictions
    from ..evaluation.scoring import score as scored
    from ..evaluation.summaries import summary
    from ..files import check_output

    if bool(names) == bool(references):
        raise click.UsageError("name what was decoded: a test set, --corpus WHERE, or a file of texts, --references.")
    if table:
        check_output(table, overwrite=overwrite, inputs=filter(None, (predictions, references)))
    said = own.read(references, task) if references else clips_of_test_set(names, language, task, split)
    heard = read_predictions(predictions)
    scores = scored(heard, said, language, task)
    found = summary(scores)
    if table:
        own.write_table(scores, heard, said, task, table)
    if task == "st":
        click.echo(
            "BLEU {bleu:.2f} [{ci_low:.2f}, {ci_high:.2f}]  chrF {chrf:.2f}  {n_utterances} clips, "
            "{runaway} runaway  {signature}".format(**found)
        )
        return
    click.echo((_rates(language) + ", {runaway} runaway").format(**found))


def _rates(language: str) -> str:
    """How error rates are shown: CER first where no spaces part the words."""
    from ..text import LETTER_BY_LETTER, WITHOUT_SPACES

    rates, units = ["WER {wer:.2%} [{ci_low:.2%}, {ci_high:.2%}]", "CER {cer:.2%}"], "words"
    if language in LETTER_BY_LETTER:
        rates, units = ["CER {cer:.2%} [{ci_low:.2%}, {ci_high:.2%}]", "WER the same, letter by letter"], "letters"
    elif language in WITHOUT_SPACES:
        rates.reverse()
    return "  ".join([*rates, "{n_utterances} clips, {n_reference_words} "]) + units
