"""The committed method cards: current, complete, with equations that parse and examples that run."""

import math
import re

import pytest
import torch
from pybtex.database import parse_file

import speechmerge
from speechbook.pages import method_cards, notebooks
from speechbook.study.store import project_root
from speechmerge.merging.methods import FAMILIES, registry

BOOK = project_root() / "book"
COMMANDS = """
Big Delta Omega Sigma alpha angle arg bar begin beta big cos dots end epsilon eta frac gamma ge hat in infty lambda
langle le left mathrm max min nabla odot operatorname overline partial perp propto quad rangle rho right sim
sigma sin sum tanh tau text tfrac theta tilde times top vartheta
"""  # of LaTeX; MathJax shows any other in red and the build does not fail


@pytest.fixture(scope="module")
def cards():
    """Every card of the committed pages, by method."""
    text = "\n".join((BOOK / "methods" / f"{family}.md").read_text(encoding="utf-8") for family in FAMILIES)
    text = re.sub(r"(?s)<!-- generated: end -->.*?(?=<!-- generated: begin|\Z)", "", text)  # exercises follow
    parts = re.split(r"(?m)^\(method-(\w+)\)=$", text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.fixture(scope="module")
def names():
    """What an example may use: a tiny model, two experts, statistics and measures."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"model.encoder.layers.0.fc1.weight": (6, 4), "model.encoder.layers.0.fc1.bias": (6,)}
    base, first, second, third = (
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(4)
    )
    experts = [{name: base[name] + 0.01 * own[name] for name in base} for own in (first, second, third)]
    inputs = torch.randn(3, 20, 4, generator=generator)

    def dev_loss(state):
        gaps = {name: state[name] - experts[1][name] for name in state}
        return sum(gap.square().sum().item() for gap in gaps.values()) / 2, gaps

    return {
        "speechmerge": speechmerge,
        "base": base,
        "experts": experts,
        "grams": [{"model.encoder.layers.0.fc1": x.T @ x / len(x)} for x in inputs],
        "fishers": [{name: value.square() for name, value in expert.items()} for expert in experts],
        "dev_error": lambda state: dev_loss(state)[0],
        "plain_loss": lambda state: dev_loss(state)[0],
        "dev_loss": dev_loss,
        "unsureness": dev_loss,
    }


def test_the_pages_are_current():
    method_cards.check(BOOK)


def test_every_method_has_one_card(cards):
    assert sorted(cards) == sorted(registry())


def test_every_family_has_a_page_with_prose_of_its_own():
    for family in FAMILIES:
        prose = (BOOK / "methods" / f"{family}.md").read_text(encoding="utf-8").split("<!--")[0]
        assert re.match(r"# \S", prose) and len(prose) > 600
        assert "*The pictures:*" in prose


@pytest.mark.parametrize("name", list(registry()))
class TestCard:
    def test_the_idea_takes_two_sentences(self, cards, name):
        idea = cards[name].split("\n\n")[1]
        assert len(re.findall(r"[a-z\d)][.:;!?](?= |$)", idea)) >= 2
        assert len(idea) < 450 and "``" not in idea

    def test_the_equation_is_well_formed(self, cards, name):
        [equation] = re.findall(r"(?s)\$\$\n(.+?)\n\$\$", cards[name])
        depth = 0
        for brace in re.findall(r"(?<!\\)[{}]", equation):
            depth += 1 if brace == "{" else -1
            assert depth >= 0
        assert depth == 0
        for first, last in ((r"\left", r"\right"), (r"\begin{gathered}", r"\end{gathered}")):
            assert equation.count(first) == equation.count(last)
        assert set(re.findall(r"\\([a-zA-Z]+)", equation)) <= set(COMMANDS.split())

    def test_the_paper_is_in_the_bibliography(self, cards, name):
        entry = parse_file(BOOK / "references.bib").entries[re.search(r"\{cite:t\}`(\w+)`", cards[name]).group(1)]
        paper = registry()[name].paper
        known = (entry.fields.get("note"), f"{entry.persons['author'][0].last_names[0]} {entry.fields['year']}")
        assert paper == "generic" or paper.startswith(tuple(filter(None, known)))

    def test_every_parameter_and_flavour_is_listed(self, cards, name):
        listed = re.findall(r"(?m)^\| `(\w+)` \|", cards[name])
        assert listed == list(registry()[name].parameters)
        assert [f for f in registry()[name].flavours if f'`flavour="{f}"` sets' not in cards[name]] == []

    def test_the_picture_is_there_and_described(self, cards, name):
        [(path, alt)] = re.findall(r"```\{image\} (\S+)\n:alt: (.+)", cards[name])
        assert path == f"pictures/{name}.svg"
        assert len(alt) > 80

    def test_the_example_runs(self, cards, names, name):
        [call] = re.findall(r"(?s)```python\n(.+?)\n```", cards[name])
        space = dict(names)
        exec(call, space)
        assert [(n, t.shape) for n, t in space["merged"].items()] == [(n, t.shape) for n, t in names["base"].items()]
        assert any(not torch.equal(space["merged"][n], names["base"][n]) for n in names["base"])


def test_the_table_links_every_card_and_page():
    table = (BOOK / "methods.md").read_text(encoding="utf-8")
    assert re.findall(r"<method-(\w+)>", table) == [
        m.name for f in FAMILIES for m in registry().values() if m.family == f
    ]
    assert [family for family in FAMILIES if f"](methods/{family}) |" not in table] == []


TAUGHT = [BOOK / f"{page}.md" for page in ("methods", "checkpoints", "data_and_models")]
TAUGHT += sorted((BOOK / "methods").glob("*.md"))


def of_page(path):
    return path.stem


@pytest.mark.parametrize("page", TAUGHT, ids=of_page)
def test_a_page_says_what_one_learns_and_how_long_its_own_text_takes(page):
    text = page.read_text(encoding="utf-8")
    box = re.search(r"(?s):::\{admonition\} After (\d+) minutes of reading you can\n:class: goals\n\n(.+?)\n:::", text)
    assert 2 <= len(box[2].splitlines()) <= 4 and all(re.match(r"- [a-z]", goal) for goal in box[2].splitlines())
    read = re.sub(r"(?s)<!-- generated: begin.*?generated: end -->|:::\{solution\}.*?\n:::\n", "", text)
    assert int(box[1]) == math.ceil(len(re.findall(r"\w+", read)) / notebooks.PACE)


@pytest.mark.parametrize("page", TAUGHT, ids=of_page)
def test_exercises_are_solved_and_the_code_of_solutions_runs(page):
    text = page.read_text(encoding="utf-8")
    exercises, solutions = (
        re.findall(rf"(?m)^:::\{{{kind}\}}.*? ?(?:\n:label: )?(ex-[\w-]+)$", text) for kind in ("exercise", "solution")
    )
    assert len(exercises) == 3 and exercises == solutions
    codes = re.findall(r"(?s)```python\n(.*?)```", text.partition("## Exercises")[2])
    assert codes and all("assert" in code for code in codes)
    for code in codes:
        exec(compile(code, str(page), "exec"), {})
