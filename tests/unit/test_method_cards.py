"""Writing the method cards: what is generated, what is left alone, and what a stale page gets to hear."""

import dataclasses
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from speechbook.figures import figured, method_pictures
from speechbook.pages import cards, method_cards
from speechbook.study.store import project_root
from speechmerge.errors import BookError
from speechmerge.merging.methods import FAMILIES, find, registry

BOOK = project_root() / "book"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of empty pages, and what writing the cards into it changed."""
    book = tmp_path_factory.mktemp("book")
    (book / "methods").mkdir(parents=True)
    shutil.copy(BOOK / "references.bib", book)
    for name in ("methods.md", *(f"methods/{family}.md" for family in FAMILIES)):
        (book / name).write_text(f"# Prose\n\nBefore.\n\n{cards.BEGIN}\n{cards.END}\n\nAfter.\n", encoding="utf-8")
    return book, method_cards.update(book)


@pytest.fixture
def book(written, tmp_path, monkeypatch):
    """A copy of the written folder, compared with what was generated once."""
    generated = {name: text for name, text in written_blocks(written[0]).items()}
    monkeypatch.setattr(method_cards, "blocks", lambda _: generated)
    return shutil.copytree(written[0], tmp_path / "book")


def written_blocks(book):
    pages = [book / "methods.md", *(book / "methods").glob("*.md")]
    texts = {str(page.relative_to(book)): page.read_text(encoding="utf-8") for page in pages}
    return {name: text.split(cards.BEGIN)[1].split(cards.END)[0].strip("\n") for name, text in texts.items()}


def test_every_page_is_written_and_prose_is_left_alone(written):
    book, changed = written
    assert len(changed) == 1 + len(FAMILIES)
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
def test_a_picture_is_whole_and_described(name):
    picture = method_pictures.draw(find(name))
    drawn = ElementTree.fromstring(figured.rendered(picture.fig, "svg"))
    assert drawn.tag.endswith("svg") and len(list(drawn.iter())) > 50
    assert len(picture.alt) > 80 and picture.alt.endswith(".") and "\n" not in picture.alt and "nan" not in picture.alt


def test_a_picture_draws_what_the_method_returns():
    ties = method_pictures.draw(find("ties"))
    rows = torch.tensor(method_pictures.ENTRIES).double()[:, None] / 10
    merged = method_pictures._merge(find("ties"), ties.options, rows)
    assert f"in which {int((merged == 0).sum())} are zero" in ties.alt
    [cells] = ties.fig.axes[0].collections
    assert np.allclose(cells.get_array(), torch.cat([rows[:, 0], merged]))


def test_cells_are_white_only_at_zero_and_stop_at_full_strength():
    _, [axes] = method_pictures._figure(1, 1)
    method_pictures._grid(axes, torch.tensor([[0.0, 0.1, -0.9, -9.0]]), 0.9)
    zero, some, full, more = axes.collections[0].to_rgba(axes.collections[0].get_array()).reshape(4, 4)
    assert min(zero) > 0.99 and min(some) < 0.99 and list(full) == list(more)


def test_pictures_are_drawn_once_for_a_state_of_the_library(tmp_path, monkeypatch):
    drawn, states = [], iter("aab")
    monkeypatch.setattr(method_cards, "registry", lambda: {"ties": find("ties")})
    monkeypatch.setattr(method_cards, "draw", lambda method: drawn.append(method) or method_pictures.draw(method))
    monkeypatch.setattr(method_cards.notebooks, "library_key", lambda: next(states))
    for count in (1, 1, 2):
        method_cards.draw_pictures(tmp_path)
        assert len(drawn) == count
    assert (tmp_path / "methods" / "pictures" / "ties.svg").stat().st_size > 1000
