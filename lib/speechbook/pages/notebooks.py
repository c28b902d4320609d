"""Notebooks as programs: checked parameters, execution through papermill, and what an executed copy was made of.

A notebook in ``notebooks/`` is a source without outputs. Its executed copy in ``book/executed/`` carries in its
metadata the key of everything that made it, so that a copy is made again exactly when one of those things changed.

Several pages may share a source. Its metadata name them, with the parameters of each (:func:`pages`); a cell tagged
``only-NAME`` stands on that page alone, ``%page%`` stands for the page's name, and ``%minutes%`` for the time that
reading it takes. Cells tagged ``solution`` solve an exercise.
"""

import ast
import hashlib
import json
import logging
import math
import re
import tempfile
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from speechmerge.errors import BookError, nearest
from speechmerge.files import atomic_file, digest

from . import watching

KERNEL = "python3"
SILENT = ["--IPKernelApp.log_level=50"]  # else every kernel reports the interrupt that ends it as an error
PACKAGES = ("speechmerge", "speechbook")  # whose code can change an output
METADATA = "speechmerge"  # where an executed copy keeps its key
# Packages whose versions can change an output.
TOOLS = ("ipykernel", "matplotlib", "numpy", "pandas", "seaborn", "torch", "transformers")
ONLY, PAGE = "only-", "%page%"  # begins the tags of cells of one page; stands for a page's name
MINUTES, SOLUTION = "%minutes%", "solution"  # stands for the time of reading; tags the cells of a solution
PACE, LOOK = 200, 0.5  # words read in a minute; minutes for a table or figure


def read(source: Path) -> nbformat.NotebookNode:
    """Read a notebook.

    Raises:
        BookError: the file is none.
    """
    try:
        return nbformat.read(source, as_version=4)
    except (ValueError, nbformat.ValidationError, AttributeError, KeyError, TypeError) as error:
        raise BookError(f"{source} is not a notebook ({str(error).partition(chr(10))[0][:80]}).") from error


def pages(source: Path) -> dict[str, dict[str, object]]:
    """Return the pages made of a notebook, with the parameters of each; one of its own name if it does not say."""
    try:
        return _pages(read(source)) or {source.stem: {}}
    except BookError:
        return {source.stem: {}}  # its own page says later what is wrong


def _pages(notebook: nbformat.NotebookNode) -> dict[str, dict[str, object]]:
    return notebook.metadata.get(METADATA, {}).get("pages", {})


def sources(root: Path) -> dict[str, Path]:
    """Return the notebook of every page that some notebook below the project's folder makes."""
    return {page: source for source in sorted((root / "notebooks").glob("*.ipynb")) for page in pages(source)}


def page_of(source: Path, page: str) -> nbformat.NotebookNode:
    """Return what stands on one of the pages of a notebook; its parameters cell has the page's own values.

    Raises:
        BookError: the file is no notebook.
    """
    notebook = read(source)
    values = _pages(notebook).get(page, {})
    only = [[tag for tag in cell.metadata.get("tags", []) if tag.startswith(ONLY)] for cell in notebook.cells]
    notebook.cells = [
        cell for cell, tags in zip(notebook.cells, only, strict=True) if not tags or f"{ONLY}{page}" in tags
    ]
    minutes = reading_minutes(notebook.cells)
    for cell in notebook.cells:
        cell.source = cell.source.replace(PAGE, page).replace(MINUTES, str(minutes))
        if "parameters" in cell.metadata.get("tags", []):
            for name, value in values.items():  # words, which JSON and Python write alike
                cell.source = re.sub(rf"(?m)^{name} = \S+", f"{name} = {json.dumps(value)}", cell.source)
    return notebook


def reading_minutes(cells: list[nbformat.NotebookNode]) -> int:
    """Return the minutes that reading a page takes: its words, and a look at every output; solutions are left out."""
    read = [cell for cell in cells if SOLUTION not in cell.metadata.get("tags", [])]
    words = sum(len(re.findall(r"\w+", cell.source)) for cell in read if cell.cell_type == "markdown")
    silent = {"parameters", "remove-cell"}
    shown = sum(cell.cell_type == "code" and not silent & set(cell.metadata.get("tags", [])) for cell in read)
    return math.ceil(words / PACE + LOOK * shown)


def declared_parameters(source: Path) -> dict[str, object]:
    """Return the parameters of a notebook and their defaults, in order.

    Raises:
        BookError: the file is no notebook, or not exactly one cell is tagged ``parameters``, or it holds more than
            plain assignments of literals.
    """
    cells = [cell for cell in read(source).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise BookError(f"{source} has {len(cells)} cells tagged 'parameters'; a notebook of the book has exactly one.")
    found: dict[str, object] = {}
    try:
        nodes = ast.parse(cells[0].source).body
    except SyntaxError as error:
        raise BookError(f"{source}: the parameters cell is not Python ({error.msg}).") from error
    for node in nodes:
        try:
            (target,) = node.targets
            found[target.id] = ast.literal_eval(node.value)
        except (AttributeError, ValueError):
            raise BookError(
                f"{source}: the parameters cell holds `{ast.unparse(node)}`; it may hold only assignments of plain "
                "values to single names, so that the command line can set them."
            ) from None
    return found


def execute(
    source: Path,
    output: Path,
    parameters: dict,
    *,
    page: str | None = None,
    key: str | None = None,
    cwd: Path | None = None,
    title: str | None = None,
    offer: str = "",
) -> Path:
    """Run a notebook with the given parameters and write the executed copy.

    Args:
        source: the notebook without outputs.
        output: where the executed copy goes; it is written only if every cell ran.
        parameters: values by name; the others keep their defaults.
        page: which of its pages; the one of its own name by default.
        key: kept in the copy's metadata; see :func:`key`.
        cwd: the folder the notebook runs in; the current one by default.
        title: names the notebook in the log while a long cell runs; its file by default.
        offer: a text that the copy has below its first cell.

    Returns:
        ``output``.

    Raises:
        BookError: a parameter is unknown, a cell raised or stood still, or its process died.
    """
    known = declared_parameters(source)
    for name in parameters:
        if name not in known:
            raise BookError(f"{source} has no parameter {name!r}.{nearest(name, known)}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / source.name
        nbformat.write(page_of(source, page or source.stem), copy)
        notebook = _executed(source, copy, parameters, cwd or Path.cwd(), watching.Watch(title or source.name))
    _hide_injected(notebook)
    if offer:
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(offer, id="offer"))
    notebook.metadata[METADATA] = {"key": key, "parameters": {**known, **parameters}}
    write(notebook, output)
    return output


def _executed(source: Path, copy: Path, parameters: dict, folder: Path, watch: watching.Watch) -> nbformat.NotebookNode:
    """Run the copy of a source under watch and return it with its outputs."""
    logging.getLogger("papermill").setLevel(logging.WARNING)
    quiet = Config({"KernelManager": {"transport_encryption": "auto"}, "NotebookClient": {"extra_arguments": SILENT}})
    try:
        return papermill.execute_notebook(
            str(copy),
            None,
            parameters=parameters,
            engine_name=watching.ENGINE,
            kernel_name=KERNEL,
            language="python",
            progress_bar=False,
            watch=watch,
            folder=folder,
            config=quiet,
        )
    except PapermillExecutionError as error:
        raise BookError(
            f"{source} failed in code cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The cell begins with `{error.source.strip().splitlines()[0]}`."
        ) from error
    except (CellTimeoutError, RuntimeError) as error:  # a dead kernel, or one that never answered, is the latter
        why = watch.stopped or f"{str(error).strip().splitlines()[0]} ({watch.cell})"
        raise BookError(f"{source} was stopped: {why}.") from error


def write(notebook: nbformat.NotebookNode, output: Path) -> None:
    """Write a copy of a notebook whole or not at all."""
    with atomic_file(output) as temporary:
        nbformat.write(notebook, temporary)


def _hide_injected(notebook: nbformat.NotebookNode) -> None:
    """Fold away the cell papermill adds below the parameters cell."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]


def key(source: Path, parameters: dict, results: Path, page: str | None = None) -> str:
    """Return the hash of everything an executed copy depends on.

    That is the notebook without outputs, its parameters, the result files it may read, the library's code and the
    versions of the packages whose output is printed or drawn.

    Args:
        source: the notebook.
        parameters: the values it is run with.
        results: the folder of the committed results; it may be missing.
        page: which of its pages; the one of its own name by default.
    """
    notebook = page_of(source, page or source.stem)
    cells = [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]
    files = list(results.rglob("*.parquet"))
    return digest(
        {
            "cells": cells,
            "parameters": parameters,
            "results": _hashes(files, results),
            "library": library_key(),
        }
    )


def library_key() -> str:
    """Return the hash of the library's code and of the versions of the packages whose output is printed or drawn."""
    code = [Path(place) for package in PACKAGES for place in import_module(package).__path__]
    hashes = [_hashes(list(package.rglob("*.py")), package) for package in code]
    return digest({"library": hashes, "versions": [(name, version(name)) for name in TOOLS]})


def _hashes(files: list[Path], folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path below ``folder``."""
    content = {str(file.relative_to(folder)): file for file in sorted(files) if file.is_file()}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in content.items()}


def recorded(executed: Path) -> dict:
    """Return what an executed copy says about itself (``key``, ``parameters``); empty if there is no readable copy."""
    try:
        return dict(read(executed).metadata.get(METADATA, {}))
    except (FileNotFoundError, BookError):
        return {}
