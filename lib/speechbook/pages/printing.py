"""The whole book as one PDF: all chapters on one page, printed by a Chromium without a window."""

import shutil
import subprocess
import tempfile
from pathlib import Path

from speechmerge.errors import BookError
from speechmerge.files import atomic_file

from . import rendering

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-pdf-header-footer",
    "--run-all-compositor-stages-before-draw",
)
WHOLE = "whole.html"  # all chapters, at the top of the site
WAIT = 120_000  # milliseconds of the page's own clock in which its formulas are set


def browser() -> str:
    """Return the path of a Chromium.

    Raises:
        BookError: there is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise BookError(f"printing needs a Chromium, and none of {', '.join(BROWSERS)} is installed; install one.")
    return found


def print_page(page: Path, output: Path) -> Path:
    """Print an HTML page into a PDF, whole or not at all.

    Raises:
        BookError: there is no Chromium, or it wrote no PDF.
    """
    program = browser()
    with tempfile.TemporaryDirectory() as profile, atomic_file(output) as temporary:
        told = [f"--user-data-dir={profile}", f"--virtual-time-budget={WAIT}", f"--print-to-pdf={temporary}"]
        done = subprocess.run([program, *FLAGS, *told, page.resolve().as_uri()], capture_output=True, text=True)
        if not temporary.is_file() or temporary.read_bytes()[:4] != b"%PDF":
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise BookError(f"{program} printed no PDF of {page}: {last}")
    return output


def print_book(root: Path, output: Path) -> Path:
    """Print the book, whose notebooks are executed, into one PDF and return it.

    Raises:
        BookError: the pages do not build, or cannot be printed.
    """
    browser()  # asked first: rendering takes a while
    with tempfile.TemporaryDirectory() as work:
        folder = rendering.run_sphinx(root, work, builder="singlehtml")
        first = folder / f"{rendering.table_of_contents(root)[0]}.html"
        if not first.is_file():
            raise BookError(f"Jupyter Book wrote no {first.relative_to(folder)} with all chapters.")
        whole = shutil.copy(first, folder / WHOLE)  # styles and pictures are named from there
        return print_page(whole, output)
