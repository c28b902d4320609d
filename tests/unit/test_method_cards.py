"""Writing the method cards: what is generated, what is left alone, and what a stale page gets to hear."""

import dataclasses
import shutil
from xml.etree import ElementTree

import pytest
import torch

from speechbook.figures import method_pictures, svg
from speechbook.pages import cards, method_cards
from speechbook.study.store import project_root
from speechmerge.errors import BookError
from speechmerge.merging.methods import FAMILIES, find, registry

BOOK = project_root() / "book"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of empty pages, and what writing the cards into it changed."""
    book = tmp_path_factory.mktemp("book")
    (book / "methods" / "pictures").mkdir(parents=True)
    shutil.copy(BOOK / "references.bib", book)
    for name in ("methods.md", *(f"methods/{family}.md" for family in FAMILIES)):
        (book / name).write_text(f"# Prose\n\nBefore.\n\n{cards.BEGIN}\n{cards.END}\n\nAfter.\n", encoding="utf-8")
    return book, method_cards.update(book)


@pytest.fixture
def book(written, tmp_path, monkeypatch):
    """A copy of the written folder, compared with what was generated once."""
    generated = {name: text for name, text in written_blocks(written[0]).items()}
    pictures = {f"methods/pictures/{p.name}": p.read_text() for p in (written[0] / "methods/pictures").iterdir()}
    monkeypatch.setattr(method_cards, "blocks", lambda _: generated)
    monkeypatch.setattr(method_cards, "pictures", lambda: pictures)
    return shutil.copytree(written[0], tmp_path / "book")


def written_blocks(book):
    pages = [book / "methods.md", *(book / "methods").glob("*.md")]
    texts = {str(page.relative_to(book)): page.read_text(encoding="utf-8") for page in pages}
    return {name: text.split(cards.BEGIN)[1].split(cards.END)[0].strip("\n") for name, text in texts.items()}


def test_every_page_and_picture_is_written_and_prose_is_left_alone(written):
    book, changed = written
    assert len(changed) == 1 + len(FAMILIES) + len(registry())
    text = (book / "methods" / "sparse.md").read_text(encoding="utf-8")
    assert text.startswith("# Prose\n\nBefore.\n\n") and text.endswith("\n\nAfter.\n")
    assert "## TIES-Merging" in text and "## LoRS" not in text


def test_writing_again_changes_nothing(book):
    method_cards.check(book)
    assert method_cards.update(book) == []


def test_a_stale_card_is_found_with_its_line(book):
    page = book / "methods" / "sparse.md"
    page.write_text(page.read_text(encoding="utf-8").replace("| `density` | `0.2` |", "| `density` | `0.3` |", 1))
    with pytest.raises(
        BookError, match=r"sparse\.md.*found '\| `density` \| `0\.3` \|.*expected '\| `density` \| `0\.2`"
    ):
        method_cards.check(book)
    assert method_cards.update(book) == [page]


@pytest.mark.parametrize(("fault", "message"), [("change", "is not what the method gives"), ("remove", "is missing")])
def test_a_stale_picture_is_found(book, fault, message):
    picture = book / "methods" / "pictures" / "ties.svg"
    picture.unlink() if fault == "remove" else picture.write_text("<svg/>")
    with pytest.raises(BookError, match=rf"ties\.svg {message}"):
        method_cards.check(book)
    assert method_cards.update(book) == [picture]


def test_a_picture_of_no_method_is_found_and_removed(book):
    stray = book / "methods" / "pictures" / "gone.svg"
    stray.touch()
    with pytest.raises(BookError, match=r"gone\.svg belongs to no method"):
        method_cards.check(book)
    assert method_cards.update(book) == [stray]
    assert not stray.exists()


def test_a_missing_page_is_named(book):
    (book / "methods" / "learned.md").unlink()
    with pytest.raises(BookError, match=r"learned\.md: there is no such data card"):
        method_cards.update(book)


def test_a_paper_outside_the_bibliography_is_named():
    unknown = dataclasses.replace(find("ties"), paper="arXiv 9999.99999")
    with pytest.raises(BookError, match=r"lacks arXiv 9999\.99999, the source of the method ties"):
        method_cards.source(unknown, method_cards.parse_file(BOOK / "references.bib"))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("lors", '("lors", base, experts, scaling=0.3, rank_ratio=0.02, density=0.4)'),
        ("ties", '("ties", base, experts, density=0.2)'),
        ("slerp", '("slerp", base, experts[:2], t=0.5, straight_above=1.0)'),
        ("regmean", '("regmean", base, experts, alpha=0.9, ridge=1e-08, extras={"grams": grams})'),
        ("greedy_soup", '("greedy_soup", base, experts, extras={"score": dev_error})'),
    ],
)
def test_an_example_names_what_the_method_needs(name, call):
    found = method_cards.example(find(name)).replace("(\n    ", "(").replace("\n)", ")")
    assert found == f"merged = speechmerge.merge_state_dicts{call}"


@pytest.mark.parametrize(
    ("name", "sees"), [("ties", "model"), ("fisher", "entry"), ("svp", "matrix"), ("sce", "tensor")]
)
def test_what_a_method_sees(name, sees):
    row = next(line for line in method_cards.overview().splitlines() if f"<method-{name}>" in line)
    assert row.split(" | ")[2] == sees


@pytest.mark.parametrize("name", list(registry()))
def test_a_picture_is_small_whole_and_described(name):
    picture = method_pictures.draw(find(name))
    drawn = ElementTree.fromstring(picture.svg)
    assert drawn.tag.endswith("svg") and len(drawn) > 5
    assert len(picture.svg) < 15_000
    assert "nan" not in picture.svg
    assert len(picture.alt) > 80 and picture.alt.endswith(".") and "\n" not in picture.alt


def test_a_picture_draws_what_the_method_returns():
    ties = method_pictures.draw(find("ties"))
    rows = torch.tensor(method_pictures.ENTRIES).double()[:, None] / 10
    merged = method_pictures._merge(find("ties"), ties.options, rows)
    assert f"in which {int((merged == 0).sum())} are zero" in ties.alt
    assert ties.svg.count('fill="#fff"') == int((merged == 0).sum() + (rows == 0).sum())


def test_cells_are_white_only_at_zero_and_stop_at_full_strength():
    one, two, three, four = svg.grid(torch.tensor([[0.0, 1e-9, -0.9, -9.0]]), 0, 0, 10, 0.9)[1:-1]
    assert 'fill="#fff"' in one and 'fill="#fff"' not in two
    assert three[-11:] == four[-11:]
