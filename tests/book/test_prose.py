"""The book's own sources: contents, citations, links, licences."""

import re

import nbformat
import pytest
from pybtex.database import parse_file

from speechbook.pages import building
from speechbook.study.store import project_root

ROOT = project_root()
CITED = re.compile(r"\{cite(?::\w+)?\}`([^`]+)`")


def prose() -> dict[str, str]:
    texts = {path.name: path.read_text() for path in sorted((ROOT / "book").rglob("*.md"))}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        texts[path.name] = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return texts


def test_the_contents_and_the_sources_agree():
    building.listed_sources(ROOT)


def test_every_citation_is_in_the_bibliography_and_every_entry_is_cited():
    entries = set(parse_file(ROOT / "book" / "references.bib").entries)
    cited = {key.strip() for text in prose().values() for keys in CITED.findall(text) for key in keys.split(",")}
    assert cited == entries


def test_no_line_of_prose_is_lost_as_a_comment():
    cards = {path.name: path.read_text() for path in (ROOT / "data_cards").glob("*.md")}
    lost = [name for name, text in (prose() | cards).items() if re.search(r"(?m)^\s*%", text)]
    assert lost == [], "MyST takes a line that begins with % for a comment"


def test_every_arxiv_number_looks_like_one():
    notes = [entry.fields.get("note", "") for entry in parse_file(ROOT / "book" / "references.bib").entries.values()]
    odd = [note for note in notes if note and not re.fullmatch(r"arXiv \d{4}\.\d{5}", note)]
    assert odd == []


STANDING = ("in_short.ipynb", "status.ipynb")  # pages that say where one is


@pytest.mark.parametrize("name", [name for name in prose() if name.endswith(".ipynb") and name not in STANDING])
def test_a_chapter_has_the_parts_of_a_chapter(name):
    headings = re.findall(r"(?m)^## (.+)$", prose()[name])
    for part in ("Question", "What it means", "What would change our mind"):
        assert part in headings, f"{name} has no section {part!r}"
    assert headings[-1] in ("Exercise", "Exercises")


@pytest.mark.parametrize("name", list(prose()))
def test_no_rate_is_typed_into_the_text(name):
    bare = re.sub(r"(?s)```.*?```|\{glue:text\}`[^`]*` %|\$[^$]*\$", "", prose()[name])
    typed = re.findall(r"\d+[.,]\d+ ?%", bare)
    assert typed in ([], ["0.4 %"])  # the resolution of a 16-bit brain float, which is not a result


def test_the_readme_names_only_files_that_exist():
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", text)
    missing = [t for pair in targets for t in pair if t and not (ROOT / t).exists()]
    assert missing == []
    assert "make book" in text and "make test" in text


def test_the_course_has_six_meetings_and_each_exercise_it_names_is_there():
    text = (ROOT / "book" / "course.md").read_text()
    assert re.findall(r"(?m)^## (\d)\. \S", text) == list("123456")
    links = re.findall(r'<a href="executed/(\w+)\.html#([\w-]+)">([^<]+)</a>', text)
    assert len(links) >= 12
    for page, label, title in links:
        assert f":::{{exercise}} {title}\n:label: {label}\n" in prose()[f"{page}.ipynb"]
