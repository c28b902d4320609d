"""The command line: every step of the project as a command with an example; errors are sentences, not tracebacks."""

import logging
import sys

import click

from ..errors import SpeechMergeError
from . import convert, data, decoding, fuse, merging, methods, models, statistics, tune
from .groups import Root, example

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Root, context_settings=CONTEXT, epilog=example("speechmerge study plan --experiment table1"))
@click.version_option(package_name="speechmerge")
@click.option("-v", "--verbose", is_flag=True, help="Say more about what is done.")
def cli(verbose: bool) -> None:
    """Merge fine-tuned speech models, and recompute or render the book about it."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("speechmerge").setLevel(logging.INFO)


for command in (
    data.fetch,
    data.inspect_data,
    data.splits,
    models.train,
    statistics.statistics,
    merging.merge,
    merging.check,
    tune.tune,
    fuse.fuse,
    methods.methods,
    convert.convert,
    decoding.decode,
    models.score,
):
    cli.add_command(command)


def main() -> None:
    """Entry point: run the command line; expected errors end as one sentence and exit code 1.

    A path that the system refuses is such an error; what else escapes is a bug and keeps its traceback.
    """
    try:
        cli(prog_name="speechmerge")
    except SpeechMergeError as error:
        message = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        message = f"{error.filename}: {error.strerror}; check the path and whether it may be read or written."
    click.secho(f"speechmerge: {message}", err=True, fg="red")
    sys.exit(1)
