"""The rendered book: the scripts it needs, the Jupyter Book run with warnings as errors, and checks of every page.

A green build can still be an empty or broken site, so the pages are read back: each entry of ``_toc.yml`` has its page,
every picture has a text for those who cannot see it, no markup or formula is left unrendered.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from bs4 import BeautifulSoup

from speechmerge.errors import BookError
from speechmerge.files import atomic_folder
from speechmerge.packages import npm_package

EXECUTED = Path("book") / "executed"
JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
VENDORED = {  # scripts that pages load: folder in _static, npm package, its hash, what is kept, a file at the top
    "mathjax": (
        "mathjax@3.2.2",
        "sha512-Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        r"es5/(tex-mml-chtml\.js|output/chtml/fonts/|input/tex/extensions/)",
        "tex-mml-chtml.js",
    ),
    "datatables": (
        "datatables.net@3.1.5",
        "sha512-phu9fVz1cOhD7kZDO5Ztj15qwghCkmdwX5AezLi+PxfMtnFAq0itpewvXzdwdr6bOwPqO2zuXsXWUU5x3wQptw==",
        r"js/dataTables\.min\.js",
        "dataTables.min.js",
    ),
}
OWN_PAGES = {"genindex", "search", "index"}  # pages that Sphinx adds to those of the table of contents
LEFTOVERS = {  # what must not be visible on a page, and what it means
    r"\$[^$\n]*\\[a-zA-Z]+[^$\n]*\$": "a formula that was not recognised",
    r"\\(?:frac|sum|theta|lambda|mathrm|mathbb|begin|tau)\b": "raw LaTeX",
    r"\{(?:glue|cite|numref|ref|doc|eq)[^}]*\}`": "a role that was not resolved",
    r"(?:```|:::)\{\w": "a directive that was not resolved",
}


def table_of_contents(root: Path) -> list[str]:
    """Return the pages of ``_toc.yml`` in order, as paths below ``root`` without suffix."""
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    pages = [toc["root"]]
    waiting = [toc]
    while waiting:
        node = waiting.pop(0)
        for name in ("parts", "chapters", "sections"):
            for child in node.get(name, []):
                pages += [child["file"]] if "file" in child else []
                waiting.append(child)
    return pages


def vendor(root: Path) -> list[Path]:
    """Put the scripts of other makers under ``book/_static``, so that pages need no network; return the folders.

    MathJax sets formulas; DataTables sorts and searches long tables.
    """
    targets = []
    for name, (package, integrity, keep, script) in VENDORED.items():
        target = root / "book" / "_static" / name
        targets.append(target)
        if not target.is_dir():
            found = next(npm_package(package, integrity, keep=keep).rglob(script))
            with atomic_folder(target) as folder:
                shutil.copytree(found.parent, folder, dirs_exist_ok=True)
    return targets


def build_html(root: Path) -> Path:
    """Render the book with warnings as errors, check it, put it in place, and return the path of its ``index.html``.

    A book that fails to build or to pass the checks leaves the one built before it untouched.

    Raises:
        BookError: with the warnings, or with the first thing a page lacks.
    """
    built = root / "_build" / "html"
    built.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as work, atomic_folder(built, overwrite=True) as folder:
        site = run_sphinx(root, work, "-W", "--keep-going")
        if not site.is_dir():
            raise BookError(
                "Jupyter Book ended without an error but built no site; version 1.x is needed (see the lock)."
            )
        check_pages(site, table_of_contents(root))
        shutil.copytree(site, folder, dirs_exist_ok=True)
    return built / "index.html"


def run_sphinx(root: Path, work: str, *flags: str, builder: str = "html") -> Path:
    """Run Jupyter Book on all pages and return the folder they are in, below ``work``.

    Raises:
        BookError: with the warnings or the error.
    """
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", str(root), "--path-output", work, "--builder", builder]
    done = subprocess.run([*command, "--all", *flags], capture_output=True, text=True, cwd=root)
    if done.returncode:
        raise BookError(f"the book did not build:\n{_complaints(done.stdout + done.stderr)}")
    return Path(work) / "_build" / builder


def _complaints(output: str) -> str:
    """The lines of a Sphinx run that say what is wrong, or its end if none does."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in output.splitlines()]
    named = [line for line in lines if re.search(r"WARNING|ERROR|CRITICAL", line)]
    return "\n".join(f"  {line}" for line in (named or lines[-15:])[:40])


def check_pages(site: Path, pages: list[str]) -> None:
    """Raise unless the site has exactly the expected pages and each of them is whole.

    Args:
        site: the folder with the rendered pages.
        pages: the pages of the table of contents.

    Raises:
        BookError: a page is missing, unexpected or empty, or holds a broken picture or unrendered text.
    """
    if not (site / "index.html").is_file():
        raise BookError(f"{site} has no index.html, so the book has no first page.")
    skipped = {"_static", "_sources", "_modules", "_images"}
    html = [file.relative_to(site).with_suffix("") for file in site.rglob("*.html")]
    found = {str(page) for page in html if page.parts[0] not in skipped} - OWN_PAGES
    if found != set(pages):
        raise BookError(
            f"the built site has {len(found)} pages, _toc.yml has {len(pages)}; "
            f"missing: {', '.join(sorted(set(pages) - found)) or 'none'}; "
            f"unexpected: {', '.join(sorted(found - set(pages))) or 'none'}."
        )
    for page in pages:
        check_page(site, page)


def check_page(site: Path, page: str) -> None:
    """Raise unless one page has a heading, text, pictures with alt text, and no unrendered markup."""
    file = site / f"{page}.html"
    soup = BeautifulSoup(file.read_text(), "html.parser")
    article = soup.find("article")
    if article is None or article.find("h1") is None or len(article.get_text(strip=True)) < 200:
        raise BookError(f"{page}.html is empty or has no heading; its source is missing or was not executed.")
    for drawing in article.select("svg.figured"):
        if not drawing.get("aria-label", "").strip():
            raise BookError(f"{page}.html shows a drawing without a description; say in aria-label what it shows.")
        drawing.decompose()  # what its marks say is no text of the page
    for picture in article.find_all("img"):
        source = picture.get("src", "")
        if not picture.get("alt", "").strip() or picture["alt"] == source:
            raise BookError(f"{page}.html shows a picture without alt text ({source[:60]}); describe what it shows.")
        if not source.startswith(("data:", "http")) and not (file.parent / source).is_file():
            raise BookError(f"{page}.html shows {source}, which is not in the site.")
    formulas = article.select(".math")
    if formulas and not any("mathjax/" in (script.get("src") or "") for script in soup.find_all("script")):
        raise BookError(f"{page}.html has formulas but does not load MathJax; check mathjax_path in _config.yml.")
    for hidden in article.select("script, style, pre, code, .math"):
        hidden.decompose()
    text = article.get_text()
    for pattern, meaning in LEFTOVERS.items():
        if match := re.search(pattern, text):
            raise BookError(f"{page}.html shows {meaning}: {match.group().strip()[:80]!r}.")
