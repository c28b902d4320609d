"""Running notebooks: checked parameters, whole copies or none, kernels under watch, and keys of all that matters."""

import ast
import json
import logging
import re
import subprocess
import sys

import nbformat
import psutil
import pytest

from speechbook.pages import building, notebooks, watching
from speechbook.study import table_files
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


@pytest.mark.parametrize("cell", ["import os", "x = (", "x = os.getcwd()", "a, b = 1, 2", "print(1)", "x.y = 2"])
def test_a_parameters_cell_with_more_than_plain_values_is_refused(tmp_path, cell):
    with pytest.raises(BookError, match=r"only assignments of plain values|is not Python"):
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


@pytest.mark.parametrize("death", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"])
def test_a_kernel_that_dies_is_an_error_that_names_the_cell(tmp_path, death):
    source = make(tmp_path, f"import os, signal\n{death}")
    with pytest.raises(BookError, match=r"page\.ipynb was stopped: Kernel died \(cell 3 of 3\)"):
        notebooks.execute(source, tmp_path / "out.ipynb", {})
    assert not (tmp_path / "out.ipynb").exists()


def test_threads_of_a_kernel_wait_asleep_unless_told_otherwise(tmp_path, monkeypatch):
    source = make(tmp_path, "import os\nos.environ['OMP_WAIT_POLICY']")
    for told, found in ((None, "passive"), ("active", "active")):
        if told:
            monkeypatch.setenv("OMP_WAIT_POLICY", told)
        copy = nbformat.read(notebooks.execute(source, tmp_path / "out.ipynb", {}), as_version=4)
        assert copy.cells[-1].outputs[0]["data"]["text/plain"] == repr(found)


@pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux")
def test_kernels_are_forks_of_one_process_each_with_its_own_environment_and_folder(tmp_path, monkeypatch):
    code = "import os, sys\n[os.getppid(), 'torch' in sys.modules, os.environ['GIVEN'], os.getcwd()]"
    told = []
    for given in ("one", "two"):
        monkeypatch.setenv("GIVEN", given)
        (tmp_path / given).mkdir()
        out = notebooks.execute(make(tmp_path, code), tmp_path / "out.ipynb", {}, cwd=tmp_path / given)
        shown = nbformat.read(out, as_version=4).cells[-1].outputs[0]["data"]["text/plain"]
        told.append(ast.literal_eval(shown))
    (server, *first), (other, *second) = told
    assert server == other and psutil.Process(server).children() == []
    assert [first, second] == [[True, given, str(tmp_path / given)] for given in ("one", "two")]


class TestWatch:
    """A cell is ended for standing still, never for being slow; the log tells what runs."""

    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch):
        monkeypatch.setattr(watching, "STAND_STILL", 6.0)
        monkeypatch.setattr(watching, "HEARTBEAT", 1.0)

    def test_a_cell_that_stands_still_is_stopped_with_what_it_started(self, tmp_path):
        code = (
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
            f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
            "child.wait()"
        )
        with pytest.raises(BookError, match=r"page\.ipynb was stopped: cell 3 of 3 used no processor time and wrote"):
            notebooks.execute(make(tmp_path, code), tmp_path / "out.ipynb", {})
        assert not (tmp_path / "out.ipynb").exists()
        child = int((tmp_path / "pid").read_text())
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE

    @pytest.mark.parametrize(
        "code",
        [
            "import time\nend = time.monotonic() + 12\nwhile time.monotonic() < end: pass",
            "import time\nfor _ in range(12):\n    time.sleep(1)\n    print('.')",
            "import subprocess, sys\n"
            "busy = 'import time\\nend = time.monotonic() + 12\\nwhile time.monotonic() < end: pass'\n"
            "subprocess.run([sys.executable, '-c', busy], check=True)",
        ],
        ids=["computes", "writes", "waits for a process that computes"],
    )
    def test_a_slow_cell_is_told_of_and_left_alone(self, tmp_path, caplog, code):
        caplog.set_level(logging.INFO, "speechbook")
        out = notebooks.execute(make(tmp_path, code), tmp_path / "out.ipynb", {}, title="notebook 3 of 27: page")
        assert out.exists()
        lines = [r.message for r in caplog.records if r.name == watching.__name__]
        assert lines and all(re.fullmatch(r"notebook 3 of 27: page, cell 3 of 3, \d+ s", line) for line in lines[1:])


class TestKey:
    @pytest.fixture
    def source(self, tmp_path):
        return make(tmp_path, "count + 1")

    @pytest.fixture
    def results(self, tmp_path):
        folder = tmp_path / "results"
        (folder / "figures").mkdir(parents=True)
        (folder / "table1").mkdir()
        (folder / "table1" / "rows.parquet").write_bytes(b"rows")
        return folder

    def test_it_is_the_same_for_the_same_things(self, source, results):
        assert notebooks.key(source, {}, results) == notebooks.key(source, {}, results)

    def test_outputs_and_figures_do_not_enter(self, source, results, tmp_path):
        before = notebooks.key(source, {}, results)
        executed = notebooks.execute(source, tmp_path / "page.ipynb", {})
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
            (results / "table1" / "rows.parquet").write_bytes(b"others")
        elif change == "new file":
            (results / "task_vectors.parquet").write_bytes(b"rows")
        elif change == "no results":
            results = tmp_path / "nowhere"
        elif change == "library":
            monkeypatch.setattr(notebooks, "PACKAGES", ("speechmerge",))
        elif change == "version":
            monkeypatch.setattr(notebooks, "version", lambda name: "0")
        assert notebooks.key(source, parameters, results) != before


class TestBook:
    """What `build_book` executes and what it refuses, without rendering anything."""

    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path / "results"))
        (tmp_path / "notebooks").mkdir()
        monkeypatch.setattr(building.rendering, "VENDORED", {})
        (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/executed/page\n")
        make(tmp_path / "notebooks", "profile", parameters="profile = 'speech'")
        monkeypatch.setattr(building.rendering, "build_html", lambda root: root / "index.html")
        return tmp_path

    def test_an_unchanged_notebook_is_not_run_again(self, root, monkeypatch):
        building.build_book("speech", root=root)
        monkeypatch.setattr(notebooks.papermill, "execute_notebook", lambda *a, **k: pytest.fail("was run again"))
        assert building.build_book("speech", root=root) == root / "index.html"

    def test_an_unchanged_notebook_is_run_again_if_it_is_asked_for(self, root, monkeypatch):
        building.build_book("speech", root=root)
        run = []
        monkeypatch.setattr(notebooks, "execute", lambda *a, page, **k: run.append(page))
        building.build_book("speech", root=root, again=["page"])
        assert run == ["page"]
        with pytest.raises(BookError, match=r"no executed page 'pgae'\. Did you mean 'page'\?"):
            building.build_book("speech", root=root, again=["pgae"])

    def test_a_page_offers_its_notebook_which_runs_by_itself(self, root):
        building.build_book("speech", root=root)
        executed = root / "book" / "executed"
        told = nbformat.read(executed / "page.ipynb", as_version=4).cells[1].source
        for name in re.findall(r"\{download\}`[^<]+<([^>]+)>`", told):
            taken = nbformat.read(executed / name, as_version=4)
            assert [cell.source for cell in taken.cells] == ["# Page", "profile = 'speech'", "profile"]
        assert "\nspeechmerge book --again page\n" in told and told.count("{download}") == 2

    def test_another_profile_runs_it_with_that_profile(self, root):
        building.build_book("smoke", root=root)
        executed = nbformat.read(root / "book" / "executed" / "page.ipynb", as_version=4)
        assert executed.cells[-1].outputs[0]["data"]["text/plain"] == "'smoke'"

    def test_rows_that_change_while_it_is_built_are_noticed(self, root):
        (root / "results" / "speech").mkdir(parents=True)
        rows = root / "results" / "speech" / "rows.parquet"
        code = f"from pathlib import Path\nPath({str(rows)!r}).touch()"
        make(root / "notebooks", code, parameters="profile = 'speech'")
        with pytest.raises(BookError, match=r"page\.ipynb is out of date"):
            building.build_book("speech", root=root)

    @pytest.mark.parametrize(("profile", "kind"), [("speech", "rows"), ("tiny", "comparisons")])
    def test_a_notebook_outside_the_contents_waits_for_what_it_shows(self, root, profile, kind):
        named = f"profile = {profile!r}\nexperiment = 'table1'"
        make(root / "notebooks", "profile", parameters=named, name="waiting")
        own = root / "results" / profile / "table1"
        table_files.write(own / "measures.parquet", [{"value": 0.5}])
        table_files.write(own / f"{kind}.parquet", [])
        assert "waiting" not in building.listed_sources(root)
        table_files.write(own / f"{kind}.parquet", [{"value": 0.5}])
        with pytest.raises(BookError, match="lacks book/executed/waiting, whose notebook exists"):
            building.listed_sources(root)

    def test_a_missing_copy_is_noticed(self, root):
        with pytest.raises(BookError, match=r"page\.ipynb is missing"):
            building.check_current(root, "speech")

    def test_a_damaged_copy_is_made_again(self, root):
        copy = root / "book" / "executed" / "page.ipynb"
        copy.parent.mkdir(parents=True)
        copy.write_text('{"cells": [')
        building.build_book("speech", root=root)
        assert notebooks.recorded(copy)["key"]


class TestUnmade:
    """One chapter that fails costs no other, and is tried again."""

    CHAPTERS = ("good", "bad", "last", "live")
    TEXT = "# The bad one\n\nA text with $\\tau$ and {glue:text}`value`.\n\n## Question\n\nWhat is asked?\n\n## More\n"

    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path / "results"))
        (tmp_path / "notebooks").mkdir()
        monkeypatch.setattr(building.rendering, "VENDORED", {})
        toc = {"root": "book/executed/good", "chapters": [{"file": f"book/executed/{x}"} for x in self.CHAPTERS[1:]]}
        (tmp_path / "_toc.yml").write_text(json.dumps(toc))
        for name in self.CHAPTERS:
            make(tmp_path / "notebooks", "1 + 1", name=name)
        make(tmp_path / "notebooks", "2", parameters="budget = 5", name="live")
        monkeypatch.setattr(building.rendering, "build_html", lambda root: root / "index.html")
        return tmp_path

    def fail(self, root, code="raise OSError('raw \\\\tau and `ticks`')"):
        source = make(root / "notebooks", code, name="bad")
        notebook = nbformat.read(source, as_version=4)
        notebook.cells[0].source = self.TEXT
        nbformat.write(notebook, source)

    def copy(self, root, name):
        return root / "book" / "executed" / f"{name}.ipynb"

    @pytest.mark.parametrize(
        ("code", "why"),
        [
            ("raise OSError('broken')", r"failed in code cell 2: OSError: broken"),
            ("import os\nos._exit(1)", r"was stopped: Kernel died"),
            ("raise SystemExit(3)", r"failed in code cell 2: SystemExit"),
            ("raise KeyboardInterrupt", r"failed in code cell 2: KeyboardInterrupt"),
        ],
    )
    def test_the_others_are_made_and_the_error_comes_last(self, root, code, why):
        self.fail(root, code)
        with pytest.raises(BookError) as caught:
            building.build_book("speech", root=root)
        assert f"the book is at {root / 'index.html'}, but it lacks 1 of its 4 notebooks" in str(caught.value)
        assert re.search(rf"\n  bad could not be made: notebooks/bad\.ipynb {why}", str(caught.value))
        assert [bool(notebooks.recorded(self.copy(root, x)).get("key")) for x in self.CHAPTERS] == [1, 0, 1, 1]

    def test_its_page_says_so_and_keeps_title_and_question_but_no_numbers(self, root):
        building.build_book("speech", root=root)
        self.fail(root)
        with pytest.raises(BookError):
            building.build_book("speech", root=root)
        notebook = nbformat.read(self.copy(root, "bad"), as_version=4)
        [cell] = notebook.cells
        assert cell.cell_type == "markdown" and cell.source.startswith("# The bad one\n")
        assert "{admonition} This chapter could not be made" in cell.source and "What is asked?" in cell.source
        assert "glue" not in cell.source and "More" not in cell.source

    def test_it_is_tried_again_and_alone(self, root, monkeypatch):
        self.fail(root)
        with pytest.raises(BookError):
            building.build_book("speech", root=root)
        run = []
        execute = notebooks.execute
        monkeypatch.setattr(
            notebooks, "execute", lambda source, *a, **k: run.append(source.stem) or execute(source, *a, **k)
        )
        with pytest.raises(BookError):
            building.build_book("speech", root=root)
        assert run == ["bad"]
        make(root / "notebooks", "3", name="bad")
        assert building.build_book("speech", root=root) == root / "index.html"
        assert notebooks.recorded(self.copy(root, "bad"))["key"]

    @pytest.mark.parametrize("content", ["{", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'])
    def test_a_source_that_is_no_notebook_costs_its_own_page_alone(self, root, content):
        (root / "notebooks" / "bad.ipynb").write_text(content)
        with pytest.raises(
            BookError, match=r"lacks 1 of its 4 notebooks.*\n  bad could not be made: .*is not a notebook"
        ):
            building.build_book("speech", root=root)

    def test_a_page_that_cannot_be_rendered_does_not_hide_what_failed_before(self, root, monkeypatch):
        def build_html(root):
            raise BookError("the book did not build")

        monkeypatch.setattr(building.rendering, "build_html", build_html)
        self.fail(root)
        with pytest.raises(BookError, match=r"(?s)did not build.*bad could not be made"):
            building.build_book("speech", root=root)

    def test_the_log_says_what_runs_and_how_many_are_left(self, root, caplog):
        caplog.set_level(logging.INFO, "speechbook")
        building.build_book("speech", root=root)
        lines = [record.message for record in caplog.records if record.message.startswith("notebook")]
        assert lines[0] == "notebook 1 of 4: live is running"
        assert re.fullmatch(r"notebook 1 of 4: live took \d+ s; 3 left", lines[1])  # alone: nothing runs beside it
        assert [line.rpartition("; ")[2] for line in lines if "took" in line] == [f"{n} left" for n in (3, 2, 1, 0)]


def test_without_a_terminal_the_log_is_written_line_by_line(tmp_path):
    """The command line's log goes through a pipe at once, not when the process ends."""
    code = (
        "import logging, os, sys\nfrom speechmerge.cli import cli\ncli(['study', '--help'], standalone_mode=False)\n"
        "logging.getLogger('speechbook').info('notebook 1 of 2: page is running')\nos._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "notebook 1 of 2: page is running\n"
