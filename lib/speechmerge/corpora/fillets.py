"""Fish Fillets: the dialogues of a puzzle game, acted by two fish and the creatures they meet.

Scripts ``script/LEVEL/*dialogs_LANG.lua`` hold ``dialogId("id", "font", "English")`` and then ``dialogStr("text")``;
the recording is ``sound/LEVEL/**/id.ogg``. The font of the subtitle tells who speaks.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import CorpusError
from .base import Corpus, Item

SCRIPTS = "fillets-ng-data"
GAME = "usr/share/games/fillets-ng"
QUOTED = r'"((?:[^"\\]|\\.)*)"'
LINE = re.compile(rf"dialog(Id|Str)\(\s*{QUOTED}(?:,\s*{QUOTED},\s*{QUOTED})?\s*\)")


EMPTY = {"nl": "elevator1/zd1-m-cesta gems/zav-v-sto"}  # files of zero length
# Recordings that are cut off, say something else than the script or hold no word, found by reading the script beside
# what Whisper hears.
MISREAD = {
    "nl": "computer/poc-v-pssst gems/zav-v-restart wreck/pot-m-dovn",
    "cs": """
        columns/sl-v-feidios computer/poc-v-pssst elevator2/zd2-x-krik0 fdto/semafor-v share/border/sp-shout_small_03
        viking2/dr-4-hmmm viking2/dr-6-checheche viking2/dr-8-aaa
    """,
}


def unescape(text: str) -> str:
    """Undo the escapes of a Lua string and squeeze spaces; an escape that hides no known sign stays visible."""
    return " ".join(re.sub(r"\\([\"'n])", lambda found: " " if found[1] == "n" else found[1], text).split())


def read_script(path: Path) -> dict[str, tuple[str, str, str]]:
    """Read a script: id to (speaker, English, text); the text is empty where there is none.

    Raises:
        CorpusError: the file is not UTF-8, or a text stands before any id.
    """
    try:
        script = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 ({error}); fetch the package again.") from error
    lines: dict[str, tuple[str, str, str]] = {}
    name = None
    for kind, first, font, english in LINE.findall(re.sub(r"(?m)^\s*--.*$", "", script)):
        if kind == "Id":
            name = first
            lines[name] = (font.removeprefix("font_"), unescape(english), "")
        elif name is None:
            raise CorpusError(f"{path}: the text {first!r} stands before any dialogId; fetch the package again.")
        else:
            lines[name] = (*lines[name][:2], unescape(first))
    return lines


def problem(name: str, text: str, language: str) -> str | None:
    """Say why a recording cannot be used although it has a text, or return ``None``."""
    if name in EMPTY.get(language, "").split():
        return "empty recording"
    if name in MISREAD.get(language, "").split():
        return "recording differs from the script"
    if re.search(r"%\d", text):  # "C%1.": a coordinate or a number that the game fills in
        return "text with a gap for a number"
    return None


def items(language: str, folders: dict[str, Path]) -> Iterator[Item]:
    """Yield every recording of a language with its line in the script."""
    scripts, sounds = folders[SCRIPTS] / GAME / "script", folders[f"{SCRIPTS}-{language}"] / GAME / "sound"
    levels: dict[str, dict[str, tuple[str, str, str]]] = {}
    for path in sorted(scripts.glob(f"*/*dialogs_{language}.lua")):
        levels.setdefault(path.parent.name, {}).update(read_script(path))
    for audio in sounds.rglob("*.ogg"):
        level, *between, _ = audio.relative_to(sounds).parts
        speaker, english, text = levels.get(level, {}).get(audio.stem, ("", "", ""))
        name = "/".join([level, *(part for part in between if part != language), audio.stem])
        yield Item(
            id=name,
            audio=audio,
            text=text,
            translation=english or None,
            domain="dialogue",
            speaker=f"{speaker or 'unknown'}-{language}",
            drop=problem(name, text, language),
        )


CORPUS = Corpus(
    name="fillets",
    title="Fish Fillets: acted dialogues of a puzzle game",
    licences=dict.fromkeys(("nl", "cs"), "GPL-2.0-only"),
    citation="ALTAR interactive, Ivo Danihelka, Pavel Danihelka and others: Fish Fillets NG, as packaged for Debian.",
    items=items,
    packages=lambda language: [SCRIPTS, f"{SCRIPTS}-{language}"],
    version=2,  # raise when clips or splits change
)
