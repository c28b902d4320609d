"""The command line: help with examples, and mistakes that end as one sentence."""

import shutil
import sys

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from speechmerge import cli, corpora, experiments, models
from speechmerge.audio import SAMPLE_RATE


def leaves(group=cli.cli, path=()):
    """Yield every command with the words that call it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        yield (*path, name), command


COMMANDS = dict(leaves())


@pytest.fixture
def run(monkeypatch, capsys):
    """Call ``speechmerge`` as a shell would; return exit code, output and messages."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["speechmerge", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return call


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Two folders that differ a little from the smoke base."""
    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp("experts") / f"e{seed}"
        shutil.copytree(models.base_model("smoke"), folder)
        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(folder / "model.safetensors")
        for name, values in tensors.items():
            if "embed_positions" not in name:
                tensors[name] = values + 1e-3 * torch.randn(values.shape, generator=generator)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return folders


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
        (["fetch", "models", "smoek"], "neither a folder nor the name of a base model. Did you mean 'smoke'?"),
        (["fetch", "corpora", "tone"], "There is no corpus 'tone'. Did you mean 'tones'?"),
        (["fetch", "corpora", "tones:fr"], "Corpus 'tones' has no language 'fr'; it has es, it."),
        (["train", "x", "--source", "tones"], "'tones' is not corpus:language[:asr|st], for example asterisk:es:asr."),
        (["train", "x", "--source", "tones:es", "--base", "smoke", "--learning-rate", "-1"], "learning_rate is -1.0"),
        (["train", "x"], "Missing option '--source'"),
        (["train", "x", "--source", "tones:es", "--epochs", "0"], "0 is not in the range x>=1"),
        (["merge", "task_arithmetic", "x"], "Missing argument 'EXPERTS...'"),
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
    assert "Traceback" not in err and len(err.strip().splitlines()) <= 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lorss"], "There is no merge method 'lorss'. Did you mean 'lors'?"),
        (["lors", "--set", "densty=0.4"], "lors has no parameter 'densty'. Did you mean 'density'?"),
        (["lors", "--set", "density=1.4"], "lors: density is 1.4, outside ["),
        (["lors", "--set", "density=much"], "lors: density is 'much', expected"),
        (["lors", "--set", "density=[0.4]"], "density has 1 values for 2 experts"),
        (["lors", "--set", "density"], "--set 'density' is not NAME=VALUE, for example --set density=0.4."),
        (["lors", "--scaling", "much"], "'much' is not a valid float"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_a_merge_ends_as_a_sentence_and_writes_nothing(run, experts, tmp_path, words, message):
    method, *settings = words
    code, _, err = run("merge", method, tmp_path / "merged", *experts, "--base", "smoke", *settings)
    assert code != 0 and message in " ".join(err.split()) and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_expected_error_is_exit_code_one_and_a_wrong_call_is_two(run):
    assert run("methods", "show", "loors")[0] == 1
    assert run("methods", "shw", "lors")[0] == 2
    assert run("--version")[0] == 0


def test_a_bug_is_not_dressed_as_a_mistake(monkeypatch):
    """What is not one of our errors keeps its traceback."""
    monkeypatch.setattr(sys, "argv", ["speechmerge", "methods", "list"])
    monkeypatch.setattr("speechmerge.methods.registry", lambda: {}["bug"])
    with pytest.raises(KeyError):
        cli.main()


def test_a_merge_is_a_folder_that_transformers_loads_and_that_generates(run, experts, tmp_path):
    words = ("merge", "lors", tmp_path / "merged", *experts, "--base", "smoke", "--scaling", "0.5")
    code, out, _ = run(*words, "--set", "density=0.4", "--set", "rank_ratio=[0.1, 0.2]")
    assert (code, out) == (0, f"{tmp_path / 'merged'}: lors of 2 experts\n")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "merged")
    clip = corpora.load("tones", "it", "test")[0]
    extractor = models.load_feature_extractor(tmp_path / "merged")
    features = extractor(clip.samples(), sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    assert model.generate(features, language="it", task="transcribe", max_new_tokens=4).shape == (1, 4)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "density: 0.4" in card and "lambda: 0.5" in card


def test_an_existing_folder_is_replaced_only_when_asked(run, experts, tmp_path):
    words = ("merge", "weight_average", tmp_path / "merged", *experts, "--base", "smoke")
    assert run(*words)[0] == 0
    before = (tmp_path / "merged" / "model.safetensors").read_bytes()
    other = (*words[:3], experts[0], "--base", "smoke")
    code, _, err = run(*other)
    assert code == 1 and "already exists; choose another output or pass --overwrite" in " ".join(err.split())
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == before
    assert run(*other, "--overwrite")[0] == 0
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("density=0.4", ("density", 0.4)),
        ("density=[0.1, 0.2]", ("density", [0.1, 0.2])),
        ("rank=3", ("rank", 3)),
        ("rescale=true", ("rescale", True)),
        ("scope=model", ("scope", "model")),
        ("text=a=b", ("text", "a=b")),
    ],
)
def test_settings_are_read_as_what_they_are(text, setting):
    assert cli._setting(text) == setting and type(cli._setting(text)[1]) is type(setting[1])


def test_methods_are_listed_and_shown(run):
    code, out, _ = run("methods", "list")
    assert code == 0 and any(line.startswith("task_arithmetic ") for line in out.splitlines())
    code, out, _ = run("methods", "show", "lors")
    assert code == 0 and "density:" in out and "rank_ratio:" in out and "2502.17380" in out


def test_plan_and_status_tell_and_do_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(tmp_path / "results"))
    chosen = ("--profile", "smoke", "--experiment", "table1")
    steps = len(experiments.plan("table1", "smoke").steps)
    code, out, _ = run("study", "plan", *chosen)
    assert code == 0 and out.startswith(f"table1 (smoke): 0 of {steps} steps done; to do: 6 train, 3 choose")
    code, out, _ = run("study", "status", *chosen)
    assert code == 0 and out == f"table1 (smoke): 0 committed rows; 0 of {steps} steps in this cache\n"
    code, out, _ = run("study", "plan", *chosen, "--system", "Pretrained")
    assert "0 of 1 steps done; to do: 1 decode" in out
    code, out, _ = run("study", "plan", *chosen, "--seed", "0", "--seed", "1")
    assert f"of {len(experiments.plan('table1', 'smoke', [0, 1]).steps)} steps" in out
    assert list(tmp_path.iterdir()) == []


def test_fetching_tells_what_there_is(run):
    code, out, _ = run("fetch", "models", "smoke")
    assert code == 0 and out == f"smoke: {models.base_model('smoke')}\n"
    code, out, _ = run("fetch", "corpora", "tones:es")
    assert code == 0 and out.startswith("tones es: 64 clips, ")
