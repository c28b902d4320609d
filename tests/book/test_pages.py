"""What makes the build of the book fail: fault 24, on small sites and small books."""

import json
import re

import nbformat
import pytest

from speechbook.pages import building, rendering
from speechbook.pages.building import unmade_page
from speechmerge.errors import BookError

PNG = "data:image/png;base64,iVBORw0KGgo="
TEXT = "A paragraph that is long enough to be a page of a book. " * 6
CONFIG = """\
title: Small
only_build_toc_files: true
exclude_patterns: [_build]
execute: {execute_notebooks: "off"}
bibtex_bibfiles: [references.bib]
parse: {myst_enable_extensions: [dollarmath, colon_fence]}
html: {use_repository_button: false}
sphinx:
  recursive_update: true
  config:
    html_theme_options: {navbar_persistent: []}
    html_static_path: [book/_static]
    mathjax_path: mathjax/tex-mml-chtml.js
    suppress_warnings: [myst.domains]
"""
PREFIX = "application/papermill.record/"
BIB = "@article{known, author={A. Uthor}, title={A title}, journal={J}, year={2020}}\n"


def html(body="", head='<script src="_static/mathjax/tex-mml-chtml.js"></script>'):
    return f"<html><head>{head}</head><body><article><h1>Title</h1><p>{TEXT}</p>{body}</article></body></html>"


@pytest.fixture
def site(tmp_path):
    for name in ("index", "one", "book/two", "search", "genindex"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.html").write_text(html())
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "ignored.html").write_text("")
    return tmp_path


def test_a_whole_site_passes(site):
    good = f'<img src="{PNG}" alt="a curve"><span class="math">\\(\\frac12\\)</span><pre>$\\tau$ {{cite}}`x`</pre>'
    (site / "one.html").write_text(html(good))
    rendering.check_pages(site, ["one", "book/two"])


def test_a_site_without_a_first_page_is_refused(site):
    (site / "index.html").unlink()
    with pytest.raises(BookError, match=r"has no index\.html"):
        rendering.check_pages(site, ["one", "book/two"])


def test_missing_and_unexpected_pages_are_named(site):
    with pytest.raises(BookError, match=r"has 2 pages, _toc\.yml has 2; missing: three; unexpected: one\."):
        rendering.check_pages(site, ["three", "book/two"])


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<html><body><article></article></body></html>", "is empty or has no heading"),
        ("<html><body></body></html>", "is empty or has no heading"),
        (html(f'<img src="{PNG}">'), "picture without alt text"),
        (html(f'<img src="{PNG}" alt="  ">'), "picture without alt text"),
        (html('<img src="one.png" alt="one.png">'), "picture without alt text"),
        (html('<img src="gone.png" alt="a picture">'), r"gone\.png, which is not in the site"),
        (html(r"<p>so $\tau_t = 1$ is</p>"), "a formula that was not recognised"),
        (html(r"<p>the \frac{1}{2}</p>"), "raw LaTeX"),
        (html("<p>see {cite}`known`</p>"), "a role that was not resolved"),
        (html("<p>value {glue:text}`key`</p>"), "a role that was not resolved"),
        (html("<p>:::{admonition} x</p>"), "a directive that was not resolved"),
        (html('<span class="math">x</span>', head=""), "does not load MathJax"),
    ],
)
def test_a_broken_page_is_refused(site, page, message):
    (site / "one.html").write_text(page)
    with pytest.raises(BookError, match=message):
        rendering.check_pages(site, ["one", "book/two"])


def write_notebook(path, parameters):
    cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)


class TestSources:
    @pytest.fixture
    def root(self, tmp_path):
        (tmp_path / "notebooks").mkdir()
        (tmp_path / "notebooks" / "page.ipynb").touch()
        (tmp_path / "intro.md").touch()
        toc = {"root": "intro", "parts": [{"caption": "c", "chapters": [{"file": "book/executed/page"}]}]}
        (tmp_path / "_toc.yml").write_text(json.dumps(toc))
        return tmp_path

    def test_pages_are_listed_in_order(self, root):
        toc = {"root": "a", "chapters": [{"file": "b", "sections": [{"file": "c"}]}, {"url": "x"}, {"file": "d"}]}
        (root / "_toc.yml").write_text(json.dumps(toc))
        assert sorted(rendering.table_of_contents(root)) == ["a", "b", "c", "d"]
        assert rendering.table_of_contents(root)[0] == "a"

    def test_agreeing_sources_pass(self, root):
        assert list(building.listed_sources(root)) == ["page"]

    def test_a_page_without_source_is_named(self, root):
        (root / "intro.md").unlink()
        (root / "notebooks" / "page.ipynb").rename(root / "notebooks" / "other.ipynb")
        with pytest.raises(BookError, match="lists page, intro, which has no source"):
            building.listed_sources(root)

    def test_a_notebook_outside_the_contents_is_named(self, root):
        write_notebook(root / "notebooks" / "new.ipynb", 'profile = "speech"')
        with pytest.raises(BookError, match="lacks book/executed/new"):
            building.listed_sources(root)


class TestBuild:
    """The real Jupyter Book on a book of one notebook and one page."""

    @pytest.fixture
    def root(self, tmp_path):
        (tmp_path / "book" / "_static" / "mathjax").mkdir(parents=True)
        (tmp_path / "book" / "_static" / "mathjax" / "tex-mml-chtml.js").touch()
        (tmp_path / "_config.yml").write_text(CONFIG)
        (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n  - file: page\n")
        (tmp_path / "references.bib").write_text(BIB)
        self.write(tmp_path)
        return tmp_path

    def write(self, root, intro="", page="", glued="value"):
        cite = "{cite}`known`, $x^2$ and {glue:text}`page.ipynb::value:.2f`."
        (root / "intro.md").write_text(f"# Introduction\n\n{TEXT}\n\n{cite}\n\n{intro}\n\n```{{bibliography}}\n```\n")
        notebook = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
        data = {f"{PREFIX}text/plain": "1.25"}
        output = nbformat.v4.new_output(
            "display_data", data, metadata={"scrapbook": {"name": glued, "mime_prefix": PREFIX}}
        )
        cell = nbformat.v4.new_code_cell("1", outputs=[output])
        notebook.cells = [nbformat.v4.new_markdown_cell(f"# Page\n\n{TEXT}\n\n{page}"), cell]
        nbformat.write(notebook, root / "page.ipynb")

    def test_a_good_book_is_built_and_replaced_whole(self, root):
        stale = root / "_build" / "html"
        stale.mkdir(parents=True)
        (stale / "stale.html").touch()
        index = rendering.build_html(root)
        assert index == stale / "index.html"
        assert not (stale / "stale.html").exists()
        text = (stale / "intro.html").read_text()
        assert "1.25" in text and "2020" in text and "_static/mathjax/tex-mml-chtml.js" in text
        assert sorted(p.name for p in (root / "_build").iterdir()) == ["html"]

    def test_a_chapter_that_could_not_be_made_is_a_page_of_the_book(self, root):
        self.write(root, page="## Question\n\nWhat is asked?\n\n## Answer\n\nsee {numref}`fig-none`")
        (root / "intro.md").write_text(f"# Introduction\n\n{TEXT}\n\nSee [](page).\n")
        why = r"page.ipynb failed: it shows \frac{1}{2}, $\tau$, {glue:text}`key`, ```, <b> and ::: " + "x" * 500
        nbformat.write(unmade_page(root / "page.ipynb", why), root / "page.ipynb")
        page = (rendering.build_html(root).parent / "page.html").read_text()
        assert "<h1>Page" in page and "This chapter could not be made" in page and "What is asked?" in page
        assert "failed: it shows" in page and "fig-none" not in page

    def test_everything_that_is_missing_is_named_and_the_old_book_kept(self, root):
        old = root / "_build" / "html"
        old.mkdir(parents=True)
        (old / "index.html").write_text("the book before")
        intro = "{cite}`unknown` and ![a curve](gone.png) and [](missing)"
        self.write(root, intro=intro, page="see {numref}`fig-none`", glued="other")
        with pytest.raises(BookError) as caught:
            rendering.build_html(root)
        for missing in ("'value'", "unknown", "gone.png", "'missing'", "fig-none"):
            assert re.search(f"WARNING.*{missing}", str(caught.value)), missing
        assert (old / "index.html").read_text() == "the book before"
        assert sorted(p.name for p in (root / "_build").iterdir()) == ["html"]

    def test_a_builder_that_builds_nothing_is_noticed(self, root, monkeypatch):
        monkeypatch.setattr(rendering, "JUPYTER_BOOK", "print('No site configuration found.')")
        with pytest.raises(BookError, match="built no site"):
            rendering.build_html(root)


def test_scripts_of_others_are_put_in_place_once_and_whole(tmp_path, monkeypatch):
    package = tmp_path / "npm"
    for name in ("tex-mml-chtml.js", "output/chtml/fonts/a.woff", "dataTables.min.js"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("content")
    asked = []
    monkeypatch.setattr(rendering, "npm_package", lambda spec, integrity, keep: asked.append(spec) or package)
    targets = rendering.vendor(tmp_path)
    assert targets == rendering.vendor(tmp_path) == [tmp_path / "book" / "_static" / x for x in rendering.VENDORED]
    assert (targets[0] / "output" / "chtml" / "fonts" / "a.woff").read_text() == "content"
    assert asked == [spec for spec, *_ in rendering.VENDORED.values()]
