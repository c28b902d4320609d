"""What is compared when words are counted: Whisper's own normalisers and procedure (arXiv 2212.04356, appendix C).

Languages written without spaces between words are compared letter by letter: their word error rate is a character error
rate. We deviate where the published code cuts words that are whole, or counts what is none:

- combining marks that do not compose with their letter stay in the word (vowel signs, tones), or are dropped where they
  are no letters (stress marks, the points of Arabic and Hebrew); the published code puts a space in their place;
- whatever holds no letter or digit is no word (the published code leaves points of the one-character ellipsis);
- characters nobody sees are dropped, curly apostrophes are apostrophes, and Turkish and Azerbaijani have their own i;
- the British-American spelling table is left out: it belongs to a tokenizer folder, and scores would depend on it.
"""

import unicodedata
from functools import cache, partial
from importlib.metadata import version

import regex
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

NORMALISER = f"whisper (transformers {version('transformers')})"
LETTER_BY_LETTER = ("zh", "ja", "th", "lo", "my", "yue")  # the paper's five; Cantonese, written as Chinese, came later
WITHOUT_SPACES = (*LETTER_BY_LETTER, "km", "bo")  # in the last two Whisper's authors count words, whatever those are

_OWN_CASES = dict.fromkeys(("tr", "az"), str.maketrans("Iİ", "ıi"))
_MARKS_ARE_LETTERS = ("yo", "ln", "yi")  # although their scripts hold none elsewhere
_SPELLED = str.maketrans({"’": "'", "ʼ": "'", "\u200b": " "})  # the last is a space between words that nobody sees
_UNSEEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}\u0640]")  # soft hyphens, joiners; Arabic's long strokes
_APART = regex.compile(r"(?<=[\p{Latin}\p{Greek}\p{Cyrillic}\p{Arabic}\p{Hebrew}])\p{Mn}+")
_SYMBOLS = regex.compile(r"[\p{S}\p{P}\p{Me}]|(?<![\p{L}\p{N}\p{M}])\p{M}+")
_LETTER = regex.compile(r"[^\s\p{M}]\p{M}*")
_MARKS = regex.compile(r"\p{M}{2,}")
_MARKED = regex.compile(r"\p{L}\p{M}")


@cache
def _basic(language: str) -> BasicTextNormalizer:
    """Whisper's basic normaliser, except that it does not cut words at combining marks."""
    normaliser = BasicTextNormalizer()
    normaliser.clean = partial(_clean, marks_are_letters=language in _MARKS_ARE_LETTERS)
    return normaliser


@cache
def _english() -> EnglishTextNormalizer:
    return EnglishTextNormalizer({})


def _composed(text: str) -> str:
    """Compose letters and marks (NFKC), drop what nobody sees, and put the marks of a letter in one order."""
    text = _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    return _MARKS.sub(lambda marks: "".join(sorted(marks[0])), text)  # Thai tones come before or after their vowel


def _clean(text: str, *, marks_are_letters: bool) -> str:
    """Put a space in the place of every symbol; keep a letter's marks, or drop them where they are no letters."""
    text = _composed(text)
    return _SYMBOLS.sub(" ", text if marks_are_letters else _APART.sub("", text))


def _with_points(text: str) -> str:
    """Spell out characters made of points, as the ellipsis, and part them from a number, as Whisper's rules expect."""
    spelled = {c: unicodedata.normalize("NFKC", c) for c in set(text)}
    text = "".join(spelled[c] if "." in spelled[c] else c for c in text)
    return regex.sub(r"(?<=\.\.)(?=\d)", " ", text)


def normalise(text: str, language: str) -> str:
    """Normalise a reference or hypothesis before words are compared; between its words stands one space.

    English goes through Whisper's English normaliser (numbers, contractions), every other language through the basic
    one: lower case, symbols and bracketed remarks removed, diacritics kept. The module says where we deviate from both.

    Args:
        text: one utterance.
        language: Whisper's language code, e.g. ``"es"``; translations into English are ``"en"``.
    """
    text = unicodedata.normalize("NFC", _UNSEEN.sub("", text.translate(_SPELLED)))
    if language == "en":
        text = _english()(_with_points(text))
    else:
        text = _basic(language)(text.translate(_OWN_CASES.get(language, {})))
    words = (word.rstrip(".$¢€£") for word in (spaced(text) if language in LETTER_BY_LETTER else text).split())
    return " ".join(word for word in words if any(map(str.isalnum, word)))


def spaced(text: str) -> str:
    """Put a space between all letters of a text; a letter is a character with its combining marks."""
    return " ".join(_LETTER.findall(text))


def is_marked(text: str, language: str) -> bool:
    """Tell whether words hold marks at which the published normaliser would cut them."""
    return language != "en" and bool(_MARKED.search(_composed(text.lower())))
