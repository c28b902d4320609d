"""Languages as people write them: ``es``, ``es-ES``, ``es_419``, ``Spanish``."""

import functools

from ...errors import CorpusError, nearest

# Codes that Whisper writes otherwise, by the part before a region.
OTHERWISE = {"cmn": "zh", "iw": "he", "jv": "jw", "nb": "no", "fil": "tl", "in": "id", "ji": "yi", "ckb": "ku"}


def code(name: str) -> str:
    """Return Whisper's code of a language, or the name as it is if Whisper knows none."""
    short = name.strip().lower().replace("_", "-").partition("-")[0]
    short = OTHERWISE.get(short, short)
    if 2 <= len(short) <= 3:
        return short
    return _names().get(" ".join(name.lower().split()), _names().get(short, name))


def checked(language: str) -> str:
    """Return Whisper's code of a language that is asked for.

    Raises:
        CorpusError: Whisper does not know it.
    """
    from .. import registry

    found = code(language)
    if any(found in corpus.languages for corpus in registry().values()):
        return found
    known = set(_names().values())
    if found not in known:
        hint = nearest(language, _names()) if len(language) > 3 else " Known: " + ", ".join(sorted(known)) + "."
        raise CorpusError(f"There is no language {language!r}; expected Whisper's code, such as 'es'.{hint}")
    return found


@functools.cache
def _names() -> dict[str, str]:
    """Return Whisper's code of each English name; the import takes a second, so only those who ask wait."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    return dict(TO_LANGUAGE_CODE)
