"""Notebooks for students: solutions cut, room to write, and the time that reading takes."""

import nbformat
import pytest
from click.testing import CliRunner

from speechbook.commands import students
from speechbook.pages import course, notebooks
from speechmerge.errors import BookError

SOLVED = {"tags": ["solution"]}


@pytest.fixture
def source(tmp_path):
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("# Page\n\n" + 500 * "word " + "\n\nTakes %minutes% minutes."),
        new.new_code_cell("count = 3", metadata={"tags": ["parameters"]}),
        new.new_code_cell("count + 1"),
        new.new_markdown_cell(":::{exercise} One\n:label: ex-page-one\n\nDo it.\n:::"),
        new.new_markdown_cell(":::{solution-start} ex-page-one\n:::", metadata=SOLVED),
        new.new_code_cell("count + 2", metadata=SOLVED),
        new.new_code_cell("count + 3", metadata=SOLVED),
        new.new_markdown_cell(":::{solution-end}\n:::", metadata=SOLVED),
        new.new_markdown_cell(":::{exercise} Two\n:label: ex-page-two\n\nThink.\n:::"),
        new.new_markdown_cell(":::{solution} ex-page-two\n\n" + 900 * "word " + "\n:::", metadata=SOLVED),
    ]
    path = tmp_path / "notebooks" / "page.ipynb"
    path.parent.mkdir()
    nbformat.write(new.new_notebook(cells=cells), path)
    return path


def test_solutions_are_cut_and_those_with_code_leave_one_empty_cell(source):
    cells = course.student(source).cells
    assert [cell.source.split("\n")[0] for cell in cells] == [
        "# Page", "count = 3", "count + 1", ":::{exercise} One", "# Your code", ":::{exercise} Two",
    ]  # fmt: skip
    assert cells[4].metadata["tags"] == []


def test_reading_time_counts_words_and_outputs_but_no_solutions(source):
    assert "Takes 4 minutes." in notebooks.page_of(source, "page").cells[0].source  # 500 words, one output


def test_pages_are_written_by_name_and_an_unknown_name_is_refused(source, tmp_path):
    root, out = source.parent.parent, tmp_path / "out"
    assert course.write_students(root, out) == [out / "page.ipynb"]
    assert "# Your code" in (out / "page.ipynb").read_text()
    with pytest.raises(BookError, match=r"no notebook makes the page 'pgae'\. Did you mean 'page'\?"):
        course.write_students(root, out, ("pgae",))


def test_the_command_writes_what_it_names(tmp_path):
    done = CliRunner().invoke(students, [str(tmp_path / "course"), "--page", "table9"], catch_exceptions=False)
    assert done.output.split() == [str(tmp_path / "course" / "table9.ipynb")]
    assert "# Two tasks, five other languages" in (tmp_path / "course" / "table9.ipynb").read_text()


def test_machines_of_others_are_offered_where_the_books_address_is_known(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert "Binder" not in course.offer("table9")
    monkeypatch.setenv("SPEECHMERGE_REPOSITORY", "some/book")
    told = course.offer("table9", "table3")
    assert "https://mybinder.org/v2/gh/some/book/HEAD?labpath=notebooks%2Ftable3.ipynb" in told
    assert "https://colab.research.google.com/github/some/book/blob/HEAD/notebooks/table3.ipynb" in told
    assert "git clone -q https://github.com/some/book && pip install -q -e book[book]\n%cd book\n" in told
