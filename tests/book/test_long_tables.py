"""Long tables in a browser: sorted by their numbers, searched, and left alone where they are short."""

import shutil
import subprocess

import pytest
from bs4 import BeautifulSoup

from speechbook.study.store import project_root

STATIC = project_root() / "book" / "_static"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VALUES = ["12.3 ± 1.0", "", "−4.0", "9.5 ± 0.2", "101.0", *(f"{number}.0 ± 2.0" for number in range(20, 30))]
CLICK = """
window.addEventListener("load", () => setTimeout(() => {
  document.querySelectorAll("#long thead th")[1].click();
}, 300));
"""
SEARCH = """
window.addEventListener("load", () => setTimeout(() => {
  const field = document.querySelector(".dt-search input");
  field.value = "9.5";
  field.dispatchEvent(new Event("input", {bubbles: true}));
}, 300));
"""


def table(name, values):
    lines = "".join(f"<tr><th>system {n}</th><td>{value}</td></tr>" for n, value in enumerate(values))
    head = "<thead><tr><th>WER, %</th><th>in domain</th></tr></thead>"
    return f'<table id="{name}" class="dataframe">{head}<tbody>{lines}</tbody></table>'


@pytest.fixture
def shown(tmp_path):
    """Return the page after its scripts and one more have run."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    if not (STATIC / "datatables").is_dir():
        pytest.skip("DataTables is not there yet; `make book` fetches it")
    shutil.copytree(STATIC / "datatables", tmp_path / "_static" / "datatables")
    shutil.copy(STATIC / "tables.js", tmp_path / "_static")

    def show(script):
        page = tmp_path / "page.html"
        body = f"<article>{table('long', VALUES)}{table('short', VALUES[:5])}</article><script>{script}</script>"
        head = '<meta charset="utf-8"><script src="_static/tables.js"></script>'
        page.write_text(f'<html data-content_root="./"><head>{head}</head><body>{body}</body></html>')
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
        command = [BROWSER, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return BeautifulSoup(done.stdout, "html.parser")

    return show


def cells(page):
    return [line.find("td").get_text() for line in page.find(id="long").tbody.find_all("tr")]


def test_a_heading_sorts_by_the_number_that_begins_a_cell(shown):
    page = shown(CLICK)
    assert cells(page)[:5] == ["", "−4.0", "9.5 ± 0.2", "12.3 ± 1.0", "20.0 ± 2.0"] and cells(page)[-1] == "101.0"
    assert page.find(id="long").find_parent(class_="long-table")["tabindex"] == "0"


def test_a_search_keeps_the_lines_that_match_and_a_short_table_stays_plain(shown):
    page = shown(SEARCH)
    assert cells(page) == ["9.5 ± 0.2"]
    assert page.find(id="short").find_parent(class_="long-table") is None
    assert len(page.select(".dt-search input")) == 1
