"""Printing: one PDF, whole or not at all, and a sentence where there is no browser."""

import stat

import pytest

from speechbook.pages import printing, rendering
from speechmerge.errors import BookError


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a program in the place of Chromium; it is given what it writes into the PDF."""

    def put(text):
        path = tmp_path / "chromium"
        path.write_text(
            '#!/bin/sh\nfor word; do case "$word" in --print-to-pdf=*) out="${word#*pdf=}";; esac; done\n'
            f"printf '{text}' > \"$out\"\necho 'no display' >&2\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return put


def test_without_a_browser_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BookError, match=r"none of chromium, .* is installed"):
        printing.print_book(tmp_path, tmp_path / "book.pdf")


def test_a_browser_that_prints_nothing_leaves_the_old_file_and_is_quoted(tmp_path, program):
    program("")
    (tmp_path / "book.pdf").write_text("the one before")
    with pytest.raises(BookError, match=r"printed no PDF of .*: no display"):
        printing.print_page(tmp_path / "page.html", tmp_path / "book.pdf")
    assert (tmp_path / "book.pdf").read_text() == "the one before"


def test_the_book_is_printed_from_the_page_that_holds_all_chapters(tmp_path, program, monkeypatch):
    program("%%PDF-1.4")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/first\n")
    asked = []

    def run_sphinx(root, work, builder):
        (tmp_path / "site" / "book").mkdir(parents=True)
        (tmp_path / "site" / "book" / "first.html").write_text("<h1>Book</h1>")
        asked.append(builder)
        return tmp_path / "site"

    monkeypatch.setattr(rendering, "run_sphinx", run_sphinx)
    assert printing.print_book(tmp_path, tmp_path / "book.pdf").read_bytes() == b"%PDF-1.4"
    assert asked == ["singlehtml"]
    assert (tmp_path / "site" / printing.WHOLE).read_text() == "<h1>Book</h1>"  # beside the styles, not in book/
