"""A Sphinx extension, named in ``_config.yml``: what the theme gets wrong is put right as a page is written."""

import re

from docutils import nodes
from sphinx.application import Sphinx

GLUED = "pasted-text"  # class of what a page takes over from a notebook, formatted as Python formats numbers
SIGN = re.compile(r"(?<![\w.-])-(?=\.?\d)")
PERCENT = re.compile(r"(?<=\d) ?%")
VERBATIM = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment)
CELL = re.compile(r"<td>([^<]*)</td>")  # as pandas writes them
SHORT = 12  # characters of a cell that stays on one line
# Sphinx lists entries of a bibliography in an element with this role, whose children would then have to be list items.
LIST, PLAIN = 'role="list" class="citation-list"', 'class="citation-list"'


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect what is below, after all that themes and other extensions do to a page."""
    app.connect("builder-inited", know_all_nodes)
    app.connect("doctree-resolved", write_numbers)
    app.connect("html-page-context", mend, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def know_all_nodes(app: Sphinx) -> None:
    """Let the page that holds all chapters be written of every kind of node that single pages are.

    Sphinx writes it as it writes other pages unless an extension asks for it by name, as sphinx-exercise does; then it
    knows the nodes of that extension alone.
    """
    known = app.registry.translation_handlers
    known["singlehtml"] = known.get("html", {}) | known.get("singlehtml", {})


def write_numbers(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Keep per cent signs beside their numbers, and write minus signs where Python has put hyphens before numbers."""
    for text in list(doctree.findall(nodes.Text)):
        if not isinstance(text.parent, VERBATIM):
            told = PERCENT.sub("\u00a0%", text)
            told = SIGN.sub("−", told) if GLUED in text.parent.get("classes", []) else told
            text.parent.replace(text, nodes.Text(told))


def mend(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Leave out scripts that fail or need a network, follow the reader's light or dark mode, mend lists and cells.

    sphinx-thebe, which Jupyter Book always loads, runs code of a page elsewhere; this book offers that on no page, and
    its settings are written twice, which is an error.
    """
    context["default_mode"] = context.get("default_mode") or "auto"
    context["script_files"] = [script for script in context["script_files"] if not _is_thebe(script)]
    if "body" in context:
        context["body"] = CELL.sub(_cell, context["body"].replace(LIST, PLAIN))


def _cell(found: re.Match) -> str:
    """Write a cell of a table as :func:`write_numbers` does; a short one is marked, so that it is not broken."""
    text = PERCENT.sub("\u00a0%", SIGN.sub("−", found[1]))
    return f'<td class="short">{text}</td>' if len(text) <= SHORT else f"<td>{text}</td>"


def _is_thebe(script: object) -> bool:
    told = getattr(script, "attributes", {}).get("body") or getattr(script, "filename", None) or script
    return "thebe" in str(told).lower()
