"""Notebooks to take along: those of the book, and those for students, with room to write in the place of solutions."""

import os
from collections.abc import Mapping
from pathlib import Path

import nbformat

from speechmerge.errors import BookError, nearest

from . import notebooks

TAKEN = "taken"  # folder beside the executed copies: notebooks to be downloaded
REPOSITORY = ("SPEECHMERGE_REPOSITORY", "GITHUB_REPOSITORY")  # where the book's address is told
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


def offer(page: str, source: str | None = None) -> str:
    """Return the text of a page that offers its notebooks, the command that runs it again, and a machine to run it on.

    Args:
        page: its name.
        source: of which notebook it is a page; the one of its own name by default.

    The machines need an address of the book: ``OWNER/NAME`` on GitHub in the variable ``SPEECHMERGE_REPOSITORY``,
    which GitHub's own builds know.
    """
    repository = next(filter(None, map(os.environ.get, REPOSITORY)), "")
    return (
        ":::{admonition} Take this page along\n:class: dropdown taken\n\n"
        f"{{download}}`The notebook <{TAKEN}/{page}.ipynb>` and "
        f"{{download}}`the notebook without solutions <{TAKEN}/{page}-student.ipynb>`, both without outputs. "
        "In a clone of the book this runs the page again:\n\n"
        f"```bash\nspeechmerge book --again {page}\n```\n"
        f"{_launched(repository, source or page) if repository else ''}:::"
    )


def _launched(repository: str, notebook: str) -> str:
    """Return links that open a notebook on machines of others, with the environment it needs."""
    place = f"{repository}/blob/HEAD/notebooks/{notebook}.ipynb"
    folder = repository.partition("/")[2]
    return (
        f"\nOr on a machine of others: [on Binder](https://mybinder.org/v2/gh/{repository}/HEAD?labpath=notebooks%2F"
        f"{notebook}.ipynb), whose environment is the book's, or [in Colab](https://colab.research.google.com/github/"
        f"{place}), where this must run first:\n\n"
        f"```\n!git clone -q https://github.com/{repository} && pip install -q -e {folder}[book]\n%cd {folder}\n```\n"
    )


def write_taken(executed: Path, sources: Mapping[str, Path]) -> None:
    """Write the notebooks that pages offer beside their executed copies."""
    for page, source in sources.items():
        notebooks.write(notebooks.page_of(source, page), executed / TAKEN / f"{page}.ipynb")
        notebooks.write(student(source, page), executed / TAKEN / f"{page}-student.ipynb")
