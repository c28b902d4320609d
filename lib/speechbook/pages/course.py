"""Notebooks to take along: those of the book, and those for students, with room to write in the place of solutions."""

from collections.abc import Mapping
from pathlib import Path

import nbformat

from speechmerge.errors import BookError, nearest

from . import notebooks

TAKEN = "taken"  # folder beside the executed copies: notebooks to be downloaded
ROOM = "# Your code\n"  # what stands in the place of a solution's code


def student(source: Path, page: str | None = None) -> nbformat.NotebookNode:
    """Return a page of a notebook without its solutions; a solution with code leaves an empty cell.

    Args:
        source: the notebook without outputs.
        page: which of its pages; the one of its own name by default.

    Raises:
        BookError: the file is no notebook.
    """
    notebook = notebooks.page_of(source, page or source.stem)
    kept, writing = [], False
    for cell in notebook.cells:
        if notebooks.SOLUTION not in cell.metadata.get("tags", []):
            kept.append(cell)
            writing = False
        elif cell.cell_type == "code" and not writing:
            cell.source, cell.metadata["tags"] = ROOM, []
            kept.append(cell)
            writing = True
    notebook.cells = kept
    return notebook


def write_students(root: Path, folder: Path, names: tuple[str, ...] = ()) -> list[Path]:
    """Write the student's version of pages into a folder and return the files.

    Args:
        root: the folder that holds ``notebooks/``.
        folder: where they go, as ``PAGE.ipynb``.
        names: of the pages; none stands for all.

    Raises:
        BookError: there is no such page.
    """
    sources = notebooks.sources(root)
    for name in names:
        if name not in sources:
            raise BookError(f"no notebook makes the page {name!r}.{nearest(name, sources)}")
    for page in names or sources:
        notebooks.write(student(sources[page], page), folder / f"{page}.ipynb")
    return [folder / f"{page}.ipynb" for page in names or sources]


def offer(page: str) -> str:
    """Return the text of a page that offers its notebooks and the command that runs it again."""
    return (
        ":::{admonition} Take this page along\n:class: dropdown taken\n\n"
        f"{{download}}`The notebook <{TAKEN}/{page}.ipynb>` and "
        f"{{download}}`the notebook without solutions <{TAKEN}/{page}-student.ipynb>`, both without outputs. "
        "In a clone of the book this runs the page again:\n\n"
        f"```bash\nspeechmerge book --again {page}\n```\n:::"
    )


def write_taken(executed: Path, sources: Mapping[str, Path]) -> None:
    """Write the notebooks that pages offer beside their executed copies."""
    for page, source in sources.items():
        notebooks.write(notebooks.page_of(source, page), executed / TAKEN / f"{page}.ipynb")
        notebooks.write(student(source, page), executed / TAKEN / f"{page}-student.ipynb")
