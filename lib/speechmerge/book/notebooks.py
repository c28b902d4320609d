"""Notebooks as programs: checked parameters, execution through papermill, and the book that is built from them.

A notebook in ``notebooks/`` is a source without outputs. Its executed copy in ``book/executed/`` carries in its
metadata the key of everything that made it, so that a copy is made again exactly when one of those things changed.
"""

import ast
import hashlib
import json
import logging
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from ..errors import BookError, nearest
from ..files import atomic_file, digest
from ..studies.store import project_root, results_folder
from . import pages

log = logging.getLogger(__name__)

KERNEL = "python3"
CELL_SECONDS = 900  # longest time one cell may take
SILENT = ["--IPKernelApp.log_level=50"]  # else every kernel reports the interrupt that ends it as an error
METADATA = "speechmerge"  # where an executed copy keeps its key
TOOLS = ("ipykernel", "matplotlib", "numpy", "pandas", "torch", "transformers")  # whose versions can change an output
NOT_READ = {"figures", "predictions"}  # folders of results/PROFILE that pages do not read


def declared_parameters(source: Path) -> dict[str, object]:
    """Return the parameters of a notebook and their defaults, in order.

    Raises:
        BookError: not exactly one cell is tagged ``parameters``, or it holds more than plain assignments of literals.
    """
    notebook = nbformat.read(source, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise BookError(f"{source} has {len(cells)} cells tagged 'parameters'; a notebook of the book has exactly one.")
    found: dict[str, object] = {}
    for node in ast.parse(cells[0].source).body:
        try:
            (target,) = node.targets
            found[target.id] = ast.literal_eval(node.value)
        except (AttributeError, ValueError):
            raise BookError(
                f"{source}: the parameters cell holds `{ast.unparse(node)}`; it may hold only assignments of plain "
                "values to single names, so that the command line can set them."
            ) from None
    return found


def listed_sources(root: Path) -> list[Path]:
    """Return the notebooks of the book's contents, once sources and contents are known to agree.

    Only a notebook about an experiment without committed rows may be left out of the contents; it waits for them.

    Raises:
        BookError: a page of ``_toc.yml`` has no source, or a notebook is not in ``_toc.yml``.
    """
    listed = pages.table_of_contents(root)
    executed = {Path(page).name for page in listed if Path(page).parent == pages.EXECUTED}
    sources = {source.stem: source for source in sorted((root / "notebooks").glob("*.ipynb"))}
    missing = sorted(executed - sources.keys()) + [
        page for page in listed if Path(page).parent != pages.EXECUTED and not list(root.glob(f"{page}.*"))
    ]
    if missing:
        raise BookError(f"_toc.yml lists {', '.join(missing)}, which has no source; add it or take it off the list.")
    for name, source in sources.items():
        if name not in executed and not _waits(source, root / "results"):
            raise BookError(f"_toc.yml lacks book/executed/{name}, whose notebook exists; add it.")
    return [sources[name] for name in sorted(executed)]


def _waits(source: Path, results: Path) -> bool:
    """Tell whether the experiment that a notebook's parameter ``experiment`` names has no committed rows."""
    values = declared_parameters(source)
    if "experiment" not in values:
        return False
    rows = results / values["profile"] / "rows.jsonl"
    known = {json.loads(line)["experiment"] for line in rows.read_text().splitlines()} if rows.is_file() else set()
    return values["experiment"] not in known and not rows.with_name(f"{values['experiment']}.jsonl").is_file()


def execute(source: Path, output: Path, parameters: dict, *, key: str | None = None, cwd: Path | None = None) -> Path:
    """Run a notebook with the given parameters and write the executed copy.

    Args:
        source: the notebook without outputs.
        output: where the executed copy goes; it is written only if every cell ran.
        parameters: values by name; the others keep their defaults.
        key: kept in the copy's metadata; see :func:`key`.
        cwd: the folder the notebook runs in; the current one by default.

    Returns:
        ``output``.

    Raises:
        BookError: a parameter is unknown, a cell raised, took too long, or its process died.
    """
    known = declared_parameters(source)
    for name in parameters:
        if name not in known:
            raise BookError(f"{source} has no parameter {name!r}.{nearest(name, known)}")
    logging.getLogger("papermill").setLevel(logging.WARNING)
    quiet = Config({"KernelManager": {"transport_encryption": "auto"}, "NotebookClient": {"extra_arguments": SILENT}})
    try:
        notebook = papermill.execute_notebook(
            str(source),
            None,
            parameters=parameters,
            kernel_name=KERNEL,
            language="python",
            execution_timeout=CELL_SECONDS,
            progress_bar=False,
            cwd=cwd,
            config=quiet,
        )
    except PapermillExecutionError as error:
        raise BookError(
            f"{source} failed in code cell {error.exec_count}: {error.ename}: {error.evalue}\n"
            f"The cell begins with `{error.source.strip().splitlines()[0]}`. Nothing was written to {output}."
        ) from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise BookError(f"{source} was stopped: {str(error).strip().splitlines()[0]} Nothing was written.") from error
    _hide_injected(notebook)
    notebook.metadata[METADATA] = {"key": key, "parameters": {**known, **parameters}}
    with atomic_file(output) as temporary:
        nbformat.write(notebook, temporary)
    return output


def _hide_injected(notebook: nbformat.NotebookNode) -> None:
    """Fold away the cell papermill adds below the parameters cell."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.metadata["tags"] = [*tags, "hide-input"]


def key(source: Path, parameters: dict, results: Path) -> str:
    """Return the hash of everything an executed copy depends on.

    That is the notebook without outputs, its parameters, the result files it may read, the library's code and the
    versions of the packages whose output is printed or drawn.

    Args:
        source: the notebook.
        parameters: the values it is run with.
        results: the folder of the profile's committed results; it may be missing.
    """
    notebook = nbformat.read(source, as_version=4)
    cells = [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]
    package = Path(__file__).parents[1]
    files = [file for file in results.rglob("*") if file.relative_to(results).parts[0] not in NOT_READ]
    return digest(
        {
            "cells": cells,
            "parameters": parameters,
            "results": _hashes(files, results),
            "timings": _hashes(list((results.parent / "bench").glob("*.jsonl")), results.parent),
            "library": _hashes(list(package.rglob("*.py")), package),
            "versions": [(name, version(name)) for name in TOOLS],
        }
    )


def _hashes(files: list[Path], folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path below ``folder``."""
    content = {str(file.relative_to(folder)): file for file in sorted(files) if file.is_file()}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in content.items()}


def recorded(executed: Path) -> dict:
    """Return what an executed copy says about itself (``key``, ``parameters``); empty if there is no readable copy."""
    try:
        return dict(nbformat.read(executed, as_version=4).metadata.get(METADATA, {}))
    except (FileNotFoundError, nbformat.reader.NotJSONError):
        return {}


def check_current(root: Path, profile: str) -> None:
    """Raise unless the copy of every notebook was made from what is there now.

    Raises:
        BookError: a copy is missing, or a notebook, a result file or the library changed after it was made.
    """
    for source in listed_sources(root):
        executed = root / pages.EXECUTED / source.name
        values = _values(source, profile)
        if recorded(executed).get("key") != key(source, values, results_folder(profile)):
            state = "is out of date" if executed.exists() else "is missing"
            raise BookError(
                f"{executed} {state}: {source.name}, the rows in results/{profile} or the library changed while the "
                "book was being built. Run `speechmerge book` again."
            )


def _values(source: Path, profile: str) -> dict:
    """The parameters the book gives a notebook: the profile, where it has one and another as its default."""
    return {"profile": profile} if declared_parameters(source).get("profile", profile) != profile else {}


def build_book(profile: str = "speech", *, root: Path | None = None) -> Path:
    """Execute what is out of date, render the book, check it, and return its first page.

    Args:
        profile: the study whose rows the pages show.
        root: the folder that holds ``_config.yml``; the project's own if not given.

    Raises:
        BookError: a notebook failed, or the rendered book lacks a page, figure, text or citation.
    """
    root = project_root() if root is None else root
    sources = listed_sources(root)
    pages.vendor_mathjax(root)
    for number, source in enumerate(sources, start=1):
        output = root / pages.EXECUTED / source.name
        values = _values(source, profile)
        made_of = key(source, values, results_folder(profile))
        if recorded(output).get("key") == made_of:
            log.info("notebook %d of %d: %s is up to date", number, len(sources), source.stem)
            continue
        log.info("notebook %d of %d: running %s", number, len(sources), source.stem)
        start = time.perf_counter()
        execute(source, output, values, key=made_of, cwd=root)
        log.info("notebook %d of %d: %s took %.0f s", number, len(sources), source.stem, time.perf_counter() - start)
    check_current(root, profile)
    log.info("rendering the pages")
    return pages.build_html(root)
