"""From nothing to a book page on the smoke profile: train, merge, decode, score, execute, render."""

import shutil
from pathlib import Path

import browser
import nbformat
import pytest
from bs4 import BeautifulSoup

from speechbook.pages import building, notebooks, rendering
from speechbook.study import experiments, fusion_planning, store, study
from speechbook.tables import evidence

ROOT = store.project_root()
PARTS = ("book", "data_cards", "notebooks", "_config.yml", "_toc.yml")
STAND_INS = {"mathjax": "", "datatables": "class DataTable {}"}  # scripts that the pages of the test load instead
LIVE = {
    "your_first_merge": "minutes = 0.2\nepochs = 1\nlearning_rate = 1e-3\nclips = 2",
    "your_merge": "splits = ['train', 'dev', 'test']\nmethods = ['task_arithmetic']\nclips = 20\nbudget = 4",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A copy of the book's sources, with stand-ins for others' scripts and the live chapters made short."""
    folder = tmp_path_factory.mktemp("book")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("executed", *rendering.VENDORED))
        else:
            shutil.copy(ROOT / name, folder / name)
    for name, (*_, script) in rendering.VENDORED.items():
        (folder / "book" / "_static" / name).mkdir(parents=True)
        (folder / "book" / "_static" / name / script).write_text(STAND_INS[name])
    for name, parameters in LIVE.items():
        live = folder / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(live, as_version=4)
        [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source += f"\n{parameters}"
        nbformat.write(notebook, live)
    shutil.copytree(ROOT / "results" / "bench", folder / "results" / "bench")
    return folder


@pytest.fixture(scope="module")
def index(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHMERGE_CACHE", str(root / "cache"))
        patch.setenv("SPEECHMERGE_RESULTS", str(root / "results"))
        patch.setenv("SPEECHMERGE_HOME", str(ROOT))
        executed = {Path(page).name for page in rendering.table_of_contents(root)}
        for name in (name for name, table in experiments.experiments().items() if table.notebook in executed):
            study.run(experiments.plan(name, "smoke"))
        for name in executed & set(fusion_planning.experiments()):
            study.run(fusion_planning.plan(name, "fusion-smoke"))
        yield building.build_book("smoke", root=root)


@pytest.fixture(scope="module")
def visitor(index):
    """A browser on the book's pages; it starts when the book is built, since notebooks run in a loop of their own."""
    with browser.visiting(index.parent) as visitor:
        yield visitor


@pytest.fixture(scope="module")
def looks(visitor, root):
    """What a browser finds wrong, page by page."""
    return [visitor.look(page) for page in (*rendering.table_of_contents(root), "search")]


def article(index, page):
    return BeautifulSoup((index.parent / f"{page}.html").read_text(), "html.parser").find("article")


def test_every_page_of_the_contents_is_there(index, root):
    assert index.is_file()
    for page in rendering.table_of_contents(root):
        assert (index.parent / f"{page}.html").is_file()


def test_the_result_page_shows_the_rows_that_were_just_measured(index):
    rows, measured = store.rows("smoke", "table1"), evidence.measured("smoke", "table1")
    pooled = measured[measured["language"] == "pooled"].set_index("system")["value"]
    page = article(index, "book/executed/table1")
    table, *_ = [x for x in page.find_all("table", class_="dataframe") if "published" in x.thead.get_text()]
    shown = {tr.find("th").get_text(): [td.get_text() for td in tr.find_all("td")] for tr in table.tbody.find_all("tr")}
    assert {name: cells[2] for name, cells in shown.items()} == {name: f"{value:.1f}" for name, value in pooled.items()}
    assert f"table1: {len(rows)} committed rows" in page.find(class_="provenance").get_text()


def test_every_figure_is_an_image_with_a_description(index):
    for name, count in (("table1", 2), ("task_vectors", 3), ("your_first_merge", 1), ("decoding", 1)):
        images = article(index, f"book/executed/{name}").find_all("svg", class_="figured")
        assert len(images) == count
        assert all(len(image["aria-label"]) > 80 for image in images)


def test_the_status_page_counts_the_rows(index):
    page = article(index, "book/executed/status").get_text()
    assert f"table1: {len(store.rows('smoke', 'table1'))} committed rows" in page


def test_a_second_build_runs_no_notebook(index, root, monkeypatch):
    monkeypatch.setattr(
        notebooks.papermill, "execute_notebook", lambda *a, **k: pytest.fail("a notebook was run again")
    )
    monkeypatch.setattr(building.rendering, "build_html", lambda root: index)
    assert building.build_book("smoke", root=root) == index


class TestInABrowser:
    @pytest.mark.parametrize("fault", ["sideways", "errors", "pictures", "violations"])
    def test_no_page_has(self, looks, fault):
        assert [told for look in looks for told in getattr(look, fault)] == []

    def test_the_search_finds_a_word(self, visitor):
        assert any("asterisk" in address for address in visitor.search("book/introduction", "telephone"))

    def test_every_clip_can_be_played(self, visitor, index):
        clips = article(index, "book/executed/hear").find_all("audio")
        seconds, played = visitor.listen("book/executed/hear")
        assert len(seconds) == len(clips) > 0 and min(seconds) > 0.3 and played > 0

    @pytest.mark.parametrize("page", ["book/introduction", "book/executed/hear"])
    def test_the_keyboard_reaches_what_is_seen_and_nothing_else(self, visitor, page):
        unseen, missed = visitor.tab(page)
        assert unseen == [] and missed == []
