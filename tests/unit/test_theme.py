"""What the theme gets wrong is mended on a page, and nothing else is touched."""

from types import SimpleNamespace

from docutils import nodes
from docutils.utils import new_document

from speechbook.pages import theme


def script(filename=None, body=None):
    return SimpleNamespace(filename=filename, attributes={"body": body} if body else {})


def test_scripts_that_run_code_elsewhere_are_left_out():
    kept = [script("_static/doctools.js"), script(body="let toggleHintShow = 1;"), "_static/plain.js"]
    dropped = [script("sphinx-thebe.js"), script(body='const THEBE_JS_URL = "x"'), script(body="const thebe_selector")]
    context = {"script_files": [*kept, *dropped]}
    theme.mend(None, "page", "page.html", context, None)
    assert context["script_files"] == kept


def test_the_page_of_all_chapters_knows_the_nodes_of_single_pages():
    known = {"html": {"HideCodeCellNode": "folded", "exercise": "theirs"}, "singlehtml": {"exercise": "own"}}
    theme.know_all_nodes(SimpleNamespace(registry=SimpleNamespace(translation_handlers=known)))
    assert known["singlehtml"] == {"HideCodeCellNode": "folded", "exercise": "own"}
    assert known["html"]["exercise"] == "theirs"


def test_the_mode_follows_the_reader_unless_the_book_says_otherwise():
    for said, meant in ((None, "auto"), ("", "auto"), ("dark", "dark")):
        context = {"script_files": [], "default_mode": said}
        theme.mend(None, "page", "page.html", context, None)
        assert context["default_mode"] == meant


def test_a_bibliography_is_no_list_without_items_and_lists_stay_lists():
    body = (
        '<ul role="list"><li>a</li></ul><div role="list" class="citation-list"><div role="doc-biblioentry"></div></div>'
    )
    context = {"script_files": [], "body": body}
    theme.mend(None, "page", "page.html", context, None)
    assert context["body"].count('role="list"') == 1 and '<div class="citation-list">' in context["body"]


def test_numbers_of_a_page_have_minus_and_per_cent_signs():
    glued = nodes.inline("", "-1.5 [-2.0, 0.3], 2026-12-01, whisper-tiny, 3-4 of L-2", classes=[theme.GLUED])
    own, code = nodes.inline("", "-1.5 of 95 % and 3%"), nodes.literal("", "-1.5 of 95 %")
    doctree = new_document("page")
    doctree += nodes.paragraph("", "", glued, own, code)
    theme.write_numbers(None, doctree, "page")
    assert glued.astext() == "−1.5 [−2.0, 0.3], 2026-12-01, whisper-tiny, 3-4 of L-2"
    assert own.astext() == "-1.5 of 95\u00a0% and 3\u00a0%", "the hyphens of an author stay"
    assert code.astext() == "-1.5 of 95 %"


def test_cells_of_tables_have_minus_signs_and_short_ones_stay_whole():
    context = {"script_files": [], "body": "<td>-0.4 (-1.0 to 0.2)</td><td>2e-05</td><td>a-1</td><th>-1</th>"}
    theme.mend(None, "page", "page.html", context, None)
    assert context["body"] == (
        '<td>−0.4 (−1.0 to 0.2)</td><td class="short">2e-05</td><td class="short">a-1</td><th>-1</th>'
    )
