"""UQM: cutting recordings at pauses between lines, texts, splits and the zip files of the packages."""

import io
import zipfile

import numpy as np
import pytest
import soundfile
from corpus_trees import sound

from speechmerge import corpora
from speechmerge.audio import SAMPLE_RATE
from speechmerge.corpora import uqm
from speechmerge.errors import CorpusError


def speech(*parts):
    """Tones of the given seconds; a negative number is a pause of so many seconds."""
    noise = np.random.default_rng(1)
    made = [sound(440, seconds=s) if s > 0 else 1e-4 * noise.standard_normal(round(-s * SAMPLE_RATE)) for s in parts]
    return np.concatenate(made).astype(np.float32)


def test_lines_are_cut_in_the_pause_that_is_near_the_stated_time():
    found = list(uqm.pieces(speech(1.0, -0.3, 2.0, -0.3, 1.5), ["One.", "Two.", "Three."], [1.3, 2.2]))
    assert [(first, text) for first, _, text in found] == [(0, "One."), (1, "Two."), (2, "Three.")]
    assert [len(part) / SAMPLE_RATE for _, part, _ in found] == pytest.approx([1.15, 2.30, 1.65], abs=0.08)
    assert sum(len(part) for _, part, _ in found) == len(speech(1.0, -0.3, 2.0, -0.3, 1.5)), "no sample is lost"


def test_lines_without_a_pause_stay_together():
    samples = speech(3.0, -0.3, 1.5)
    found = list(uqm.pieces(samples, ["One.", "Two.", "Three."], [1.3, 1.9]))
    assert [text for _, _, text in found] == ["One. Two.", "Three."]


@pytest.mark.parametrize("times", [[], [1.3], [1.3, 2.0, 1.0], [90.0, 2.0]])
def test_wrong_times_leave_the_recording_whole(times):
    samples = speech(1.0, -0.3, 2.0, -0.3, 1.5)
    assert [len(part) for _, part, _ in uqm.pieces(samples, ["One.", "Two.", "Three."], times)] == [len(samples)]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("You are a *camper*, `yes'?", "You are a camper, 'yes'?"),
        ("-<GO KILL YOURSELF!>-", "Go kill yourself!"),
        ("WHO ARE YOU? I AM PROBE 2418-B.", "Who are you? I am probe 2418-b."),
        ("We are the Ur-Quan", "We are the Ur-Quan"),
    ],
)
def test_signs_and_capitals(written, meant):
    assert uqm.clean(written) == meant


def test_short_texts_keep_the_split_that_other_corpora_give_them():
    texts = [f"{a} {b}" for a in ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot") for b in range(60)]
    assert [uqm.split_of(t, "yehat") for t in texts] == [corpora.assign_split(t, "en") for t in texts]
    longer = [f"say {text} now" for text in texts]
    assert [uqm.split_of(t, "yehat") for t in longer].count("test") / len(longer) == pytest.approx(0.45, abs=0.08)
    assert [uqm.split_of(t, "orz") for t in longer].count("test") / len(longer) == pytest.approx(0.24, abs=0.06)


def ogg(samples):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="OGG", subtype="VORBIS")
    return buffer.getvalue()


@pytest.fixture
def game(packages):
    """Every species says nothing, but for two: one with its own script in the voice package."""
    voice, content = packages.root / "uqm-voice" / uqm.VOICE, packages.root / "uqm-content" / uqm.CONTENT
    for path in (voice, content):
        path.parent.mkdir(parents=True)
    with zipfile.ZipFile(voice, "w") as sounds, zipfile.ZipFile(content, "w") as texts:
        for name in uqm.CORPUS.domains:
            sounds.writestr(f"3dovoice/{name}/{name}.ts", "#(HELLO) 1200\n#(name_1) \n" if name == "pkunk" else "")
            if name != "pkunk":
                texts.writestr(f"base/comm/{name}/{name}.txt", "#(nothing)\nNothing is said\n")
        script = (
            "#(HELLO)\tPkunk-000.ogg\nWe are Pkunk.\nPkunk we are.\n\n#(name_1)\nA name\n#(OUT)\tpkunk-009.ogg\nLost.\n"
        )
        texts.writestr("base/comm/pkunk/pkunk.txt", script)
        sounds.writestr("3dovoice/pkunk/pkunk-000.ogg", ogg(speech(1.0, -0.4, 1.2)))
        own = "#(A) starbase-000.ogg\nGreetings, Captain.\n#(B)\n. Yes\n#(A2) starbase-000.ogg\nGreetings, Captain.\n"
        sounds.writestr("3dovoice/starbase/starbase.txt", own)
        sounds.writestr("3dovoice/starbase/starbase-000.ogg", ogg(sound(700, seconds=1.5)))
    return packages


def test_species_become_domains(game):
    clips = corpora.load("uqm", "en", accept_noncommercial=True)
    assert [(clip.id, clip.domain, clip.text) for clip in clips] == [
        ("pkunk/Pkunk-000-01", "pkunk", "We are Pkunk."),
        ("pkunk/Pkunk-000-02", "pkunk", "Pkunk we are."),
        ("starbase/starbase-000-01", "starbase", "Greetings, Captain."),
    ]
    assert [clip.id for clip in corpora.load("uqm", "en", domain="starbase")] == ["starbase/starbase-000-01"]
    assert corpora.skipped(uqm.CORPUS) is None, "what is built needs no consent again"


def test_a_damaged_package_is_a_sentence(game):
    path = game.root / "uqm-voice" / uqm.VOICE
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CorpusError, match=r"0-voice\.uqm: not readable as a zip file .* fetch the package again"):
        corpora.load("uqm", "en", accept_noncommercial=True)
