"""The command that brings a model from one program's format to another's."""

from pathlib import Path

import click

from .groups import example

FORMATS = ("hf", "ctranslate2", "ggml", "openai")
DTYPES = ("float32", "float16", "bfloat16", "int8", "int8_float16")


@click.command(
    short_help="Convert a model between Hugging Face, CTranslate2, whisper.cpp and OpenAI.",
    epilog=example(
        "speechmerge convert merged for-faster-whisper --to ctranslate2 --dtype int8\n"
        "speechmerge convert merged for-whisper-cpp.bin --to ggml\n"
        "speechmerge convert merged for-openai-whisper.pt --to openai --dtype float16\n"
        "speechmerge convert lora-es whole-es --to hf --base whisper-tiny\n"
        "speechmerge convert ggml-small.bin small --to hf"
    ),
)
@click.argument("source", metavar="INPUT")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--to", required=True, type=click.Choice(FORMATS), help="Format of OUTPUT.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Number format of OUTPUT (default: that of INPUT).")
@click.option("--base", help="Name or folder of an adapter's base (default: the one it names).")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with the model's tokenizer, where INPUT has none.",
)
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it exists.")
def convert(source: str, output: Path, **options: object) -> None:
    """Write the model INPUT in another program's format.

    INPUT is a Hugging Face, CTranslate2 or peft adapter folder, a whisper.cpp (ggml) or openai/whisper (.pt) file, or
    the name of a base model; which of them is seen from what lies there. OUTPUT is a folder for hf and ctranslate2, a
    file for ggml and openai.
    """
    from ..formats.converting import convert as run

    found = run(source, output, **options)
    for change in found.said:
        click.echo(f"{source}: {change}.")
    click.echo(f"{output}: {found.kind}, {found.dtype}, {found.bytes / 1e6:.1f} MB")
