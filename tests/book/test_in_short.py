"""The first page and the README say what the rows say, and each sentence names the chapter that shows it."""

import re

from speechbook.pages import in_short, notebooks
from speechbook.pages.cards import check_block
from speechbook.study.store import project_root

ROOT = project_root()


def test_the_readme_is_current():
    check_block(ROOT / in_short.PAGE, in_short.render())


def test_every_sentence_names_the_heading_of_a_chapter():
    headings = {notebooks.read(path).cells[0].source.splitlines()[0] for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {f"# {chapter}" for _, chapter in in_short.TITLES.values()} <= headings


def test_a_sentence_for_each_title_made_from_rows(made_up_results):
    found = in_short.sentences("smoke")
    assert list(found) == list(in_short.TITLES)
    assert all(text.endswith(".") and re.search(r"\d|is|are", text) for text in found.values())
    assert re.search(r"\d+\.\d % word errors, and five experts", found["kept"])
    for system in in_short.OTHERS:
        assert found["methods"].count(system) == 1
