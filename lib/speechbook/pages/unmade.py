"""The page that stands in the book for a chapter that could not be made: it says so, and shows no number."""

import re
from pathlib import Path

import nbformat

from speechmerge.errors import BookError

from . import notebooks

SHOWN = 400  # characters of the reason
MADE_BY_CODE = ("{glue", "{numref")  # roles whose targets only an executed chapter has


def unmade_page(source: Path, why: str, page: str | None = None) -> nbformat.NotebookNode:
    """Return a notebook with the chapter's title, the reason in one line, and the question it would have answered.

    It holds no key, so it never counts as the chapter's executed copy.

    Args:
        source: the chapter's notebook, which may be damaged.
        why: one line; shown as it is, so that nothing in it is taken for markup.
        page: which of its pages; the one of its own name by default.
    """
    text = _prose(source, page or source.stem)
    title = re.search(r"(?m)^# (.+)", text)
    question = re.search(r"(?ms)^## Question\n.*?(?=^## |\Z)", text)
    asked = question.group().strip() if question and not any(role in question.group() for role in MADE_BY_CODE) else ""
    cell = nbformat.v4.new_markdown_cell(
        f"# {title.group(1) if title else source.stem}\n\n"
        ":::{admonition} This chapter could not be made\n:class: warning\n\n"
        "When the book was built, the notebook of this chapter failed, so it shows no text and no numbers here. "
        "The other chapters were made without it. The next build of the book tries it again. The reason was:\n\n"
        f"```text\n{why.replace('`', chr(39))[:SHOWN]}\n```\n:::\n\n{asked}"
    )
    return nbformat.v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python"}})


def _prose(source: Path, page: str) -> str:
    """The text of a notebook's page, empty if the file is no notebook."""
    try:
        cells = notebooks.page_of(source, page).cells
    except BookError:
        return ""
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
