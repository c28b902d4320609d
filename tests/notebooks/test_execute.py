"""Running notebooks: checked parameters, whole copies or none, and keys that change with everything that matters."""

import nbformat
import pytest

from speechmerge.book import building, notebooks, watching
from speechmerge.errors import BookError


def make(folder, *code, parameters="count = 3\nname = 'a'", name="page"):
    notebook = nbformat.v4.new_notebook()
    cells = [nbformat.v4.new_code_cell(source) for source in code]
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook.cells = [nbformat.v4.new_markdown_cell("# Page"), tagged, *cells]
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def test_parameters_and_defaults_are_read_in_order(tmp_path):
    source = make(tmp_path, parameters="rate = 1e-5\nlanguages = ['es', 'it']\nmerges = {'a': [1, {}]}")
    found = notebooks.declared_parameters(source)
    assert list(found.items()) == [("rate", 1e-5), ("languages", ["es", "it"]), ("merges", {"a": [1, {}]})]


@pytest.mark.parametrize("cell", ["import os", "x = os.getcwd()", "a, b = 1, 2", "print(1)", "x.y = 2"])
def test_a_parameters_cell_with_more_than_plain_values_is_refused(tmp_path, cell):
    with pytest.raises(BookError, match="only assignments of plain values"):
        notebooks.declared_parameters(make(tmp_path, parameters=cell))


@pytest.mark.parametrize("count", [0, 2])
def test_one_parameters_cell_is_required(tmp_path, count):
    source = make(tmp_path)
    notebook = nbformat.read(source, as_version=4)
    tagged = {"tags": ["parameters"]}
    notebook.cells[1:] = [nbformat.v4.new_code_cell("count = 3", metadata=tagged) for _ in range(count)]
    nbformat.write(notebook, source)
    with pytest.raises(BookError, match=f"has {count} cells tagged 'parameters'"):
        notebooks.declared_parameters(source)


def test_an_unknown_parameter_is_an_error_that_names_the_nearest(tmp_path):
    source = make(tmp_path, "raise SystemExit")
    with pytest.raises(BookError, match=r"no parameter 'coutn'\. Did you mean 'count'\?"):
        notebooks.execute(source, tmp_path / "out.ipynb", {"coutn": 4})
    assert not (tmp_path / "out.ipynb").exists()


def test_execution_takes_parameters_and_records_key_and_values(tmp_path):
    source = make(tmp_path, "count * 2, name")
    out = notebooks.execute(source, tmp_path / "deep" / "out.ipynb", {"count": 21}, key="abc")
    executed = nbformat.read(out, as_version=4)
    assert executed.cells[-1].outputs[0]["data"]["text/plain"] == "(42, 'a')"
    [injected] = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert "hide-input" in injected.metadata["tags"]
    assert notebooks.recorded(out) == {"key": "abc", "parameters": {"count": 21, "name": "a"}}
    assert nbformat.read(source, as_version=4).cells[-1].outputs == []


def test_a_failing_cell_is_named_and_leaves_the_old_copy(tmp_path):
    out = tmp_path / "out.ipynb"
    notebooks.execute(make(tmp_path, "1 + 1"), out, {}, key="old")
    before = out.read_bytes()
    source = make(tmp_path, "ok = 1", "rate = ok / 0\nrate", name="broken")
    with pytest.raises(BookError, match=r"(?s)broken\.ipynb failed in code cell 3: ZeroDivisionError.*`rate = ok / 0`"):
        notebooks.execute(source, out, {}, key="new")
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.ipynb", "out.ipynb", "page.ipynb"]


@pytest.mark.parametrize("how", ["time", "death"])
def test_a_cell_that_hangs_or_dies_is_an_error(tmp_path, monkeypatch, how):
    monkeypatch.setattr(notebooks, "CELL_SECONDS", 1)
    code = "import time\ntime.sleep(60)" if how == "time" else "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(BookError, match=r"page\.ipynb was stopped.*Nothing was written"):
        notebooks.execute(make(tmp_path, code), tmp_path / "out.ipynb", {})
    assert not (tmp_path / "out.ipynb").exists()


class TestKey:
    @pytest.fixture
    def source(self, tmp_path):
        return make(tmp_path, "count + 1")

    @pytest.fixture
    def results(self, tmp_path):
        folder = tmp_path / "results"
        (folder / "predictions").mkdir(parents=True)
        (folder / "figures").mkdir()
        (folder / "rows.jsonl").write_text("{}\n")
        return folder

    def test_it_is_the_same_for_the_same_things(self, source, results):
        assert notebooks.key(source, {}, results) == notebooks.key(source, {}, results)

    def test_outputs_predictions_and_figures_do_not_enter(self, source, results, tmp_path):
        before = notebooks.key(source, {}, results)
        executed = notebooks.execute(source, tmp_path / "page.ipynb", {})
        (results / "predictions" / "a.jsonl").write_text("{}")
        (results / "figures" / "a.svg").write_text("<svg/>")
        assert notebooks.key(executed, {}, results) == before

    @pytest.mark.parametrize(
        "change", ["cell", "tag", "parameter", "row", "new file", "no results", "library", "version"]
    )
    def test_everything_else_changes_it(self, source, results, tmp_path, monkeypatch, change):
        before = notebooks.key(source, {}, results)
        parameters = {}
        if change == "cell":
            make(tmp_path, "count + 2")
        elif change == "tag":
            notebook = nbformat.read(source, as_version=4)
            notebook.cells[-1].metadata["tags"] = ["hide-input"]
            nbformat.write(notebook, source)
        elif change == "parameter":
            parameters = {"count": 4}
        elif change == "row":
            (results / "rows.jsonl").write_text('{"wer": 0.1}\n')
        elif change == "new file":
            (results / "task_vectors.jsonl").write_text("{}\n")
        elif change == "no results":
            results = tmp_path / "nowhere"
        elif change == "library":
            (tmp_path / "package").mkdir()
            (tmp_path / "package" / "module.py").touch()
            monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "package" / "notebooks.py"))
        elif change == "version":
            monkeypatch.setattr(notebooks, "version", lambda name: "0")
        assert notebooks.key(source, parameters, results) != before


class TestBook:
    """What `build_book` executes and what it refuses, without rendering anything."""

    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path / "results"))
        (tmp_path / "notebooks").mkdir()
        (tmp_path / "book" / "_static" / "mathjax").mkdir(parents=True)
        (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/executed/page\n")
        make(tmp_path / "notebooks", "profile", parameters="profile = 'speech'")
        monkeypatch.setattr(building.pages, "build_html", lambda root: root / "index.html")
        return tmp_path

    def test_an_unchanged_notebook_is_not_run_again(self, root, monkeypatch):
        building.build_book("speech", root=root)
        monkeypatch.setattr(notebooks.papermill, "execute_notebook", lambda *a, **k: pytest.fail("was run again"))
        assert building.build_book("speech", root=root) == root / "index.html"

    def test_another_profile_runs_it_with_that_profile(self, root):
        building.build_book("smoke", root=root)
        executed = nbformat.read(root / "book" / "executed" / "page.ipynb", as_version=4)
        assert executed.cells[-1].outputs[0]["data"]["text/plain"] == "'smoke'"

    def test_rows_that_change_while_it_is_built_are_noticed(self, root):
        (root / "results" / "speech").mkdir(parents=True)
        rows = root / "results" / "speech" / "rows.jsonl"
        code = f"from pathlib import Path\nPath({str(rows)!r}).touch()"
        make(root / "notebooks", code, parameters="profile = 'speech'")
        with pytest.raises(BookError, match=r"page\.ipynb is out of date"):
            building.build_book("speech", root=root)

    def test_a_missing_copy_is_noticed(self, root):
        with pytest.raises(BookError, match=r"page\.ipynb is missing"):
            building.check_current(root, "speech")

    def test_a_damaged_copy_is_made_again(self, root):
        copy = root / "book" / "executed" / "page.ipynb"
        copy.parent.mkdir()
        copy.write_text('{"cells": [')
        building.build_book("speech", root=root)
        assert notebooks.recorded(copy)["key"]
