"""Which recordings are kept: the rules of :mod:`..building` for speech whose makers are not known.

A reason is a kind and, after a colon, what was found. Limits are wide: they find texts that stand beside another
recording, not slow or fast speakers.
"""

import re
import unicodedata

import numpy as np

from ...audio import SAMPLE_RATE
from ..base import LONGEST, SHORTEST, transcript_key
from ..building import SILENT

# Letters a second that nobody speaks: fast speech has 20 of an alphabet, 12 kana, or 9 syllables of Hangul or Han.
FASTEST, FASTEST_KANA, FASTEST_SYLLABLES = 32.0, 22.0, 16.0
SLOWEST, PAUSE = 1.0, 10.0  # letters a second, and seconds of silence: what lasts longer says more than its text
DIGIT = 4  # letters that a digit stands for in slow speech; in fast speech it is one
SYLLABLES = ((0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))  # Han and Hangul in Unicode
REMARK = re.compile(r"\[[^\]]*\]|\([^)]*\)|<[^>]*>|\{[^}]*\}")


def text_problem(text: str | None) -> str | None:
    """Say why a text is no transcript, or return ``None``, also of an unknown one; remarks in brackets do not count."""
    if text is None:
        return None
    if "\ufffd" in text:
        return f"damaged characters: {text}"
    if not transcript_key(REMARK.sub(" ", text)):
        return f"empty text: {text}" if text else "empty text"
    return None


def audio_problem(samples: np.ndarray, text: str | None) -> str | None:
    """Say why a recording (float32, shape ``[n]``, 16 kHz) is not kept, or return ``None``; ``text`` may be unknown."""
    seconds = len(samples) / SAMPLE_RATE
    if seconds < SHORTEST:
        return f"shorter than {SHORTEST} s: {seconds:.2f} s"
    if seconds > LONGEST:
        return f"longer than {LONGEST:g} s: {seconds:.1f} s"
    if np.abs(samples).max() < SILENT:
        return "silent"
    if text is None:
        return None
    shortest, longest = speaking_time(text)
    if seconds < shortest:
        return f"text too long for its recording: {len(text)} characters in {seconds:.1f} s"
    if seconds > longest:
        return f"text too short for its recording: {len(text)} characters in {seconds:.1f} s"
    return None


def speaking_time(text: str) -> tuple[float, float]:
    """Return how many seconds a text takes at least and at most, whatever its script."""
    least = letters = 0.0
    for character in unicodedata.normalize("NFC", REMARK.sub(" ", text)):
        category = unicodedata.category(character)
        if category[0] not in "LN":
            continue
        syllable = is_syllable(character)
        kana = "\u3041" <= character <= "\u30ff"
        least += 1 / (FASTEST_SYLLABLES if syllable else FASTEST_KANA if kana else FASTEST)
        letters += 2 if syllable else DIGIT if category[0] == "N" else 1
    return least, PAUSE + letters / SLOWEST


def is_syllable(character: str) -> bool:
    """Tell whether a character stands for a syllable or word: Han and Hangul."""
    return any(low <= ord(character) <= high for low, high in SYLLABLES)
