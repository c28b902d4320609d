"""Commands that merge: merge, check."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .groups import example

if TYPE_CHECKING:
    from ..merging.recipe import Recipe

DTYPES = ("float32", "float16", "bfloat16", "float64")
SAID_BY_RECIPE = {"experts": "EXPERTS", "base": "--base", "scaling": "--scaling", "settings": "--set"}
SAID_BY_RECIPE |= {"include": "--include", "dtype": "--dtype"}


@click.command(
    short_help="Merge models into one Hugging Face folder.",
    epilog=example(
        "speechmerge merge task_arithmetic merged experts/es experts/it --scaling 0.3\n"
        "speechmerge merge lors merged experts/es experts/it --set density=0.4 --set rank_ratio=[0.02,0.05]\n"
        "speechmerge merge ties merged experts/es experts/it --include encoder --include '*decoder.layers.[01].*'\n"
        "speechmerge merge recipe.yaml merged"
    ),
)
@click.argument("method", metavar="METHOD|RECIPE")
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.argument("experts", nargs=-1)
@click.option("--base", default="whisper-tiny", show_default=True, help="Name or folder of the experts' base model.")
@click.option("--scaling", type=float, default=1.0, show_default=True, help="λ in base + λ·τ.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of the method; see `methods show`."
)
@click.option("--include", multiple=True, help="Merge only this part (encoder, cross-attention, ...) or name pattern.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the result (default: the inputs' most precise).")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--svd-cache", type=click.Path(path_type=Path, file_okay=False), help="Folder where singular vectors are kept."
)
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it exists.")
@click.pass_context
def merge(ctx: click.Context, method: str, output: Path, **options: object) -> None:
    """Merge EXPERTS with METHOD, or as the file RECIPE says, into the Hugging Face folder OUTPUT.

    An expert is the folder of a fine-tuned model or of a peft LoRA adapter, in the order of per-expert parameters. A
    recipe is a YAML file in mergekit's form; it names the models and parameters, so none are given beside it.
    """
    from ..files import check_writable

    engine_options = {name: options[name] for name in ("device", "svd_cache", "overwrite")}
    recipe = _from_file(ctx, Path(method)) if is_recipe(method) else _from_words(method, options)
    check_data(recipe)
    _check_output(output, recipe)
    if options["svd_cache"]:
        check_writable(options["svd_cache"], 0)
    recipe.run(output, resolve=model_folder, **engine_options)
    click.echo(f"{output}: {recipe.method} of {len(recipe.experts)} experts")


@click.command(
    short_help="Check a recipe and its models without merging.", epilog=example("speechmerge check recipe.yaml")
)
@click.argument("recipe", type=click.Path(path_type=Path))
def check(recipe: Path) -> None:
    """Check RECIPE and the models it names without merging, and say what a merge would do."""
    from ..merging import validation
    from ..merging.estimates import estimate
    from ..merging.recipe import read

    found = read(recipe)
    check_data(found)
    opened = found.merge(model_folder)
    expected = estimate(opened)
    validation.check_memory(expected.memory)
    click.echo(f"method      {opened.method.name}: {opened.method.title}, {opened.method.paper}")
    click.echo(f"base        {opened.base.folder} ({len(opened.base.shapes)} tensors, {_size(opened.base.bytes())})")
    for number, expert in enumerate(opened.experts):
        click.echo(f"expert {number}    {expert.label}{' (LoRA adapter)' if expert.folder is None else ''}")
    click.echo(f"scaling     {opened.scaling:g}")
    for name, value in opened.parameters.items():
        click.echo(f"  {name:20s} {value}")
    for name in ("include", "policy", "lines", "dtype"):
        if name in found.options:
            click.echo(f"{name:11s} {str(found.options[name]).removeprefix('torch.')}")
    click.echo(f"a merge covers {len(opened.selected)} tensors, {expected}")


def is_recipe(word: str) -> bool:
    """Tell whether the first argument of ``merge`` names a file instead of a method."""
    return word.endswith((".yaml", ".yml")) or "/" in word or Path(word).is_file()


def model_folder(name: str) -> Path:
    """Return the folder of a model: a folder as it is, a base model's name resolved, fetched if need be."""
    from ..whisper.catalogue import BASES

    if Path(name).expanduser().is_dir() and name not in (*BASES, "smoke"):
        return Path(name).expanduser()
    from ..whisper import models  # heavy, and not needed for folders

    return models.base_model(name)


def setting(text: str) -> tuple[str, object]:
    """Read ``name=value``; the value is JSON (a number, a list, true) or else a word."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--set {text!r} is not NAME=VALUE, for example --set density=0.4.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _from_file(ctx: click.Context, path: Path) -> "Recipe":
    """Read a recipe, which says all that the other arguments would."""
    from ..merging.recipe import read

    given = [word for name, word in SAID_BY_RECIPE.items() if _given(ctx, name)]
    if given:
        raise click.UsageError(
            f"a recipe says everything about the models and the method, so {', '.join(given)} cannot stand beside "
            f"{path}; write it into the recipe."
        )
    return read(path)


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.params[name] != () and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _from_words(method: str, options: dict) -> "Recipe":
    """Return the recipe that the command's arguments amount to."""
    from ..merging.methods import find
    from ..merging.recipe import DTYPES as KINDS
    from ..merging.recipe import Recipe

    found = find(method)
    if not options["experts"]:
        raise click.UsageError("Missing argument 'EXPERTS...': name the folders of the fine-tuned models.")
    params: dict[str, object] = {}
    for text in options["settings"]:
        name, value = setting(text)
        if name in params:
            raise click.UsageError(f"--set gives {name!r} twice; give one value, or a list with one for each expert.")
        params[name] = value
    found.check(params, experts=len(options["experts"]))
    params["scaling"] = options["scaling"]
    params |= {"include": list(options["include"])} if options["include"] else {}
    params |= {"dtype": KINDS[options["dtype"]]} if options["dtype"] else {}
    return Recipe(method, options["base"], options["experts"], params)


def check_data(recipe: "Recipe") -> None:
    """Raise where a method needs what only Python can hand over."""
    from ..errors import MethodError
    from ..merging.methods import DATA, find

    wanted = find(recipe.method).data
    if wanted:
        raise MethodError(
            f"{recipe.method} needs more than the models: {' and '.join(DATA[key] for key in wanted)}. Call it from "
            f"Python, speechmerge.merge_folders({recipe.method!r}, ..., extras={{{wanted[0]!r}: ...}})."
        )


def _check_output(output: Path, recipe: "Recipe") -> None:
    """Raise if the output would take the place of a model that is merged, or of a folder around one."""
    inputs: Sequence[str] = (recipe.base, *recipe.experts)
    for name in inputs:
        if Path(name).exists() and Path(name).resolve().is_relative_to(output.resolve()):
            raise click.UsageError(f"OUTPUT {output} is or holds {name}, a model to merge; name another folder.")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
