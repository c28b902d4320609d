"""The book from its sources: notebooks and contents that agree, chapters side by side, pages, and what is missing."""

import functools
import itertools
import logging
import os
import re
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

from speechmerge.errors import BookError, nearest

from ..study import fusion_planning, protocol, table_files
from ..study.experiments import settings_of
from ..study.store import project_root, results_folder
from . import course, method_cards, notebooks, rendering

log = logging.getLogger(__name__)

WORKERS = 4  # most kernels at a time; each has the library's packages in memory
SHOWN = 400  # characters of the reason why a page could not be made
MADE_BY_CODE = ("{glue", "{numref")  # roles whose targets only an executed chapter has
LIVE = "budget"  # the parameter of a notebook that computes, in seconds; such a one has the machine to itself


def listed_sources(root: Path) -> dict[str, Path]:
    """Return the executed pages of the book's contents and their notebooks, once both are known to agree.

    Only a notebook about an experiment without committed rows may be left out of the contents; it waits for them.

    Raises:
        BookError: a page of ``_toc.yml`` has no source, or a notebook is not in ``_toc.yml``.
    """
    listed = rendering.table_of_contents(root)
    executed = {Path(page).name for page in listed if Path(page).parent == rendering.EXECUTED}
    sources = notebooks.sources(root)
    missing = sorted(executed - sources.keys()) + [
        page for page in listed if Path(page).parent != rendering.EXECUTED and not list(root.glob(f"{page}.*"))
    ]
    if missing:
        raise BookError(f"_toc.yml lists {', '.join(missing)}, which has no source; add it or take it off the list.")
    for name, source in sources.items():
        if name not in executed and not _waits(source, root / "results"):
            raise BookError(f"_toc.yml lacks book/executed/{name}, whose notebook exists; add it.")
    return {name: sources[name] for name in sorted(executed)}


def _waits(source: Path, results: Path) -> bool:
    """Tell whether the experiment that a notebook's parameter ``experiment`` names has no committed rows.

    Where the protocol governs the notebook's own profile, comparisons are what it waits for: they need all seeds.
    """
    values = notebooks.declared_parameters(source)
    if "experiment" not in values:
        return False
    own = results / values["profile"] / values["experiment"]
    if values["profile"] in fusion_planning.profiles():
        kinds = ("fused",)
    elif protocol.governs(settings_of(values["profile"], values["experiment"])):
        kinds = ("comparisons",)
    else:
        kinds = ("rows", "statistics")
    return not any(table_files.count(own / f"{kind}.parquet") for kind in kinds)


def check_current(root: Path, profile: str | None = None, unmade: Collection[str] = ()) -> None:
    """Raise unless the copy of every notebook was made from what is there now.

    Args:
        root: the folder that holds ``_config.yml``.
        profile: the study whose rows the pages show; None: each page's own.
        unmade: pages that are known to say that they could not be made.

    Raises:
        BookError: a copy is missing, or a notebook, a result file or the library changed after it was made.
    """
    for page, source in listed_sources(root).items():
        if page in unmade:
            continue
        executed = root / rendering.EXECUTED / f"{page}.ipynb"
        values = _values(page, source, profile)
        if notebooks.recorded(executed).get("key") != notebooks.key(source, values, results_folder(), page):
            state = "is out of date" if executed.exists() else "is missing"
            raise BookError(
                f"{executed} {state}: {source.name}, the rows in results/ or the library changed while the "
                "book was being built. Run `speechmerge book` again."
            )


def _values(page: str, source: Path, profile: str | None) -> dict:
    """The parameters the book gives a page: its own, and the profile, if one is asked for that is not its default."""
    own = notebooks.declared_parameters(source).get("profile")
    return notebooks.pages(source)[page] | ({"profile": profile} if profile and own not in (None, profile) else {})


def build_book(profile: str | None = None, *, root: Path | None = None, again: Collection[str] = ()) -> Path:
    """Execute what is out of date, render the book, check it, and return its first page.

    A chapter that cannot be made costs no other: its page says so, the book is rendered with it, and only then is the
    error raised. The next build tries it again.

    Args:
        profile: the study whose rows the pages show; None: that of each notebook's own default.
        root: the folder that holds ``_config.yml``; the project's own if not given.
        again: pages to be executed even if they are current.

    Raises:
        BookError: there is no such page to execute again; or chapters could not be made (the book is there, they are
            marked); or the rendered book lacks a page, figure, text or citation (the book before is untouched).
    """
    root = project_root() if root is None else root
    sources = listed_sources(root)
    for page in again:
        if page not in sources:
            raise BookError(f"the book has no executed page {page!r}.{nearest(page, sources)}")
    rendering.vendor(root)
    if (root / "book" / "methods").is_dir():
        method_cards.draw_pictures(root / "book")
    unmade = _unmade(root, profile, sources, again)
    course.write_taken(root / rendering.EXECUTED, {page: file for page, file in sources.items() if page not in unmade})
    check_current(root, profile, unmade)
    log.info("rendering the pages")
    try:
        index = rendering.build_html(root)
    except BookError as error:
        raise BookError(f"{error}{_listed(unmade)}") from error
    if unmade:
        raise BookError(
            f"the book is at {index}, but it lacks {len(unmade)} of its {len(sources)} notebooks. Their pages say "
            f"so, and the next run tries them again.{_listed(unmade)}"
        )
    return index


def _listed(unmade: dict[str, str]) -> str:
    """The end of an error: the notebooks that failed, a line each; nothing if none did."""
    return "".join(f"\n  {name} could not be made: {why}" for name, why in unmade.items())


def _unmade(root: Path, profile: str | None, sources: dict[str, Path], again: Collection[str] = ()) -> dict[str, str]:
    """Bring all executed copies up to date, live ones alone and first; return those that failed, and why."""
    ordered = sorted(sources.items(), key=lambda item: not _is_live(item[1]))
    alone = sum(map(_is_live, sources.values()))
    make = functools.partial(_make, root, profile, again, itertools.count(len(sources) - 1, -1))
    titles = [f"notebook {number} of {len(sources)}: {page}" for number, (page, _) in enumerate(ordered, start=1)]
    told = list(map(make, ordered[:alone], titles))
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1)) as pool:
        told += pool.map(make, ordered[alone:], titles[alone:])
    return {page: why for (page, _), why in zip(ordered, told, strict=True) if why}


def _is_live(source: Path) -> bool:
    """Tell whether a notebook computes for a while; one that cannot be read fails later, as a chapter."""
    try:
        return LIVE in notebooks.declared_parameters(source)
    except BookError:
        return False


def _make(
    root: Path, profile: str | None, again: Collection[str], left: Iterator[int], item: tuple[str, Path], title: str
) -> str:
    """Bring one executed copy up to date or put a page in its place; return why it could not be made."""
    page, source = item
    output, start, why = root / rendering.EXECUTED / f"{page}.ipynb", time.perf_counter(), ""
    try:
        values = _values(page, source, profile)
        made_of = notebooks.key(source, values, results_folder(), page)
        if page not in again and notebooks.recorded(output).get("key") == made_of:
            log.info("%s is up to date; %d left", title, next(left))
            return why
        log.info("%s is running", title)
        offer = course.offer(page, source.stem)
        notebooks.execute(source, output, values, page=page, key=made_of, cwd=root, title=title, offer=offer)
    except BookError as error:
        why = " ".join(str(error).replace(f"{root}/", "").split())
        log.error("%s could not be made: %s", title, why)
        notebooks.write(unmade_page(source, why, page), output)
    log.info("%s took %.0f s; %d left", title, time.perf_counter() - start, next(left))
    return why


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
