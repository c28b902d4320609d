"""The notebooks' sources keep the house rules: thin, without outputs, with one parameters cell and a stamp first."""

import ast
import posixpath
import re
from pathlib import Path

import nbformat
import pytest

from speechbook.pages import course, rendering
from speechbook.pages.notebooks import declared_parameters, page_of, pages
from speechbook.study.store import project_root

ROOT = project_root()
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = {page: source for source in SOURCES for page in pages(source)}
NOT_TAUGHT = ("in_short", "status")  # pages that say where one is
CODE_IS_READ = ("your_first_merge", "your_merge", "four_ties", "fusion_layers")  # pages with code that one is to see
FOLDED = {"hide-input", "remove-cell", "remove-input"}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def solves(cell):
    return "solution" in cell.metadata.get("tags", [])


def code_lines(cell):
    return [line for line in cell.source.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_there_are_notebooks():
    assert len(SOURCES) >= 4


@pytest.fixture(params=PAGES)
def page(request):
    return request.param


@pytest.fixture
def source(page):
    return PAGES[page]


@pytest.fixture
def notebook(page):
    return page_of(PAGES[page], page)


def test_it_is_valid_and_has_no_outputs(notebook):
    nbformat.validate(notebook)
    assert [cell.id for cell in code_cells(notebook) if cell.outputs or cell.execution_count] == []


def test_it_starts_with_one_heading_of_the_first_level(notebook):
    first, *others = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert re.match(r"# \S", first)
    assert notebook.cells[0].source == first
    assert [text for text in others if re.search(r"(?m)^# ", text)] == []


def test_links_of_a_chapter_lead_to_pages_of_the_contents(page, notebook):
    contents = {str(page) for page in rendering.table_of_contents(ROOT)}
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = {posixpath.normpath(f"book/executed/{link}") for link in re.findall(r"\]\(([\w./-]+)\)", text)}
    if f"book/executed/{page}" in contents:  # others wait for their rows, and so may what they link to
        assert links <= contents


def test_it_is_thin(notebook):
    cells = [cell for cell in code_cells(notebook) if "parameters" not in cell.metadata.get("tags", [])]
    assert max(len(code_lines(cell)) for cell in cells) <= 15
    assert sum(len(code_lines(cell)) for cell in cells if not solves(cell)) <= 50  # a student writes the solutions


def test_its_code_is_folded_where_it_is_not_what_one_reads(page, notebook):
    tags = [set(cell.metadata.get("tags", [])) for cell in code_cells(notebook) if not solves(cell)]
    assert page in CODE_IS_READ or all("parameters" in own or own & FOLDED for own in tags)


def test_it_defines_nothing_installs_nothing_and_names_no_path(notebook):
    for cell in code_cells(notebook):
        tree = ast.parse(cell.source)  # shell and magic lines would not parse
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert [node for node in ast.walk(tree) if isinstance(node, kinds)] == []
        texts = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert [text for text in texts if "/" in text or text.endswith((".jsonl", ".csv", ".svg"))] == []


def test_its_first_output_is_a_stamp(notebook):
    shown = []
    for cell in code_cells(notebook):
        last = ast.parse(cell.source).body[-1]
        if isinstance(last, ast.Expr):
            shown.append(ast.unparse(last))
    assert re.match(r"provenance\.(live_)?stamp\(", shown[0])


def test_its_parameters_are_plain_and_include_the_profile(source):
    assert declared_parameters(source)["profile"] in (
        "speech",
        "tiny",
        "fusion",
    )  # old rows, the protocol's, fused models
    assert all(set(values) <= set(declared_parameters(source)) for values in pages(source).values())


def test_cells_of_one_page_alone_name_a_page_of_the_notebook():
    for source in SOURCES:
        tags = {tag for cell in nbformat.read(source, as_version=4).cells for tag in cell.metadata.get("tags", [])}
        assert {tag for tag in tags if tag.startswith("only-")} <= {f"only-{page}" for page in pages(source)}


def test_pages_of_one_notebook_share_its_code_and_differ_in_their_text():
    first, second = (page_of(PAGES[page], page) for page in ("table3", "table9"))
    assert PAGES["table3"] == PAGES["table9"]
    assert first.cells[0].source.startswith("# Two tasks, one") and second.cells[0].source.startswith(
        "# Two tasks, five"
    )
    assert [code_cells(one)[0].source.splitlines()[1] for one in (first, second)] == [
        'experiment = "table11"', 'experiment = "table9"',
    ]  # fmt: skip
    here, there = (str([c.source for c in code_cells(one)[1:] if not solves(c)]) for one in (first, second))
    assert here != there and here.replace("table3", "table9") == there


def test_every_key_it_shows_is_glued_in_it(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in code_cells(notebook))
    published = re.findall(r"(?:publish\((?:profile|\"bench\"), |show\()\"([^\"]+)\"\)", code)
    keys = {f"{name}-{part}" for name in published for part in ("figure", "caption")}
    patterns = [re.escape(key) for key in keys | set(re.findall(r"glue\(\"([^\"]+)\"", code))]
    patterns += [re.sub(r"\{.*?\}(?=[^}]*$|-)", ".+", key) for key in re.findall(r"glue\(f\"([^\"]+)\"", code)]
    used = set(re.findall(r"\{glue:text\}`([^:`]+)", text)) | set(re.findall(r"\{glue:figure\} (\S+)", text))
    assert [key for key in used if not any(re.fullmatch(pattern, key) for pattern in patterns)] == []
    assert [key for key in keys if key not in used] == [], "a figure is drawn but not shown"


def test_it_says_what_one_learns_and_how_long_it_takes(page, notebook):
    if page in NOT_TAUGHT:
        return
    first = notebook.cells[0].source
    box = re.search(r"(?s):::\{admonition\} After (\d+) minutes of reading you can\n:class: goals\n\n(.+?)\n:::", first)
    assert 2 <= int(box[1]) <= 40
    goals = box[2].splitlines()
    assert 2 <= len(goals) <= 4 and all(re.match(r"- [a-z]", goal) for goal in goals)


def test_every_exercise_is_solved_in_cells_that_students_do_not_get(page, notebook):
    if page in NOT_TAUGHT:
        return
    texts = {
        solved: [c.source for c in notebook.cells if c.cell_type == "markdown" and solves(c) == solved]
        for solved in (0, 1)
    }
    label = rf"ex-{page.replace('_', '-')}-[\w-]+"
    exercises = re.findall(rf"(?m)^:::\{{exercise\}} \S.*\n:label: ({label})$", "\n".join(texts[False]))
    solutions = re.findall(rf"(?m)^:::\{{solution(?:-start)?\}} ({label})\n:class: dropdown$", "\n".join(texts[True]))
    assert exercises and exercises == solutions
    assert not re.search(r"\{solution|\{dropdown", "\n".join(texts[False]))
    assert len(re.findall(r"\{solution-start", str(texts))) == len(re.findall(r"\{solution-end", str(texts)))


def test_the_students_notebook_is_the_chapter_up_to_its_solutions(page, source, notebook):
    given = course.student(source, page)
    nbformat.validate(given)
    assert not any(map(solves, given.cells)) and "{solution" not in str(given.cells)
    code = [cell.source for cell in code_cells(given)]
    room = code.count(course.ROOM)
    assert room == len(re.findall(r"\{solution-start", str(notebook.cells)))
    assert code[: len(code) - room] == [cell.source for cell in code_cells(notebook) if not solves(cell)]


def test_no_page_needs_what_another_chapter_makes():
    """A chapter that cannot be made must not take other pages with it."""
    texts = {Path(page): "\n".join(c.source for c in page_of(source, page).cells) for page, source in PAGES.items()}
    chapters = list(texts)
    texts |= {page: page.read_text() for folder in ("book", "data_cards") for page in (ROOT / folder).glob("**/*.md")}
    glued = [page.name for page, text in texts.items() if re.search(r"\{glue[^}]*\}`?[^`\n]*::", text)]
    assert glued == [], "a number of another chapter is shown"
    for source in chapters:
        for label in re.findall(r"(?m)^:name: (\S+)|^\((\S+)\)=|^:label: (\S+)|\$\$ \((\S+)\)", texts[source]):
            name = "".join(label)
            users = [p.name for p, text in texts.items() if p != source and re.search(rf"`{name}`|\({name}\)", text)]
            assert users == [], f"{name} of {source.name} is referred to"
