"""The command that decodes: a test set, or recordings of any length."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import CorpusError
from .groups import example
from .merging import full_model, is_recipe, model_folder
from .models import clips_of_test_set, with_test_set

if TYPE_CHECKING:
    from ..dynamic.choosing import Listening
    from ..dynamic.guiding import Guided
    from ..evaluation.decoding import Decoder
    from ..evaluation.decoding_settings import Decoding
    from ..evaluation.transcription import Transcript


@click.command(
    short_help="Transcribe a test set, or recordings of any length.",
    epilog=example(
        "speechmerge decode merged es.jsonl.gz --corpus asterisk --language es\n"
        "speechmerge decode merged talk.srt talk.mp3\n"
        "speechmerge decode merged talks.jsonl recordings/ --language es\n"
        "speechmerge decode merged subtitles recordings/ --format vtt --task st\n"
        "speechmerge decode routing.yaml es.jsonl.gz --corpus asterisk --language es"
    ),
)
@click.argument("model")
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("recordings", nargs=-1, type=click.Path(path_type=Path))
@with_test_set(
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
@click.option("--overwrite", is_flag=True, help="Replace the file OUTPUT if it exists.")
def decode(
    model: str,
    output: Path,
    recordings: tuple[Path, ...],
    *,
    names: tuple[str, ...],
    language: str | None,
    split: str,
    task: str,
    form: str | None,
    segments: bool,
    beams: int,
    guard: bool | None,
    precision: str,
    base: str | None,
    overwrite: bool,
) -> None:
    """Decode a test set or RECORDINGS with MODEL and keep the hypotheses in OUTPUT.

    MODEL is a folder or a base model's name; for a test set also a recipe with a field `dynamic`, whose models are
    merged, or asked together, while they listen. A test set is written as JSON lines, which `speechmerge score` reads.

    RECORDINGS are audio files of any length and folders of them. The end of OUTPUT's name says the form: .jsonl (or
    .jsonl.gz; all recordings, one a line), .tsv, .srt, .vtt or .txt. In the last four every recording has a file of its
    own: of more than one, or of a folder, OUTPUT is a new folder and --format says the form. Recordings over 30 s are
    searched with times.
    """
    from ..evaluation.decoding import Decoder
    from ..evaluation.decoding_settings import Decoding

    dynamic = is_recipe(model) and not Path(model).is_dir()
    if dynamic and (recordings or base):
        what = "--base beside it says what the recipe says" if base else "it decodes a test set, --corpus WHERE"
        raise click.UsageError(f"{model} is a recipe: {what}.")
    if bool(names) == bool(recordings):
        raise click.UsageError("name what to decode: either RECORDINGS or a test set, --corpus WHERE --language CODE.")

    def decoder(guarded: bool) -> Decoder:
        settings = Decoding(beams=beams, precision=precision, guard=guarded if guard is None else guard)
        if dynamic:
            return _dynamic(Path(model), settings)
        return Decoder(full_model(model, base), settings)

    if names:
        if form not in (None, "jsonl") or segments or output.suffix.lower() in (".tsv", ".srt", ".vtt", ".txt"):
            raise click.UsageError("the hypotheses of a test set are JSON lines without times; name OUTPUT .jsonl.gz.")
        _test_set(decoder, output, overwrite, names, language, split, task)
    else:
        _recordings(decoder, output, overwrite, recordings, language or "auto", task, form, segments)


def _dynamic(recipe: Path, settings: "Decoding") -> "Listening | Guided":
    """Build the system of a recipe whose models are merged while they listen."""
    from ..dynamic import systems
    from ..merging.recipe import read

    return systems.from_recipe(read(recipe), settings, resolve=model_folder)


def _test_set(
    decoder: Callable,
    output: Path,
    overwrite: bool,
    names: tuple[str, ...],
    language: str | None,
    split: str,
    task: str,
) -> None:
    """Decode the clips of a test set into a predictions file."""
    from ..evaluation.predictions import write_predictions
    from ..files import check_output

    if language in (None, "auto"):
        raise click.UsageError("a test set is of one language; give its code, e.g. --language es.")
    if output.is_dir():
        raise click.UsageError(f"OUTPUT {output} is a folder; name a file.")
    check_output(output, overwrite=overwrite)
    clips = clips_of_test_set(names, language, task, split)
    predictions = decoder(False).decode(clips, language, task)
    write_predictions(predictions, output)
    click.echo(f"{output}: {len(predictions)} hypotheses")


def _recordings(
    decoder: Callable,
    output: Path,
    overwrite: bool,
    inputs: tuple[Path, ...],
    language: str,
    task: str,
    form: str | None,
    segments: bool,
) -> None:
    """Decode recordings into one file, or into a folder with a file for each."""
    from ..evaluation import recordings, transcripts
    from ..files import check_output

    form = transcripts.format_of(output, form)
    found = recordings.find(inputs)
    many = form != "jsonl" and (len(inputs) > 1 or inputs[0].is_dir())
    if many and output.suffix[1:].lower() == form:
        raise click.UsageError(f"each recording has its own .{form}: name a folder as OUTPUT, and --format {form}.")
    if output.exists() and (many or output.is_dir()):
        raise click.UsageError(f"OUTPUT {output} is there already; name another.")
    check_output(output, overwrite=overwrite, inputs=found.values())
    own = transcripts.names(found, form) if many else None
    recordings.check(found)
    failed: dict[str, CorpusError] | None = {} if len(found) > 1 else None
    heard = _told(decoder(True), found, language, task, segments or form in transcripts.TIMED, failed)
    if count := transcripts.write(heard, output, form, own):
        click.echo(f"{output}: {count} recording{'' if count == 1 else 's'}")
    if failed:
        told = " ".join(str(error) for error in failed.values())
        raise CorpusError(f"{len(failed)} of {len(found)} recordings are not transcribed. {told}")


def _told(
    decoder: "Decoder",
    found: dict[str, Path],
    language: str,
    task: str,
    segments: bool,
    failed: dict[str, CorpusError] | None,
) -> Iterator["Transcript"]:
    """Yield transcripts, and say which languages were detected."""
    from ..evaluation.transcription import AUTO, transcribe

    spoken: dict[str, list[str]] = {}
    for one in transcribe(decoder, found, language, task, segments=segments, failed=failed):
        spoken.setdefault(one.language, []).append(one.prediction.id)
        yield one
    if language == AUTO:
        told = [f"{code} ({names[0] if len(names) == 1 else len(names)})" for code, names in spoken.items()]
        click.echo(f"language detected: {', '.join(told)}", err=True)
