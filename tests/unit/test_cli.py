"""The command line: help with examples, and mistakes that end as one sentence."""

import subprocess
import sys

import click
import pytest
from cli_calls import Caller
from click.testing import CliRunner

from speechbook.study import experiments, pace, plans
from speechmerge import cli
from speechmerge.merging.methods import FAMILIES, registry
from speechmerge.whisper import models


def leaves(group=cli.cli, path=()):
    """Yield every command with the words that call it."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        yield (*path, name), command


COMMANDS = dict(leaves())


@pytest.fixture
def run(monkeypatch, capsys):
    return Caller(monkeypatch, capsys)


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_every_command_is_explained_with_an_example(words):
    result = CliRunner().invoke(cli.cli, [*words, "--help"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("Example"))
    examples = [line.strip() for line in lines[start + 1 :] if line.strip()]
    assert examples and all(line.startswith("speechmerge " + " ".join(words)) for line in examples)
    described = [line.strip() for line in lines[1:start] if line.strip()]
    assert described[0].endswith(".") or described[1].endswith(".")  # a sentence before the options


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_examples_are_calls_that_the_command_accepts(words):
    command = COMMANDS[words]
    epilog = command.epilog.split("Example:\n")[1].splitlines()
    for line in epilog:
        given = line.split()[1 + len(words) :]
        if not isinstance(command, click.Group):
            context = command.make_context(words[-1], given)  # parses and checks, does nothing
            assert context.params.keys() >= {p.name for p in command.params if p.required}


def test_no_traceback_helpers_are_missing():
    assert {("train",), ("merge",), ("decode",), ("score",), ("study", "run"), ("fetch", "models")} <= COMMANDS.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mrege"], "there is no command 'mrege'. Did you mean 'merge'?"),
        (["study", "stauts"], "there is no command 'stauts'. Did you mean 'status'?"),
        (["methods", "zzz"], "there is no command 'zzz'. Known: list, show."),
        (["methods", "show", "loors"], "There is no merge method 'loors'. Did you mean 'lors'?"),
        (["study", "plan", "--experiment", "tabel1"], "there is no experiment 'tabel1'. Did you mean 'table1'?"),
        (["study", "plan", "--profile", "speach"], "there is no profile 'speach'. Did you mean 'speech'?"),
        (
            ["study", "plan", "--profile", "smoke", "--experiment", "table1", "--system", "Task arithmetic"],
            "has no system 'Task arithmetic'. Did you mean 'Task Arithmetic'?",
        ),
        (["study", "plan", "--system", "Pretrained"], "--system needs --experiment"),
        (["study", "plan", "--profile", "fusion-smoke", "--measure"], "--measure times the training of Whisper"),
        (["fetch", "models", "smoek"], "neither a folder nor the name of a base model. Did you mean 'smoke'?"),
        (["fetch", "corpora", "tone"], "There is no corpus 'tone'. Did you mean 'tones'?"),
        (["fetch", "corpora", "tones:fr"], "Corpus 'tones' has no language 'fr'; it has es, it."),
        (["train", "x", "--source", "tones"], "'tones' is not corpus:language[:asr|st], for example asterisk:es:asr."),
        (["train", "x", "--source", "tones:es", "--base", "smoke", "--learning-rate", "-1"], "learning_rate is -1.0"),
        (["train", "x"], "Missing option '--source'"),
        (["train", "x", "--source", "tones:es", "--epochs", "0"], "0 is not in the range x>=1"),
        (["train", "x", "--source", "tones:es", "--seed", "-1"], "-1 is not in the range x>=0"),
        (
            ["merge", "task_arithmetic", "x"],
            "Missing argument 'EXPERTS...': name the folders of the fine-tuned models.",
        ),
        (["merge", "fisher", "x", "a", "b"], "fisher needs more than the models: the diagonal Fisher information"),
        (["merge", "ties", "x", "a", "--device", "gpu"], "'gpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["merge", "none.yaml", "x"], "none.yaml is not readable as a recipe (No such file or directory); expected"),
        (["merge", "./", "x"], "is not readable as a recipe (Is a directory)"),
        (["merge", "none.yaml", "x", "a", "--scaling", "0"], "so EXPERTS, --scaling cannot stand beside none.yaml"),
        (["check", "none.yaml"], "none.yaml is not readable as a recipe"),
        (["decode", "smoke", ".", "--corpus", "tones", "--language", "es"], "OUTPUT . is a folder; name a file."),
        (["decode", "smoke", "x", "--corpus", "a", "--corpus", "a", "--language", "es"], "give each corpus once"),
        (["decode", "smoke", "x", "--corpus", "tones", "--language", "fr"], "has no language 'fr'"),
        (["decode", "nowhere", "x", "--corpus", "tones", "--language", "es"], "'nowhere' is neither a folder"),
        (["score", "none.jsonl.gz", "--corpus", "tones", "--language", "es"], "there are no predictions; decode first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_ends_as_a_sentence(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPEECHMERGE_HOME", str(experiments.project_root()))
    code, out, err = run(*words)
    assert code != 0 and out == ""
    assert message in " ".join(err.split())
    told = [line for line in err.splitlines() if line.strip() and "clip/s" not in line]  # a bar shows when it is slow
    assert "Traceback" not in err and len(told) <= 4
    assert list(tmp_path.iterdir()) == []


def test_an_expected_error_is_exit_code_one_and_a_wrong_call_is_two(run):
    assert run("methods", "show", "loors")[0] == 1
    assert run("methods", "shw", "lors")[0] == 2
    assert run("--version")[0] == 0


def test_a_bug_is_not_dressed_as_a_mistake(monkeypatch):
    """What is not one of our errors keeps its traceback."""
    monkeypatch.setattr(sys, "argv", ["speechmerge", "methods", "list"])
    monkeypatch.setattr("speechmerge.merging.methods.registry", lambda: {}["bug"])
    with pytest.raises(KeyError):
        cli.main()


def test_a_path_the_system_refuses_is_a_sentence(run, monkeypatch):
    def refuse():
        raise PermissionError(13, "Permission denied", "/some/place")

    monkeypatch.setattr("speechmerge.merging.methods.registry", refuse)
    code, _, err = run("methods", "list")
    assert code == 1 and "/some/place: Permission denied; check the path" in " ".join(err.split())


def test_help_starts_without_torch():
    script = "import sys; from speechmerge import cli; sys.exit('torch' in sys.modules or 'yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_methods_are_listed_by_family(run):
    code, out, _ = run("methods", "list")
    assert code == 0
    lines = out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(listed) == sorted(registry()) and len(lines) == len(registry()) + 2 * len(FAMILIES)
    assert any(line.startswith("  fisher ") and line.endswith("needs data") for line in lines)


@pytest.mark.parametrize("name", ["lors", "ties", "dare_ties", "regmean", "breadcrumbs"])
def test_a_method_is_shown_completely(run, name):
    method = registry()[name]
    code, out, _ = run("methods", "show", name)
    said = " ".join(out.split())
    assert code == 0 and max(map(len, out.replace(method.equation, "").splitlines())) <= 100
    for text in (method.title, method.idea, method.equation, method.paper, method.cost, method.deviations):
        assert " ".join(text.split()) in said
    assert all(f"{parameter}: {meaning}" in said for parameter, meaning in method.parameters.items())
    assert all(f"flavour={flavour} is" in said for flavour in method.flavours)
    assert ("variant of dare" in said) == (name == "dare_ties")
    assert ("variants breadcrumbs_ties" in said) == (name == "breadcrumbs")
    assert ("the models alone" in said) == (not method.data)


def test_plan_and_status_tell_and_do_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path / "results"))
    chosen = ("--profile", "smoke", "--experiment", "table1")
    steps = len(experiments.plan("table1", "smoke").steps)
    code, out, _ = run("study", "plan", *chosen)
    assert code == 0 and out.startswith(f"table1 (smoke): 0 of {steps} steps done; to do: ")
    assert "11 train, 2 rate, 9 choose" in out
    code, out, _ = run("study", "status", *chosen)
    assert code == 0 and out == f"table1 (smoke): 0 committed rows; 0 of {steps} steps in this cache\n"
    code, out, _ = run("study", "plan", *chosen, "--system", "Pretrained")
    assert "0 of 2 steps done; to do: 2 decode" in out
    code, out, _ = run("study", "plan", *chosen, "--seed", "0", "--seed", "1")
    some = plans.narrowed(experiments.plan("table1", "smoke"), seeds=[0, 1])
    assert f"of {len(some.steps)} steps" in out and len(some.steps) < steps
    code, out, _ = run("study", "plan", *chosen, "--seed", "7")
    assert f"of {len(experiments.plan('table1', 'smoke', [7]).steps)} steps" in out
    code, out, _ = run("study", "plan", *chosen, "--experiment", "table7")
    keys = {step.key for name in ("table1", "table7") for step in experiments.plan(name, "smoke").steps.values()}
    assert f"together (smoke), shared steps once: 0 of {len(keys)} steps done" in out
    assert "trained models to be kept: 0 GB\ntimes are those of two cores" in out
    assert list(tmp_path.iterdir()) == []


def test_a_plan_counts_with_the_pace_of_this_machine_if_it_is_measured(run, monkeypatch):
    monkeypatch.setattr(pace, "SECONDS", 0.1)
    monkeypatch.setattr(pace, "CLIPS", 2)
    made = experiments.plan("table1", "smoke")
    here = pace.measure(made)
    assert here.machine.startswith("this machine: ") and here.test_clips == made.settings.here.test_clips
    slower = here.model_copy(update={"train_windows_per_second": here.train_windows_per_second / 10})
    once, again = (experiments.plan("table1", "smoke", pace=one).steps for one in (here, slower))
    [name, *_] = [name for name, step in once.items() if step.kind == "train"]
    assert again[name].seconds == pytest.approx(10 * once[name].seconds)
    code, out, _ = run("study", "plan", "--profile", "smoke", "--experiment", "table1", "--measure")
    assert code == 0 and out.endswith(f"times are those of {here.machine}\n")


def test_fetching_tells_what_there_is(run):
    code, out, _ = run("fetch", "models", "smoke")
    assert code == 0 and out == f"smoke: {models.base_model('smoke')}\n"
    code, out, _ = run("fetch", "models", "random-16")
    assert (code, out) == (0, "random-16: 3 layers of 16\n")
    code, out, _ = run("fetch", "corpora", "tones:es")
    assert code == 0 and out.startswith("tones es: 64 clips, ")
