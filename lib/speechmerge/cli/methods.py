"""Commands that describe the merge methods: methods list, methods show."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from .groups import Group, example

if TYPE_CHECKING:
    from ..merging.methods import Method

WIDTH = 100
SCOPES = {
    "entries": "all trained tensors, entry by entry",
    "rows": "all trained tensors, row by row",
    "tensors": "all trained tensors, one at a time",
    "matrices": "linear maps",
}
OTHERS = {
    "sum": "any other tensor gets the experts' sum",
    "mean": "any other tensor gets the experts' mean",
    "base": "any other tensor stays the base's",
}


@click.group(cls=Group, epilog=example("speechmerge methods list"))
def methods() -> None:
    """The merge methods and their parameters."""


@methods.command("list", epilog=example("speechmerge methods list"))
def methods_list() -> None:
    """List every merge method by family, with its title and paper."""
    from ..merging.methods import FAMILIES, registry

    for family, title in FAMILIES.items():
        click.echo(f"\n{title} ({family})")
        for name, method in registry().items():
            if method.family == family:
                data = "  needs data" if method.data else ""
                click.echo(f"  {name:20s} {method.title}  [{method.paper}]{data}")


@methods.command("show", epilog=example("speechmerge methods show lors"))
@click.argument("name")
def methods_show(name: str) -> None:
    """Show what a method does: idea, equation, parameters, needs, cost, variants and deviations."""
    from ..merging.methods import DATA, FAMILIES, find, registry

    method = find(name)
    variants = [other.name for other in registry().values() if other.variant_of == name]
    click.echo(f"{method.title} ({name})\n")
    click.echo(_wrapped(method.idea, ""))
    click.echo(f"\n  {method.equation}\n")
    facts = {
        "family": f"{FAMILIES[method.family]} ({method.family})",
        "paper": method.paper,
        "acts on": SCOPES[method.acts_on] + (f"; {OTHERS[method.others]}" if method.acts_on == "matrices" else ""),
        "experts": f"exactly {method.experts}" if method.experts else "any number",
        "needs": " and ".join(DATA[key] for key in method.data) or "the models alone",
        "given by": _options(method),
        "chance": "random, the same for the same seed" if method.stochastic else "",
        "cost": method.cost,
        "variant of": method.variant_of or "",
        "variants": ", ".join(variants),
        "deviations": method.deviations,
    }
    for word, text in facts.items():
        if text:
            click.echo(_wrapped(text, f"{word:12s}"))
    click.echo("\nparameters (--set NAME=VALUE)")
    for parameter, meaning in method.parameters.items():
        click.echo(_wrapped(f"{parameter}: {meaning}", "  "))
    click.echo(_wrapped("scaling: λ of base + λ·τ; an option of its own, --scaling (a number; default 1.0)", "  "))
    for flavour, settings in method.flavours.items():
        click.echo(_wrapped(f"flavour={flavour} is {_listed(settings)}", "  "))


def _options(method: "Method") -> str:
    """Return the options of ``merge`` that give what a method needs beside the models."""
    from ..merging.methods import LAYERED

    if not method.data:
        return ""
    speech = "--speech WHERE:LANGUAGE, once for each expert"
    alone = method.measure or method.name == LAYERED
    return speech if alone else f"{speech}, or --statistics FOLDER (see `speechmerge statistics`)"


def _listed(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _wrapped(text: str, start: str) -> str:
    """Break a text into lines, the first after ``start`` and the others below it."""
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * max(len(start), 4 if start else 0))
