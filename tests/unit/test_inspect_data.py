"""``speechmerge inspect-data``: what is there, what is left out and why."""

import json
import subprocess
import sys
from dataclasses import replace

import own_speech
import pytest
from cli_calls import Caller
from own_speech import recordings, sound


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def call(monkeypatch, capsys):
    return Caller(monkeypatch, capsys)


def test_inspect_data_tells_what_is_there_and_what_is_not(call, tmp_path):
    some = recordings()
    some[3] = replace(some[3], text="[ruido]")
    some[4] = replace(some[4], samples=sound(300, 0.2))
    where = own_speech.audiofolder(tmp_path / "speech", some)
    code, out, _ = call("inspect-data", f"{where}:es")
    assert code == 0
    for part in ("audio folder with metadata", "12 clips", "2 left out", "train       6 clips", "those of the source"):
        assert part in out
    assert f"1 empty text (first: {some[3].name}: [ruido])" in out
    code, out, _ = call("inspect-data", where, "--dropped", "--json")
    told = json.loads(out)
    assert [one["id"] for one in told["dropped_clips"]] == [some[3].name, some[4].name]
    assert told["languages"][""]["splits"]["test"]["clips"] == 3
    assert sum(one["clips"] for one in told["reasons"]) + told["clips"] == len(some)


def test_inspect_data_remarks_on_capitals(call, tmp_path):
    some = [replace(one, text=one.text.upper()) for one in recordings()]
    _, out, _ = call("inspect-data", f"{own_speech.librispeech(tmp_path / 'libri', some)}:es")
    assert "all texts are in capitals" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere:es",), "nowhere: there is no such file or folder"),
        (("hub:speech:es",), "'hub:speech' names no data set; expected hub:OWNER/NAME"),
        (("{folder}:spanish",), "speech is there, but 'spanish' is no code of a language; write one such as es or it."),
        (("{folder}:xx",), "There is no language 'xx'; expected Whisper's code"),
        (("tones:es",), "'tones' is a corpus of the registry"),
    ],
)
def test_inspect_data_refuses_in_a_sentence(call, tmp_path, words, message):
    folder = own_speech.audiofolder(tmp_path / "speech", recordings())
    code, out, err = call("inspect-data", *(word.format(folder=folder) for word in words))
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_the_command_line_does_not_wait_for_datasets():
    code = "import sys, speechmerge.cli, speechmerge.corpora; print('datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
