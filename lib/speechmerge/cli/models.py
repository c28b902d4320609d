"""Commands on one model: train, decode, score."""

import functools
from collections.abc import Callable
from pathlib import Path

import click

from .groups import example


@click.command(epilog=example("speechmerge train experts/es --source asterisk:es --source stamps:es --minutes 12"))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--source", "sources", multiple=True, required=True, help="corpus:language[:asr|st]; repeat to mix.")
@click.option("--base", default="whisper-tiny", show_default=True, help="Name or folder of the model to start from.")
@click.option("--minutes", type=float, help="Cap on training speech per language and task.")
@click.option("--epochs", type=click.IntRange(1), default=5, show_default=True)
@click.option("--learning-rate", type=float, default=1e-5, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="30 s windows a step.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True)
def train(output: Path, sources: tuple[str, ...], **options: object) -> None:
    """Fine-tune a model on corpora, languages and tasks.

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


def _test_options(command: Callable) -> Callable:
    """Add the options that name a test set."""
    options = (
        click.option("--corpus", "names", multiple=True, required=True, help="Corpus to test on; repeat to pool."),
        click.option("--language", required=True, help="Whisper's language code, e.g. es."),
        click.option("--split", default="test", show_default=True, type=click.Choice(["train", "dev", "test"])),
        click.option("--task", default="asr", show_default=True, type=click.Choice(["asr", "st"])),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def _clips(names: tuple[str, ...], language: str, task: str, split: str) -> list:
    """Return the clips of a test set, of which there must be some, each once."""
    from ..errors import CorpusError
    from ..evaluation.test_sets import gather

    if len(set(names)) < len(names):
        raise click.UsageError(f"--corpus names {', '.join(names)}; give each corpus once.")
    clips = gather(names, language, task, split)
    if not clips:
        wanted = "speech with a translation" if task == "st" else "speech"
        raise CorpusError(f"{', '.join(names)} has no {wanted} in {language} in the {split} split.")
    return clips


@click.command(epilog=example("speechmerge decode merged es.jsonl.gz --corpus asterisk --language es"))
@click.argument("model")
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@_test_options
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True, help="1 is greedy.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True)
def decode(
    model: str, output: Path, names: tuple, language: str, split: str, task: str, beams: int, precision: str
) -> None:
    """Decode a test set and keep the hypotheses in OUTPUT.

    MODEL is a folder or a base model's name.
    """
    from ..evaluation.decoding import Decoder, Decoding, write_predictions
    from ..files import check_writable
    from ..whisper import models

    clips = _clips(names, language, task, split)
    check_writable(output, 0)
    decoder = Decoder(models.base_model(model), Decoding(beams=beams, precision=precision))
    predictions = decoder.decode(clips, language, task)
    write_predictions(predictions, output)
    click.echo(f"{output}: {len(predictions)} hypotheses")


@click.command(epilog=example("speechmerge score es.jsonl.gz --corpus asterisk --language es"))
@click.argument("predictions", type=click.Path(path_type=Path))
@_test_options
def score(predictions: Path, names: tuple, language: str, split: str, task: str) -> None:
    """Score kept hypotheses: WER and CER, or BLEU and chrF.

    The references are those of the fetched corpus; intervals are bootstrapped over clips, 95 %. Languages written
    without spaces show CER first; where Whisper's authors compare letter by letter (zh, ja, th, lo, my), the WER is
    the CER.
    """
    from ..evaluation.decoding import read_predictions
    from ..evaluation.scoring import score as scored
    from ..evaluation.summaries import summary

    clips = _clips(names, language, task, split)
    found = summary(scored(read_predictions(predictions), clips, language, task))
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
