"""Whisper's own text normalisers, and the version string that rows carry so that scores are never mixed.

The normalisers are imported when they are used: who only reads rows need not wait for them.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import version

NORMALISER = f"whisper (transformers {version('transformers')})"


@cache
def _basic() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return BasicTextNormalizer()


@cache
def _english() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})


def normalise(text: str, language: str) -> str:
    """Normalise a reference or hypothesis before words are compared.

    English goes through Whisper's English normaliser (numbers, contractions; without the British-American spelling
    table, which is a property of a tokenizer folder and would make scores depend on it; a lone point, which it leaves
    of an ellipsis, is no word), every other language through the basic one: lower case, symbols and bracketed remarks
    removed, diacritics kept.

    Args:
        text: one utterance.
        language: Whisper's language code, e.g. ``"es"``; translations into English are ``"en"``.
    """
    words = (_english() if language == "en" else _basic())(text).split()
    return " ".join(word for word in words if word != ".")
