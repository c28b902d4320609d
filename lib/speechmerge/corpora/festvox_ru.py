"""The Russian voice of the Festival synthesiser: the sentences one man read for it, cut from novels.

``etc/txt.done.data`` holds lines ``( id "text" )``, where ``+`` marks a stressed vowel; ``wav/id.wav`` is the recording
(16 kHz). There is no English, so the corpus serves transcription only.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import CorpusError
from .base import Corpus, Item

PACKAGE = "festvox-ru"
VOICE = "usr/share/festival/voices/russian/msu_ru_nsh_clunits"

# Recordings that say something else than the text, found by reading the text beside what Whisper hears.
MISREAD = ""


def read_sentences(path: Path) -> dict[str, str]:
    """Read the sentences by id, without stress marks.

    Raises:
        CorpusError: the file is missing or not UTF-8, or a line has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: the transcripts cannot be read ({error}); fetch the package again.") from error
    sentences = {}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r'\(\s*(\S+)\s+"(.*)"\s*\)\s*', line)
        if match is None:
            raise CorpusError(f"{path}, line {number}: found {line!r}, expected '( id \"text\" )'; fetch it again.")
        sentences[match[1]] = " ".join(match[2].replace("+", "").split())
    return sentences


def items(language: str, folders: dict[str, Path]) -> Iterator[Item]:
    """Yield every recording with its sentence."""
    voice = folders[PACKAGE] / VOICE
    sentences = read_sentences(voice / "etc/txt.done.data")
    for audio in voice.glob("wav/*.wav"):
        yield Item(
            id=audio.stem,
            audio=audio,
            text=sentences.get(audio.stem, ""),
            translation=None,
            domain="novels",
            speaker="nsh",
            drop="recording differs from the script" if audio.stem in MISREAD.split() else None,
        )


CORPUS = Corpus(
    name="festvox_ru",
    title="Festival's Russian voice: sentences from novels",
    licences={"ru": "MIT-Festival"},
    citation="Nickolay V. Shmyrev: Russian language support for Festival, as packaged for Debian.",
    items=items,
    packages=lambda language: [PACKAGE],
    version=2,  # raise when clips or splits change
)
