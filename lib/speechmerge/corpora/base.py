"""The one schema of all speech corpora, and the laws of a split.

A corpus is a :class:`Corpus` declaration plus a function that yields :class:`Item`; ``building.py`` turns items into
stored :class:`Clip` objects, the same way for every corpus.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..audio import decode_flac
from ..errors import CorpusError
from ..files import digest

SPLITS = ("train", "dev", "test")
SHORTEST, LONGEST = 0.4, 28.0  # seconds; shorter clips hold no word, longer ones leave no room in the 30 s window
HELD_OUT = 0.17  # share of unique sentences for dev, and as much again for test; leaves each corpus 60 clips of both
WIDER = {"da": 0.25}  # for the same reason
SPLIT_SEED = "speechmerge-1"  # changing it changes every split


@dataclass(frozen=True)
class Clip:
    """One utterance of speech with its transcript.

    Attributes:
        id: unique within corpus and language.
        flac: 16-bit mono FLAC at 16 kHz.
        text: what is said, as the source writes it.
        translation: the same in English; ``None`` where the source has none, and for English speech.
        language: Whisper's language code.
        domain: kind of speech (or character) within the corpus.
        speaker: the source's name of the voice.
        seconds: duration.
        split: ``"train"``, ``"dev"`` or ``"test"``.
        source: name of the corpus.
        licence: SPDX id of the licence of the recording and its text.
        similarity: of a held-out clip to the nearest training text, 0 to 1 (:mod:`.nearness`); ``None`` if not known.
    """

    id: str
    flac: bytes = field(repr=False)
    text: str
    translation: str | None
    language: str
    domain: str
    speaker: str
    seconds: float
    split: str
    source: str
    licence: str
    similarity: float | None = None

    def samples(self) -> np.ndarray:
        """Return the waveform: float32, shape ``[n]``, mono 16 kHz, in [-1, 1]."""
        return decode_flac(self.flac)


@dataclass(frozen=True)
class Item:
    """One recording as a corpus file yields it, before any filter.

    Attributes:
        id: as in :class:`Clip`.
        audio: a file in any common container, its bytes, or samples at 16 kHz (float32, shape ``[n]``).
        text: the transcript; empty where the source has none.
        translation: English, or ``None``.
        domain: as in :class:`Clip`.
        speaker: as in :class:`Clip`.
        split: the source's own split, where it has one.
        drop: why the recording cannot be used, if the corpus file knows.
    """

    id: str
    audio: Path | bytes | np.ndarray
    text: str
    translation: str | None
    domain: str
    speaker: str
    split: str | None = None
    drop: str | None = None


@dataclass(frozen=True)
class Corpus:
    """Declaration of a corpus.

    Attributes:
        name: its id on the command line and in result rows.
        title: one line for people.
        licences: SPDX licence of each language; the keys are the languages.
        citation: how to cite it.
        items: ``items(language, folders)``; ``folders`` maps the name of each package to where it is unpacked.
        packages: ``packages(language)`` names the Debian packages needed.
        characters_per_second: slowest and fastest of each language that has limits; recordings outside them do not
            say the text that stands beside them.
        domains: values of ``Clip.domain`` that can be loaded apart, where they are known before the corpus is built.
        hub: the data set on the Hugging Face hub that holds the corpus, for those that do not come as packages.
        settings: what else the clips depend on, such as renamed columns; anything that JSON can write.
        noncommercial: built only when the reader accepts that licence.
        synthetic: not human speech.
        version: raise when clips or splits change; cached copies are then built again, and studies are keyed by it.
    """

    name: str
    title: str
    licences: Mapping[str, str]
    citation: str
    items: Callable[[str, dict[str, Path]], Iterator[Item]]
    packages: Callable[[str], list[str]] = lambda language: []
    characters_per_second: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    hub: str = ""
    settings: Callable[[], list] = lambda: []
    noncommercial: bool = False
    synthetic: bool = False
    version: int = 1

    @property
    def languages(self) -> tuple[str, ...]:
        """Whisper codes of the languages."""
        return tuple(self.licences)


def transcript_key(text: str) -> str:
    """Normalise a transcript for comparison: NFKC, casefold, no accents, no punctuation, single spaces.

    Accents are taken off so that a text typed with and without them counts as the same sentence.
    """
    text = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(" " if unicodedata.category(c)[0] in "PSZC" else c for c in text if unicodedata.category(c) != "Mn")
    return " ".join(kept.split())


def held_out(language: str) -> float:
    """Return the share of a language's unique sentences that dev takes, and test as much again."""
    return WIDER.get(language, HELD_OUT)


def assign_split(text: str, language: str, share: float | None = None, *, english: str | None = None) -> str:
    """Return the split of a transcript: a function of what it says in English, or else of language and text, alone.

    A sentence falls into the same split in every language, so that no model learns to translate a test sentence from
    the recordings of another language. The corpus does not enter, and neither order nor size of a corpus moves any
    clip. Test and dev lie at the two ends of the hash's range.

    Args:
        text: the transcript.
        language: Whisper's code.
        english: the sentence in English, where it is known.
        share: of test, and as much again of dev, instead of the language's; for texts no other corpus can have. Above
            one half, dev gets what test leaves and train nothing.
    """
    share = held_out(language) if share is None else share
    language, text = ("en", english) if english else (language, text)
    key = f"{SPLIT_SEED}|{language}|{transcript_key(text)}"
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if place < share:
        return "test"
    return "dev" if place >= 1 - share else "train"


def check(clips: Iterable[Clip]) -> None:
    """Raise if clips share an id, lack a text, do not fit the window, or a transcript stands in two splits.

    Clips of several corpora and languages may be checked together, as a training mixture should be.

    Raises:
        CorpusError: naming the clips.
    """
    seen: set[tuple[str, str, str]] = set()
    first_of: dict[tuple[str, str], Clip] = {}
    for clip in clips:
        where = f"clip {clip.id!r} of {clip.source} {clip.language}"
        if (clip.source, clip.language, clip.id) in seen:
            raise CorpusError(f"{where} occurs twice; ids must be unique, so load each corpus and language once.")
        seen.add((clip.source, clip.language, clip.id))
        if not clip.text.strip():
            raise CorpusError(f"{where} has no transcript; expected the words that are said in it.")
        if clip.split not in SPLITS:
            raise CorpusError(f"{where} has split {clip.split!r}; expected one of {', '.join(SPLITS)}.")
        if not SHORTEST <= clip.seconds <= LONGEST:
            raise CorpusError(
                f"{where} lasts {clip.seconds:.2f} s; expected {SHORTEST} to {LONGEST:g} s, so cut it or leave it out."
            )
        first = first_of.setdefault((clip.language, transcript_key(clip.text)), clip)
        if first.split != clip.split:
            raise CorpusError(
                f"{where} ({clip.split}) has the same transcript as {first.id!r} of {first.source} ({first.split}), "
                f"{clip.text!r}; a sentence may stand in one split only, so remove one of them or name other splits."
            )


def together(parts: Sequence[tuple[str, Sequence[Clip]]]) -> list[Clip]:
    """Put clips of several sources behind each other; an id that stands in more than one gets its source's name.

    Args:
        parts: where each source lies, and its clips.
    """
    count = Counter(clip.id for _, own in parts for clip in own)
    return [
        clip if count[clip.id] == 1 else replace(clip, id=f"{where}/{clip.id}") for where, own in parts for clip in own
    ]


def fingerprint(clips: Iterable[Clip]) -> str:
    """SHA-256 (hex) over ids, texts, translations, splits and audio hashes, whatever the order of the clips."""
    return digest(
        sorted(
            [c.source, c.language, c.id, c.text, c.translation or "", c.split, hashlib.sha256(c.flac).hexdigest()]
            for c in clips
        )
    )
