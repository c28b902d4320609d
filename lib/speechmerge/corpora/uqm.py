"""The Ur-Quan Masters: the acted voices of a space game, one for each of 27 species, which serve as domains.

Both packages hold one zip file. A script ``SPECIES.txt`` has blocks ``#(LABEL) file.ogg`` followed by lines of text;
``SPECIES.ts`` gives how long each line but the last is spoken, in milliseconds. Recordings last up to two minutes, so
they are cut between lines, at pauses that really are where the game says.
"""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..audio import SAMPLE_RATE, decode
from ..errors import CorpusError
from .base import Corpus, Item, assign_split

VOICE = "usr/share/games/uqm/content/addons/uqm-0.8.0-voice.uqm"
CONTENT = "usr/share/games/uqm/content/packages/uqm-0.8.0-content.uqm"

IN_DOMAIN = (
    *("starbase", "pkunk", "melnorme", "zoqfotpik", "thraddash"),
    *("orz", "utwig", "druuge", "talkingpet", "spathi"),
)
OUT_OF_DOMAIN = ("safeones", "mycon", "arilou", "slylandro", "yehat")
OTHERS = (
    *("chmmr", "commander", "ilwrath", "kohrah", "probe", "shofixti"),
    *("supox", "syreen", "umgah", "urquan", "vux", "yehatrebels"),
)

HELD_OUT = 0.24  # share for dev, and as much again for test, so that every domain of the study has 60 clips to test
WIDER = {"mycon": 0.58, "safeones": 0.27, "yehat": 0.45, "yehatrebels": 0.45}  # the rebels repeat what yehat says
SHORT = 3  # texts of so few words may stand in other English corpora too: they keep the split those give them

FRAME = 160  # samples: 10 ms
REACH = 45  # frames: a pause must lie within 0.45 s of where the game changes the line
PAUSE = 12  # frames: 0.12 s, longer than the closure of a consonant
DROP = 12.0  # decibels below the loud part of the recording


def read_script(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield label, audio file and lines of every spoken block of a script."""
    for label, file, body in re.findall(r"(?ms)^#\(([^)]*)\)[ \t]*(\S*)[^\n]*\n?(.*?)(?=^#\(|\Z)", text):
        lines = [line.strip() for line in body.splitlines() if line.strip()]
        if file and lines:
            yield label, file, lines


def read_times(text: str) -> dict[str, list[float]]:
    """Read how many seconds each line but the last of a block is spoken, by label."""
    blocks = re.findall(r"(?m)^#\(([^)]*)\)[ \t]*([\d, \t]*)$", text)
    return {label: [int(time) / 1000 for time in re.findall(r"\d+", times)] for label, times in blocks}


def clean(text: str) -> str:
    """Take off signs that are not said, and write a text in capitals as sentences."""
    text = re.sub(r"[*+]|-?<|>-?", "", text).replace("`", "'")
    if text.isupper():
        text = re.sub(r"(^|[.!?] +)(\W*\w)", lambda found: found[0].upper(), text.lower())
        text = re.sub(r"\bi\b", "I", text)
    return " ".join(text.split())


def pauses(samples: np.ndarray, times: list[float]) -> list[int | None]:
    """Return for each stated change of line the sample in the middle of the pause there, or ``None`` without one.

    Args:
        samples: a recording, shape ``[n]``, 16 kHz.
        times: seconds of each line but the last.
    """
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    level = 10 * np.log10((frames**2).mean(axis=1) + 1e-10)
    quiet = np.quantile(level, 0.85) - DROP
    found: list[int | None] = []
    for change in np.cumsum(times):
        middle = round(change * SAMPLE_RATE / FRAME)
        first = max(0, middle - REACH)
        near = level[first : middle + REACH]
        loudest = np.lib.stride_tricks.sliding_window_view(near, PAUSE).max(axis=1) if len(near) >= PAUSE else near[:0]
        best = int(loudest.argmin()) if len(loudest) else 0
        good = len(loudest) and loudest[best] <= quiet
        found.append((first + best + PAUSE // 2) * FRAME if good else None)
    return found


def pieces(samples: np.ndarray, lines: list[str], times: list[float]) -> Iterator[tuple[int, np.ndarray, str]]:
    """Cut a recording at its pauses: yield number of the first line, samples and text of each piece.

    Lines between which there is no clear pause stay together. A recording without a time for each change stays whole.
    """
    cuts = pauses(samples, times) if len(times) == len(lines) - 1 else [None] * (len(lines) - 1)
    start, first = 0, 0
    for number, cut in enumerate([*cuts, len(samples)], 1):
        if cut is not None and cut > start:
            yield first, samples[start:cut], " ".join(lines[first:number])
            start, first = cut, number


def split_of(text: str, domain: str) -> str:
    """Return the split of a piece: a function of its text and, for texts of more than ``SHORT`` words, the domain."""
    return assign_split(text, "en", WIDER.get(domain, HELD_OUT) if len(text.split()) > SHORT else None)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open the zip file of a package.

    Raises:
        CorpusError: it is missing or damaged.
    """
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise CorpusError(f"{path}: not readable as a zip file ({error}); fetch the package again.") from error


def items(language: str, folders: dict[str, Path]) -> Iterator[Item]:
    """Yield the pieces of every recording of every species."""
    voice, content = open_zip(folders["uqm-voice"] / VOICE), open_zip(folders["uqm-content"] / CONTENT)
    sounds = {name.lower(): name for name in voice.namelist()}
    for domain in sorted([*IN_DOMAIN, *OUT_OF_DOMAIN, *OTHERS]):
        inside = f"3dovoice/{domain}/{domain}"
        own = f"{inside}.txt" in sounds  # six species say other words than the text of the silent game
        script = voice.read(f"{inside}.txt") if own else content.read(f"base/comm/{domain}/{domain}.txt")
        times = read_times(voice.read(f"{inside}.ts").decode("utf-8"))
        for label, file, lines in read_script(script.decode("utf-8")):
            sound = sounds.pop(f"3dovoice/{domain}/{file}".lower(), None)  # two blocks may name one recording
            if sound is not None:
                samples = decode(voice.read(sound))
                for number, part, text in pieces(samples, [clean(line) for line in lines], times.get(label, [])):
                    name = f"{domain}/{Path(file).stem}-{number + 1:02d}"
                    split = split_of(text, domain)
                    yield Item(name, part, text, None, domain=domain, speaker=domain, split=split)


CORPUS = Corpus(
    name="uqm",
    title="The Ur-Quan Masters: acted voices of 27 species",
    licences={"en": "CC-BY-NC-SA-2.5"},
    citation="Toys for Bob and The Ur-Quan Masters project: The Ur-Quan Masters, voices, as packaged for Debian.",
    items=items,
    packages=lambda language: ["uqm-content", "uqm-voice"],
    domains=(*IN_DOMAIN, *OUT_OF_DOMAIN, *OTHERS),
    noncommercial=True,
    version=2,  # raise when clips or splits change
)
