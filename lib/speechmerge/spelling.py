"""Numbers in words: whether a speech recogniser writes "13" or "tredici" is no error of hearing.

Numerals become words as ``num2words`` has them, before anything is normalised: whole numbers (years too) as cardinals,
decimals, and ordinals where a suffix or sign tells them. Forms are the ones of a dictionary, so "9ª" and "novena"
differ still. Numbers with leading zeros or of many digits are read out digit by digit.

Whisper's normaliser writes English numbers in digits on both sides, so English is left as it is. ``num2words`` knows no
Bulgarian or Greek: there, as in all languages that are not listed here, digits are compared as they stand.
"""

import re
from functools import cache, lru_cache
from importlib.metadata import version

from num2words import num2words

ORDINALS = {  # what follows a numeral that is an ordinal, besides º and ª; None: num2words has no ordinals
    "ca": "er|r|on|n|rt|t|è|a",
    "cs": None,
    "es": "er|o|a",
    "fr": "er|re|ère|e|ème|eme|nd|nde",
    "it": "o|a",
    "nl": "ste|de|e",
    "ro": "-?lea",
    "ru": "-[а-я]{1,3}",
}
LONGEST = 12  # digits of a number that is read as one


def spell(text: str, language: str) -> str:
    """Write the numerals of a text in words; in languages not in :data:`ORDINALS` nothing changes."""
    if language not in ORDINALS:
        return text
    return _numerals(language).sub(lambda found: f" {_words(language, **found.groupdict(''))} ", text)


def procedure(language: str) -> str:
    """Say in a few words what :func:`spell` does in a language."""
    if language in ORDINALS:
        return f"numbers in words (num2words {version('num2words')})"
    return "numbers in digits" if language == "en" else "digits as they stand"


@cache
def _numerals(language: str) -> re.Pattern[str]:
    """Return what a numeral looks like: thousands may be parted by a point, a comma or a narrow space, zeros by any."""
    whole = r"(?P<whole>[1-9][0-9]{0,2}(?:[.,\u00a0\u202f][0-9]{3}| 000)+(?![0-9])|[0-9]+)"
    suffix = rf"\.?[ºª]|(?:{ORDINALS[language]})(?!\w)" if ORDINALS[language] else "(?!)"
    return re.compile(rf"{whole}(?:[.,](?P<part>[0-9]+)|(?P<ordinal>{suffix}))?")


@lru_cache(maxsize=4096)
def _words(language: str, whole: str, part: str, ordinal: str) -> str:
    """Return a numeral in words, from its digits before and after the decimal point."""
    whole = re.sub(r"\D", "", whole)
    if len(whole + part) > LONGEST or (whole[0] == "0" and len(whole) > 1):
        return " ".join(num2words(int(digit), lang=language) for digit in whole + part)
    if part:
        return num2words(float(f"{whole}.{part}"), lang=language)
    found = num2words(int(whole), lang=language, to="ordinal" if ordinal else "cardinal")
    return found.removeprefix("al ")  # Romanian's "al 9-lea" holds it already
