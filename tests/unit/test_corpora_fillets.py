"""Fillets: the join of dialogues and recordings, where the scripts differ in form."""

import pytest
import soundfile
from corpus_trees import sound

from speechmerge import corpora
from speechmerge.corpora import fillets
from speechmerge.errors import CorpusError

GAME = "usr/share/games/fillets-ng"
SCRIPT = r"""
-- dialogId("old", "font_big", "A line nobody says")
dialogId("let-m-divna", "font_small", "What kind of strange ship is that?")
dialogStr("Co je to za \"divnou\" loď?")

dialogId("rush", "font_big",
  "See?")
dialogStr(
"Vidíš?")

dialogId("untold", "font_big", "Nothing to say here.")
dialogId("b1-c", "font_white", "C%1.")
dialogStr("C%1.")
dialogId("pct", "font_white", "In C:\\\\WINDOWS we meet.")
dialogStr("V C:\\\\WINDOWS se scházíme.")
"""


def recording(root, name, hertz):
    path = root / f"fillets-ng-data-cs/{GAME}/sound/{name}.ogg"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound(hertz, rate=22_050), 22_050, format="OGG", subtype="VORBIS")


@pytest.fixture
def game(packages):
    scripts = packages.root / f"fillets-ng-data/{GAME}/script"
    for name, text in {
        "airplane/dialogs_cs.lua": SCRIPT,
        "airplane/dialogs_nl.lua": 'dialogId("rush", "font_big", "See?")\ndialogStr("Zie je?")',
        "share/border_dialogs_cs.lua": 'dialogId("cil", "font_small", "A job to do.")\ndialogStr("Máme práci.")',
    }.items():
        (scripts / name).parent.mkdir(parents=True, exist_ok=True)
        (scripts / name).write_text(text, encoding="utf-8")
    names = ["let-m-divna", "rush", "untold", "b1-c", "pct", "nowhere", "old"]
    for number, name in enumerate(names):
        recording(packages.root, f"airplane/cs/{name}", 300 + 50 * number)
    recording(packages.root, "share/border/cs/cil", 900)
    return packages


def test_dialogues_join_by_level_and_id(game):
    clips = {clip.id: clip for clip in corpora.load("fillets", "cs")}
    assert {name: (clip.text, clip.translation) for name, clip in clips.items()} == {
        "airplane/let-m-divna": ('Co je to za "divnou" loď?', "What kind of strange ship is that?"),
        "airplane/rush": ("Vidíš?", "See?"),
        "share/border/cil": ("Máme práci.", "A job to do."),
    }
    assert clips["airplane/rush"].speaker == "big-cs"
    assert clips["share/border/cil"].speaker == "small-cs"
    assert corpora.stored(fillets.CORPUS, "cs")["dropped"] == {
        "no transcript": 3,
        "symbol that is read as a word": 1,
        "text with a gap for a number": 1,
    }


def test_a_script_that_starts_with_a_text_is_refused(game):
    path = game.root / f"fillets-ng-data/{GAME}/script/airplane/dialogs_cs.lua"
    path.write_text('dialogStr("Bez jména.")', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"dialogs_cs\.lua: the text 'Bez jména\.' stands before any dialogId"):
        corpora.load("fillets", "cs")


def test_a_script_in_another_encoding_is_refused(game):
    path = game.root / f"fillets-ng-data/{GAME}/script/airplane/dialogs_cs.lua"
    path.write_bytes('dialogId("x", "font_big", "Ship")\ndialogStr("Loď")'.encode("cp1250"))
    with pytest.raises(CorpusError, match=r"dialogs_cs\.lua: not UTF-8"):
        corpora.load("fillets", "cs")
