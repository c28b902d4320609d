"""Commands that merge: merge, check."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .groups import example

if TYPE_CHECKING:
    from ..merging.given import Given
    from ..merging.recipe import Recipe

DTYPES = ("float32", "float16", "bfloat16", "float64")
SAID_BY_RECIPE = {"experts": "EXPERTS", "base": "--base", "scaling": "--scaling", "settings": "--set"}
SAID_BY_RECIPE |= {"include": "--include", "dtype": "--dtype"}
SAID_BY_RECIPE |= {"max_growth": "--max-growth", "max_update": "--max-update"}
HEARD = ("speech", "statistics", "split", "windows", "clips", "seed")  # options of what is given beside the models


@click.command(
    short_help="Merge models into one Hugging Face folder.",
    epilog=example(
        "speechmerge merge task_arithmetic merged experts/es experts/it --scaling 0.3\n"
        "speechmerge merge lors merged experts/es experts/it --set density=0.4 --set rank_ratio=[0.02,0.05]\n"
        "speechmerge merge ties merged experts/es experts/it --include encoder --include '*decoder.layers.[01].*'\n"
        "speechmerge merge regmean merged experts/es experts/it --speech asterisk:es --speech ./clips:it\n"
        "speechmerge merge fisher merged experts/es experts/it --statistics es-fishers --statistics it-fishers\n"
        "speechmerge merge recipe.yaml merged\n"
        "speechmerge merge sweep.yaml sweep"
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
@click.option(
    "--max-growth",
    type=float,
    help="Refuse a tensor's update so many times as long as the experts', or as λ times theirs (default: 100).",
)
@click.option(
    "--max-update", type=float, help="Refuse an expert so far from the base, as a share of its norm (default: 0.5)."
)
@click.option("--dtype", type=click.Choice(DTYPES), help="Of the result (default: the inputs' most precise).")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--svd-cache", type=click.Path(path_type=Path, file_okay=False), help="Folder where singular vectors are kept."
)
@click.option(
    "--speech",
    multiple=True,
    metavar="WHERE:LANGUAGE[:TASK]",
    help="Speech for a method that needs data, once for each expert in their order; join several with commas. WHERE is "
    "a corpus, a path or hub:OWNER/NAME; TASK is asr or st.",
)
@click.option(
    "--statistics",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="In place of speech: what `speechmerge statistics` collected, once for each expert in their order.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "dev", "test"]),
    help="Which of the speech (default: train for statistics, dev where merged models are measured).",
)
@click.option(
    "--windows",
    type=click.IntRange(1),
    help="30 s windows heard for each expert (default: 64, for learned weights 16; for Fishers 128 single clips).",
)
@click.option("--clips", type=click.IntRange(1), help="Clips taken of each speech, evenly (default: all).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draw of speech.")
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT if it exists.")
@click.pass_context
def merge(ctx: click.Context, method: str, output: Path, **options: object) -> None:
    """Merge EXPERTS with METHOD, or as the file RECIPE says, into the Hugging Face folder OUTPUT.

    An expert is the folder of a fine-tuned model or of a peft LoRA adapter, in the order of per-expert parameters. A
    recipe is a YAML file in mergekit's form; it names the models and parameters, so none are given beside it. One with
    variants makes a folder in OUTPUT for each of them, and reads the models once.

    Methods marked "needs data" by `methods list` hear speech (--speech), or are given what was collected from it before
    (--statistics).
    """
    from ..files import check_writable

    engine_options = {name: options[name] for name in ("device", "svd_cache", "overwrite")}
    if options["svd_cache"]:
        check_writable(options["svd_cache"], 0)
    if is_recipe(method) and (variants := _variants(ctx, Path(method))):
        _merge_variants(variants, output, engine_options)
        return
    recipe = _from_file(Path(method)) if is_recipe(method) else _from_words(method, options)
    data = given(recipe, **{name: options[name] for name in HEARD})
    _check_output(output, recipe, options["overwrite"])
    extras, said = _extras(recipe, data)
    recipe.run(output, resolve=model_folder, extras=extras, data=said, **engine_options)
    click.echo(f"{output}: {recipe.method} of {len(recipe.experts)} experts{_learnt(output, recipe.method)}")


@click.command(
    short_help="Check a recipe and its models without merging.", epilog=example("speechmerge check recipe.yaml")
)
@click.argument("recipe", type=click.Path(path_type=Path))
def check(recipe: Path) -> None:
    """Check RECIPE and the models it names without merging, and say what a merge would do."""
    from ..merging.recipe import read, read_variants

    for name, found in (read_variants(recipe) or {"": read(recipe)}).items():
        if name:
            click.echo(f"variant     {name}")
        _check(found)


def _check(found: "Recipe") -> None:
    from ..merging import validation
    from ..merging.estimates import estimate

    data = given(found)
    opened = found.merge(model_folder, extras=data.stand_ins(found.method, len(found.experts)))
    expected = estimate(opened)
    validation.check_memory(expected.memory)
    click.echo(f"method      {opened.method.name}: {opened.method.title}, {opened.method.paper}")
    click.echo(f"base        {opened.base.folder} ({len(opened.base.shapes)} tensors, {_size(opened.base.bytes())})")
    for number, expert in enumerate(opened.experts):
        click.echo(f"expert {number}    {expert.label}{' (LoRA adapter)' if expert.folder is None else ''}")
        for what in (*found.speech[number : number + 1], *found.statistics[number : number + 1]):
            click.echo(f"  with      {what}")
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


def full_model(name: str, base: str | None = None) -> Path:
    """Return the folder of a model that can be run: as :func:`model_folder`, and a LoRA adapter put into its base."""
    from ..merging.adapters import is_adapter
    from ..merging.given import whole
    from ..whisper import models

    folder = Path(name).expanduser()
    if not folder.is_dir() or not is_adapter(folder):
        return models.base_model(name)
    if base is None:
        raise click.UsageError(f"{name} is a LoRA adapter; name its base model with --base.")
    return whole(folder, model_folder(base))


def setting(text: str) -> tuple[str, object]:
    """Read ``name=value``; the value is JSON (a number, a list, true) or else a word."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--set {text!r} is not NAME=VALUE, for example --set density=0.4.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _variants(ctx: click.Context, path: Path) -> "dict[str, Recipe]":
    """Read the variants of a recipe; none of one without."""
    from ..merging.recipe import read_variants

    _refuse_words(ctx, path)
    found = read_variants(path)
    if found and (heard := [f"--{name}" for name in HEARD if _given(ctx, name)]):
        raise click.UsageError(f"{path} has variants, which hear no speech; leave out {', '.join(heard)}.")
    return found


def _merge_variants(variants: "dict[str, Recipe]", output: Path, engine_options: dict) -> None:
    from ..merging.recipe import merge_variants

    for name, recipe in variants.items():
        _check_output(output / name, recipe, engine_options["overwrite"])
    merge_variants(variants, output, resolve=model_folder, **engine_options)
    for name, recipe in variants.items():
        click.echo(f"{output / name}: {recipe.method} of {len(recipe.experts)} experts")


def _refuse_words(ctx: click.Context, path: Path) -> None:
    """Raise if the command says what its recipe says."""
    given = [word for name, word in SAID_BY_RECIPE.items() if _given(ctx, name)]
    if given:
        raise click.UsageError(
            f"a recipe says everything about the models and the method, so {', '.join(given)} cannot stand beside "
            f"{path}; write it into the recipe."
        )


def _from_file(path: Path) -> "Recipe":
    """Read a recipe that merges before anybody listens."""
    from ..merging.recipe import read

    found = read(path)
    found.check_static()
    return found


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.params[name] != () and ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _from_words(method: str, options: dict) -> "Recipe":
    """Return the recipe that the command's arguments amount to."""
    from ..merging.methods import find
    from ..merging.recipe import Recipe
    from ..merging.recipe_file import DTYPES as KINDS

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
    params |= {name: options[name] for name in ("max_growth", "max_update") if options[name] is not None}
    params |= {"dtype": KINDS[options["dtype"]]} if options["dtype"] else {}
    return Recipe(method, options["base"], options["experts"], params)


def given(recipe: "Recipe", **options: object) -> "Given":
    """Return the speech or statistics that a merge is given, checked against what its method needs.

    Raises:
        MethodError: it lacks them, or has no use for them.
    """
    from ..finetuning.training_recipe import Source
    from ..merging.given import Given

    for name in ("speech", "statistics"):
        if getattr(recipe, name) and (options.get("speech") or options.get("statistics")):
            raise click.UsageError(f"the recipe names its own {name}; leave out --speech and --statistics.")
    speech = tuple(Source.parse_all(text) for text in (*recipe.speech, *options.pop("speech", ())))
    statistics = tuple(Path(folder) for folder in (*recipe.statistics, *options.pop("statistics", ())))
    if idle := [f"--{name}" for name in ("split", "windows", "clips") if options.get(name) and not speech]:
        raise click.UsageError(f"{', '.join(idle)} tell how speech is heard, but there is none; give --speech too.")
    found = Given(speech, statistics, **options)
    found.check(recipe.method, len(recipe.experts))
    return found


def _extras(recipe: "Recipe", data: "Given") -> tuple[dict, dict]:
    """Return what a method needs beside the models, which are checked before they hear anything; mostly nothing."""
    if not (data.speech or data.statistics):
        return {}, {}
    recipe.merge(model_folder, extras=data.stand_ins(recipe.method, len(recipe.experts)))
    folders = [model_folder(name) for name in recipe.experts]
    return data.extras(recipe.method, model_folder(recipe.base), folders, recipe.options)


def _learnt(output: Path, method: str) -> str:
    """Return the weights that a method learnt, as its record has them, for one set of weights; else nothing."""
    from ..merging.methods import find
    from ..merging.output import RECIPE

    if not find(method).fit:
        return ""
    weights = json.loads((output / RECIPE).read_text())["recipe"]["parameters"]["weights"]
    if len(weights) > 1:
        return f", {len(weights)} sets of weights learnt (see its card)"
    return f", weights learnt: {', '.join(f'{weight:.3f}' for weight in weights[0])}"


def _check_output(output: Path, recipe: "Recipe", overwrite: bool) -> None:
    """Raise if the output would take the place of a model that is merged, or of a folder around one, or exists."""
    from ..files import check_output
    from ..merging.output import MARKS

    for name in (recipe.base, *recipe.experts):
        if Path(name).exists() and Path(name).resolve().is_relative_to(output.resolve()):
            raise click.UsageError(f"OUTPUT {output} is or holds {name}, a model to merge; name another folder.")
    check_output(output, overwrite=overwrite, marks=MARKS)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
