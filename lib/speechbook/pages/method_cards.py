"""The method cards of the book, written from the registry: one page a family, one card a method, one table of all.

A page is ``book/methods/FAMILY.md``. Its prose is written by hand and never touched; the cards stand between the two
marks of :mod:`speechbook.pages.cards`. The table of all methods stands in ``book/methods.md`` in the same way. The
pictures are not committed: every build of the book has them drawn in ``book/methods/pictures``.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from pybtex.database import BibliographyData, parse_file

from speechmerge.errors import BookError
from speechmerge.files import atomic_folder
from speechmerge.merging.methods import DATA, FAMILIES, Method, registry
from speechmerge.merging.parameters import Choice, Parameter

from ..figures.figured import rendered
from ..figures.method_pictures import draw
from ..tables import leaders
from . import notebooks
from .cards import check_block, table, write_block

CLOSEST = {"learned_average": "wortsman2022soups", "learned_arithmetic": "yang2024adamerging"}  # of no one paper
SEES = {"entries": "entry", "rows": "row", "tensors": "tensor", "matrices": "matrix"}
HANDED = {  # names in the examples
    "grams": "grams", "fishers": "fishers", "score": "dev_error", "loss": "plain_loss", "gradient": "dev_loss",
    "entropy": "unsureness",
}  # fmt: skip
OTHERS = {"sum": "get the sum of the experts", "mean": "get the mean of the experts", "base": "stay the base's"}
TABLE = ("family", "method", "sees", "needs", "size", "cost")
LONGEST = 8  # characters of a number in a table
NAMES = {"lowrank": "low rank", "per_task": "per task"}


def update(book: Path) -> list[Path]:
    """Write the cards and the table into the folder of the book's sources; return what changed.

    Raises:
        BookError: a page is missing or lacks the marks, or a paper is missing from the bibliography.
    """
    return [book / name for name, text in blocks(book).items() if write_block(book / name, text)]


def check(book: Path) -> None:
    """Raise unless every page is what the registry says now.

    Raises:
        BookError: naming the page and the first line that differs.
    """
    for name, text in blocks(book).items():
        check_block(book / name, text)


def draw_pictures(book: Path) -> None:
    """Draw the picture of every card into the folder of the book's sources, unless the library drew the ones there."""
    folder, made_of = book / "methods" / "pictures", notebooks.library_key()
    mark = folder / ".key"
    if mark.is_file() and mark.read_text() == made_of:
        return
    with atomic_folder(folder, overwrite=True) as new:
        for name, method in registry().items():
            (new / f"{name}.svg").write_bytes(rendered(draw(method).fig, "svg"))
        (new / mark.name).write_text(made_of)


def blocks(book: Path) -> dict[str, str]:
    """Return the generated text of every page, by its path below ``book``."""
    papers = parse_file(book / "references.bib")
    found = {"methods.md": overview()}
    for family in FAMILIES:
        cards = [card(method, papers) for method in registry().values() if method.family == family]
        found[f"methods/{family}.md"] = "\n\n".join(cards)
    return found


def overview() -> str:
    """Return the table of all methods, each linked to its card."""
    rows = []
    for family in FAMILIES:
        shown = f"[{NAMES.get(family, family)}](methods/{family})"
        for method in (method for method in registry().values() if method.family == family):
            link = f"{{ref}}`{_short(method)} <method-{method.name}>`"
            said = ", ".join(leaders.SHORT[key] for key in method.data)
            needs = said or ("the task" if "task" in method.parameters else "–")
            size = "learnt" if method.fit else method.scale
            rows.append([shown, link, _sees(method), needs, size, method.cost.replace(" over all models", "")])
            shown = ""
    return "\n".join(table(TABLE, rows, words=len(TABLE)))


def card(method: Method, papers: BibliographyData) -> str:
    """Return one method's card as MyST Markdown."""
    picture = draw(method)
    parts = [
        f"(method-{method.name})=\n## {method.title}",
        method.idea,
        f"$$\n{method.equation}\n$$",
        f"```{{image}} pictures/{method.name}.svg\n:alt: {picture.alt}\n:class: figured\n```",
        "\n".join(_facts(method, papers, picture.options)),
        _parameters(method),
        f"```python\n{example(method)}\n```",
    ]
    return "\n\n".join(part for part in parts if part)


def source(method: Method, papers: BibliographyData) -> str:
    """Return the bibliography's key of the paper a method comes from, or is closest to.

    Raises:
        BookError: the bibliography lacks it.
    """
    if method.name in CLOSEST:
        return CLOSEST[method.name]
    surname, year = re.match(r"(\S+) (\S+)", method.paper).groups()
    for key, entry in papers.entries.items():
        if surname == "arXiv" and entry.fields.get("note") == method.paper:
            return key
        if entry.fields["year"] == year and surname in entry.persons["author"][0].last_names:
            return key
    raise BookError(f"book/references.bib lacks {method.paper}, the source of the method {method.name}; add it.")


def example(method: Method) -> str:
    """Return a call that can be copied: the first parameters at their defaults, and what the method needs."""
    words = [f'"{method.name}"', "base", f"experts[:{method.experts}]" if method.experts else "experts"]
    if method.family in ("averaging", "sparse", "lowrank") and _scaling(method).startswith("find"):
        words.append("scaling=0.3")
    numbers = [p for p in method.parameters.values() if isinstance(p.default, int | float) and p.kind is not bool]
    words += [f"{p.name}={p.default!r}" for p in numbers[:2]]
    words += [f'extras={{"{key}": {HANDED[key]}}}' for key in method.data]
    call = ", ".join(words)
    broken = f"\n    {call}\n" if len(call) > 36 else call
    return f"merged = speechmerge.merge_state_dicts({broken})"


def _sees(method: Method) -> str:
    """Return the largest piece a method looks at before it decides; some need the model only where asked to."""
    scope = method.parameters.get("scope")
    asked = method.data or (scope and scope.default == "tensor")
    whole = method.fit or (method.prepass and not asked)
    return "model" if whole else SEES[method.acts_on]


def _facts(method: Method, papers: BibliographyData, drawn: Mapping) -> list[str]:
    """The bullets of a card."""
    facts = {
        "Source": _paper(method, papers),
        "Sees": {"model": "the whole model before it decides about a part of it"}.get(
            _sees(method), f"one {_sees(method)} at a time"
        ),
        "Needs": _needs(method),
        "Cost": method.cost,
        "Size": "" if method.fit else f"that of a {method.scale} over the experts; {_scaling(method)}",
        "Papers and code": method.deviations,
        "Flavours": "; ".join(
            f'`flavour="{name}"` sets {_settings(preset)}' for name, preset in method.flavours.items()
        ),
        "Picture": f"drawn with {_settings(drawn)}" if drawn else "",
    }
    if method.acts_on == "matrices":
        facts["Sees"] += f"; embeddings, convolutions and vectors {OTHERS[method.others]}"
    return [f"- **{name}**: {text.rstrip('.')}." for name, text in facts.items() if text]


def _paper(method: Method, papers: BibliographyData) -> str:
    key = source(method, papers)
    fields = papers.entries[key].fields
    title = re.sub(r"[{}\\]", "", fields["title"]).replace("--", "–")
    text = ", ".join([f"{{cite:t}}`{key}`", f"*{title}*", *filter(None, [fields.get("note")])])
    if method.name in CLOSEST:
        text = f"no single paper; close to {text}"
    if method.variant_of:
        text += f". A variant of {{ref}}`{_short(registry()[method.variant_of])} <method-{method.variant_of}>`"
    return text


def _needs(method: Method) -> str:
    needs = [f'{DATA[key]} (`extras={{"{key}": …}}`)' for key in method.data]
    if "task" in method.parameters:
        needs.append("to know the task of each recording when the model is used")
    if method.experts:
        needs.append(f"exactly {method.experts} expert{'s' * (method.experts > 1)}")
    if method.stochastic:
        needs.append(f"a seed, for the {'proposals' if method.fit else 'masks'} are random")
    return "; ".join(needs) or "nothing but the models"


def _scaling(method: Method) -> str:
    if "beta" in method.parameters:
        return "`alpha` and `beta` take the place of `scaling`"
    return "find `scaling` on development data" if method.scale == "sum" else "start from `scaling` 1"


def _short(method: Method) -> str:
    """The title without what is in brackets."""
    return method.title.split(" (")[0]


def _settings(values: Mapping) -> str:
    return ", ".join(f"`{name}={_literal(value)}`" for name, value in values.items())


def _literal(value: object) -> str:
    """A value as it is written in a call, a fraction to four digits."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:.4g}" if isinstance(value, float) and len(repr(value)) > LONGEST else repr(value)


def _parameters(method: Method) -> str:
    """The table of a card's parameters; empty if there are none."""
    rows = [[f"`{p.name}`", f"`{_literal(p.default)}`", _allowed(p), p.meaning] for p in method.parameters.values()]
    return "\n".join(table(["parameter", "default", "allowed", "meaning"], rows, words=4)) if rows else ""


def _allowed(parameter: Parameter) -> str:
    """What a parameter may be."""
    words = parameter.allowed.words if isinstance(parameter.allowed, Choice) else ()
    text = ", ".join(f"`{_literal(word)}`" for word in words) or str(parameter.allowed or parameter.kind.__name__)
    return text + (", or one for each expert" if parameter.per_expert else "")
