"""Tux Paint stamps: short descriptions of pictures read by volunteers, with translations into many languages.

``X.txt`` holds English in its first line and ``LANG.utf8=text`` below; ``X_desc_LANG.ogg`` is the recording.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import CorpusError
from .base import Corpus, Item

PACKAGE = "tuxpaint-stamps-default"
LANGUAGES = ("ca", "es", "fr", "ru", "ro", "bg", "el", "da")

# Recordings that say something else than the text, found by reading the text beside what Whisper hears. Most are older
# than the text; one Spanish reindeer is a pepper mill.
MISREAD = {
    "ca": """
        animals/mammals/bovines/indian_blackbuck animals/mammals/wildboar military/ammunition/old_naval_shell
        plants/flowers/marigold vehicles/locomotive/cartoon/tanker
    """,
    "es": """
        household/electronics/DSLR_Camera household/electronics/camera household/electronics/digitalcamera
        household/electronics/inkjet_printer household/electronics/laptop household/kettle household/toilet
        medical/bandage_adhesive military/final-roll-call seasonal/christmas/rudolf_reindeer
        seasonal/christmas/xmas_tp_bulb sports/cartoon/football_helmet_front symbols/shapes/scream_balloon
        symbols/shapes/speech_balloon symbols/shapes/thought_balloon town/houses/cartoon/pinkhome
        town/roadsigns/roundabout town/roadsigns/t-junction vehicles/iso_lorry4
    """,
    "ru": "household/electronics/laptop household/electronics/monitor seasonal/hanukkah/dreydl-hay",
    "el": """
        animals/mammals/rhino_black food/vegetables/broccoli food/vegetables/corn food/vegetables/garlics
        household/dishes/glass household/tools/paintbrush_large town/houses/cartoon/tower_flag_red
        town/houses/cartoon/tower_round_flag
    """,
}


def read_texts(path: Path) -> dict[str, str]:
    """Read a stamp's descriptions: language code to text, ``en`` being the first line.

    Raises:
        CorpusError: the file is not UTF-8.
    """
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 ({error}); fetch the package again.") from error
    texts = {"en": " ".join(first.split())}
    for line in lines:
        match = re.match(r"([A-Za-z_@]+)(?:\.utf8)?=(.*)", line)
        if match:
            texts[match[1]] = " ".join(match[2].split())
    return texts


def problem(name: str, language: str) -> str | None:
    """Say why a recording cannot be used although it has a text, or return ``None``."""
    if name.startswith("symbols/alphabets/") and "/asl/" not in name:
        return "name of a single letter"  # "La lettre d." is recorded as "d" alone, or as "lower-case d"
    if name in MISREAD.get(language, "").split():
        return "recording differs from the script"
    return None


def items(language: str, folders: dict[str, Path]) -> Iterator[Item]:
    """Yield every recording of a language with its description and the English one."""
    stamps = folders[PACKAGE] / "usr/share/tuxpaint/stamps"
    for audio in stamps.rglob(f"*_desc_{language}.ogg"):
        script = audio.with_name(audio.name.replace(f"_desc_{language}.ogg", ".txt"))
        texts = read_texts(script) if script.is_file() else {}
        name = audio.relative_to(stamps).as_posix().removesuffix(f"_desc_{language}.ogg")
        yield Item(
            id=name,
            audio=audio,
            text=texts.get(language, ""),
            translation=texts.get("en"),
            domain="descriptions",
            speaker=f"tuxpaint-{language}",
            drop=problem(name, language),
        )


CORPUS = Corpus(
    name="stamps",
    title="Tux Paint stamps: descriptions of pictures",
    licences=dict.fromkeys(LANGUAGES, "GPL-2.0-or-later"),
    citation="Bill Kendrick and contributors: Tux Paint Stamps, as packaged for Debian.",
    items=items,
    packages=lambda language: [PACKAGE],
    characters_per_second=dict.fromkeys(LANGUAGES, (4.0, 25.0))
    | {"es": (5.0, 18.5), "ru": (4.0, 18.0), "el": (4.0, 16.5)},
    version=4,  # raise when clips or splits change
)
