"""Commands on one model: train, decode, score."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .groups import example
from .merging import full_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..evaluation.decoding import Decoder

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


def _test_options(language: dict, corpus: str) -> Callable:
    """Return the decorator that adds the options of a test set."""
    options = (
        click.option("--corpus", "names", multiple=True, metavar="WHERE", help=f"{corpus}: {WHERE}; repeat to pool."),
        click.option("--language", **language),
        click.option("--split", default="test", show_default=True, type=SPLITS, help="Of the test set."),
        click.option("--task", default="asr", show_default=True, type=TASKS, help="st: translate into English."),
    )
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def _clips(names: tuple[str, ...], language: str, task: str, split: str) -> list:
    """Return the clips of a test set, of which there must be some, each once."""
    from ..speech import some_clips

    if len(set(names)) < len(names):
        raise click.UsageError(f"--corpus names {', '.join(names)}; give each corpus once.")
    return some_clips(names, language, task, split)


@click.command(
    short_help="Transcribe a test set, or recordings of any length.",
    epilog=example(
        "speechmerge decode merged es.jsonl.gz --corpus asterisk --language es\n"
        "speechmerge decode merged talk.srt talk.mp3\n"
        "speechmerge decode merged talks.jsonl recordings/ --language es\n"
        "speechmerge decode merged subtitles recordings/ --format vtt --task st"
    ),
)
@click.argument("model")
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("recordings", nargs=-1, type=click.Path(path_type=Path))
@_test_options(
    {"help": "Whisper's code, e.g. es; for recordings also auto, which detects each one's. [default: auto]"},
    "Test set to decode in place of RECORDINGS",
)
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "tsv", "srt", "vtt", "txt"]), help="If OUTPUT names none."
)
@click.option("--segments", is_flag=True, help="Times in JSON lines for short recordings too; long ones have them.")
@click.option("--beams", type=click.IntRange(1), default=1, show_default=True, help="1 is greedy.")
@click.option(
    "--guard/--no-guard",
    default=None,
    help="Decode again, by sampling, what ran away into repetition. [default: for recordings, not for test sets]",
)
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto", show_default=True)
@click.option("--base", help="Of a MODEL that is a LoRA adapter: name or folder of its base model.")
def decode(model: str, output: Path, recordings: tuple[Path, ...], names: tuple[str, ...], **options: object) -> None:
    """Decode a test set or RECORDINGS with MODEL and keep the hypotheses in OUTPUT.

    MODEL is a folder or a base model's name. A test set is written as JSON lines, which `speechmerge score` reads.

    RECORDINGS are audio files of any length and folders of them. The end of OUTPUT's name says the form: .jsonl (or
    .jsonl.gz; all recordings, one a line), .tsv, .srt, .vtt or .txt. In the last four every recording has a file of its
    own: of more than one, or of a folder, OUTPUT is a new folder and --format says the form. Recordings over 30 s are
    searched with times.
    """
    if bool(names) == bool(recordings):
        raise click.UsageError("name what to decode: either RECORDINGS or a test set, --corpus WHERE --language CODE.")
    if names:
        _decode_test_set(model, output, names, **options)
    else:
        _decode_recordings(model, output, recordings, **options)


def _decoder(model: str, base: str | None, guard: bool, **settings: object) -> "Decoder":
    from ..evaluation.decoding import Decoder, Decoding

    return Decoder(full_model(model, base), Decoding(guard=guard, **settings))


def _decode_test_set(
    model: str,
    output: Path,
    names: tuple[str, ...],
    *,
    language: str | None,
    split: str,
    task: str,
    form: str | None,
    segments: bool,
    beams: int,
    guard: bool | None,
    precision: str,
    base: str | None,
) -> None:
    from ..evaluation.decoding import write_predictions
    from ..files import check_writable

    if language in (None, "auto"):
        raise click.UsageError("a test set is of one language; give its code, e.g. --language es.")
    if form not in (None, "jsonl") or segments or output.suffix in (".tsv", ".srt", ".vtt", ".txt"):
        raise click.UsageError("the hypotheses of a test set are JSON lines without times; name OUTPUT .jsonl.gz.")
    if output.is_dir():
        raise click.UsageError(f"OUTPUT {output} is a directory; name a file.")
    clips = _clips(names, language, task, split)
    check_writable(output, 0)
    decoder = _decoder(model, base, bool(guard), beams=beams, precision=precision)
    predictions = decoder.decode(clips, language, task)
    write_predictions(predictions, output)
    click.echo(f"{output}: {len(predictions)} hypotheses")


def _decode_recordings(
    model: str,
    output: Path,
    recordings: tuple[Path, ...],
    *,
    language: str | None,
    split: str,
    task: str,
    form: str | None,
    segments: bool,
    beams: int,
    guard: bool | None,
    precision: str,
    base: str | None,
) -> None:
    from ..evaluation import recordings as files
    from ..evaluation import transcripts
    from ..files import check_writable

    form = transcripts.format_of(output, form)
    found = files.find(recordings)
    many = form != "jsonl" and (len(recordings) > 1 or recordings[0].is_dir())
    if many and output.suffix[1:] == form:
        raise click.UsageError(
            f"each recording has a .{form} of its own: name a folder as OUTPUT, and --format {form}."
        )
    if output.exists() and (many or output.is_dir()):
        raise click.UsageError(f"OUTPUT {output} is there already; name another.")
    if output.resolve() in {path.resolve() for path in found.values()}:
        raise click.UsageError(f"OUTPUT {output} is a recording to decode; name another file.")
    own = transcripts.names(found, form) if many else None
    check_writable(output, 0)
    decoder = _decoder(model, base, guard is not False, beams=beams, precision=precision)
    heard = _told(decoder, found, language or "auto", task, segments or form in transcripts.TIMED)
    count = transcripts.write(heard, output, form, own)
    click.echo(f"{output}: {count} recording{'' if count == 1 else 's'}")


def _told(decoder: "Decoder", found: dict[str, Path], language: str, task: str, segments: bool) -> "Iterator":
    """Yield transcripts, and say which languages were detected."""
    from ..evaluation.transcription import AUTO, transcribe

    spoken: dict[str, list[str]] = {}
    for one in transcribe(decoder, found, language, task, segments=segments):
        spoken.setdefault(one.language, []).append(one.prediction.id)
        yield one
    if language == AUTO:
        told = [f"{code} ({names[0] if len(names) == 1 else len(names)})" for code, names in spoken.items()]
        click.echo(f"language detected: {', '.join(told)}", err=True)


@click.command(
    epilog=example(
        "speechmerge score es.jsonl.gz --corpus asterisk --language es\n"
        "speechmerge score talks.jsonl --references texts.csv --language es --clips errors.tsv"
    )
)
@click.argument("predictions", type=click.Path(path_type=Path))
@_test_options({"required": True, "help": "Whisper's code, e.g. es."}, "Test set that was decoded")
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
def score(
    predictions: Path,
    names: tuple[str, ...],
    language: str,
    split: str,
    task: str,
    references: Path | None,
    table: Path | None,
) -> None:
    """Score kept hypotheses: WER and CER, or BLEU and chrF.

    The references are those of the test set, or of a file. Predictions and references must be the same clips.
    Intervals are bootstrapped over clips, 95 %. Languages written without spaces show CER first; where Whisper's
    authors compare letter by letter (zh, ja, th, lo, my), the WER is the CER.
    """
    from ..evaluation import references as own
    from ..evaluation.decoding import read_predictions
    from ..evaluation.resampling import summary
    from ..evaluation.scoring import score as scored
    from ..files import check_writable

    if bool(names) == bool(references):
        raise click.UsageError("name what was decoded: a test set, --corpus WHERE, or a file of texts, --references.")
    said = own.read(references, task) if references else _clips(names, language, task, split)
    heard = read_predictions(predictions)
    scores = scored(heard, said, language, task)
    found = summary(scores)
    if table:
        check_writable(table, 0)
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
