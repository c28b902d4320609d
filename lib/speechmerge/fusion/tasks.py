"""The tasks that can be run on the speech there is, and that of one's own labelled clips; declared once each.

Voices of the game corpus are characters, not people: many carry an audio effect.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from .. import corpora
from ..corpora import SPLITS, Clip
from ..corpora.tones import WORDS
from ..errors import CorpusError, nearest
from ..text import normalise
from .examples import Example, Fold, Sizes, Task, capped, name_of, order, place, split_recordings
from .heads import needed_frames

FOLDS, DEV_VOICES = 3, 4  # of verification
ENDINGS = {".": "statement", "!": "exclamation", "?": "question"}
CROSSED = ("es", "fr", "ru", "en")  # languages that two corpora have, with no voice in common


def _voices() -> list[Clip]:
    return order(clip for clip in corpora.load("uqm", "en") if 1.0 <= clip.seconds <= 8.0)


def _recording(clip: Clip) -> str:
    return clip.id.rsplit("-", 1)[0] if clip.source == "uqm" else name_of(clip)


def _as_is(clips: Iterable[Clip], label: Callable[[Clip], str]) -> list[Example]:
    """Keep the corpus's own splits; each clip counts as a recording of its own."""
    return [Example(clip, label(clip), clip.split, name_of(clip)) for clip in clips]


def _voice_id(sizes: Sizes) -> list[Fold]:
    examples = [Example(clip, clip.speaker, "train", _recording(clip)) for clip in _voices()]
    return [capped(split_recordings(examples), sizes)]


def _voice_verify(sizes: Sizes) -> list[Fold]:
    clips = _voices()
    names = sorted({clip.speaker for clip in clips}, key=place)
    folds = []
    for number in range(FOLDS):
        test, others = names[number::FOLDS], [name for n, name in enumerate(names) if n % FOLDS != number]
        dev = others[:: max(1, len(others) // DEV_VOICES)][:DEV_VOICES]
        split = dict.fromkeys(others, "train") | dict.fromkeys(dev, "dev") | dict.fromkeys(test, "test")
        examples = [Example(clip, clip.speaker, split[clip.speaker], _recording(clip)) for clip in clips]
        folds.append(capped(examples, sizes))
    return folds


def spelled(text: str, language: str) -> str:
    """Return a text as its characters are learnt: normalised, lower case, single spaces."""
    return " ".join(normalise(text, language).lower().split())


def _speech(clips: list[Clip], sizes: Sizes, of: Callable[[Example], str]) -> list[Fold]:
    examples = _as_is(clips, lambda clip: spelled(clip.text, clip.language))
    return [capped((one for one in examples if one.label and _fits(one)), sizes, of)]


def _fits(example: Example) -> bool:
    """Whether a clip has the frames to say its text, at 25 a second, which is the least that a head leaves."""
    return needed_frames(example.label) <= 25 * example.clip.seconds


def _asr_en(sizes: Sizes) -> list[Fold]:
    return _speech(_voices(), sizes, lambda one: one.clip.speaker)


def _asr(corpus: str, language: str) -> Callable[[Sizes], list[Fold]]:
    return lambda sizes: _speech(order(corpora.load(corpus, language)), sizes, lambda one: "all")


def _one_of(clips: Sequence[Clip], splits: dict[str, str]) -> list[Example]:
    """Return clips with the language as label and other names of splits; those of others are left out."""
    kept = [one for one in _as_is(clips, lambda clip: clip.language) if one.split in splits]
    return [replace(one, split=splits[one.split]) for one in kept]


def _language_id(sizes: Sizes) -> list[Fold]:
    clips = [
        clip
        for name in ("asterisk", "stamps")
        for language in corpora.find(name).languages
        for clip in corpora.load(name, language)
    ]
    return [capped(_as_is(order(clips), lambda clip: clip.language), sizes, lambda one: one.label + one.clip.source)]


def _language_id_x(sizes: Sizes) -> list[Fold]:
    sides = [
        [clip for language in CROSSED for clip in corpora.load("asterisk", language)],
        [clip for language in CROSSED for clip in corpora.load("uqm" if language == "en" else "stamps", language)],
    ]
    folds = []
    for own, other in (sides, sides[::-1]):
        learnt = _one_of(order(own), {"train": "train", "dev": "dev"})
        folds.append(capped([*learnt, *_one_of(order(other), {"test": "test"})], sizes))
    return folds


def _sentence_type(sizes: Sizes) -> list[Fold]:
    clips = [clip for clip in _voices() if clip.text.rstrip("\"') ")[-1:] in ENDINGS]
    return [capped(_as_is(clips, lambda clip: ENDINGS[clip.text.rstrip("\"') ")[-1]]), sizes)]


def _fish(sizes: Sizes) -> list[Fold]:
    found = []
    for language in ("nl", "cs"):
        clips = [clip for clip in corpora.load("fillets", language) if re.match(r"(small|big)-", clip.speaker)]
        found += _as_is(order(clips), lambda clip: clip.speaker.partition("-")[0])
    return [capped(found, sizes, lambda one: one.label + one.clip.language)]


def _tones(sizes: Sizes) -> list[Fold]:
    """Classes of tone clips by their mean pitch, for tests; no speech."""
    clips = order(corpora.load("tones", "es"))
    return [capped(_as_is(clips, lambda clip: "high" if _pitch(clip) > 4.5 else "low"), sizes)]


def _pitch(clip: Clip) -> float:
    places = [WORDS[clip.language].index(word) for word in clip.text.split()]
    return sum(places) / len(places)


def _tone_voices(sizes: Sizes) -> list[Fold]:
    """Voices by the first tone, for tests; no speech."""
    names = sorted({clip.text.split()[0] for clip in corpora.load("tones", "es")})
    split = {name: ("test", "test", "dev", "dev", "train")[n % 5] for n, name in enumerate(names)}
    clips = order(corpora.load("tones", "es"))
    return [capped([Example(c, c.text.split()[0], split[c.text.split()[0]], c.id) for c in clips], sizes)]


VOICES = "characters of a game, not people: many carry an audio effect, so a score is partly about effects"
PROMPTS = "one voice a language, read prompts"
ALL = (10**6,) * 3
UTTERANCES: Sizes = (40, 10, 20)
_DECLARED = (
    Task("voice-id", "Which character", "classes", UTTERANCES, _voice_id, VOICES),
    Task("voice-verify", "Same character?", "verification", (20, 20, 20), _voice_verify, VOICES),
    Task("asr-en", "Characters, English", "characters", UTTERANCES, _asr_en, "acted voices, shared between splits"),
    *(
        Task(f"asr-{code}", f"Characters, {name}", "characters", ALL, _asr("asterisk", code), PROMPTS)
        for code, name in (("es", "Spanish"), ("fr", "French"), ("it", "Italian"), ("ru", "Russian"))
    ),
    Task("language-id", "Which language", "classes", (60, 20, 30), _language_id, "language, voice and channel are one"),
    Task("language-id-x", "Which language, other voices", "classes", (60, 20, 30), _language_id_x, "four languages"),
    Task("sentence-type", "Kind of sentence", "classes", (200, 90, 90), _sentence_type, "words give it away too"),
    Task("fish", "Which fish", "classes", (300, 60, 60), _fish, "a woman's and a man's voice in each language"),
    Task("tones", "Tones: high or low", "classes", (20, 6, 6), _tones, "for tests, no speech"),
    Task("tone-voices", "Tones: same first", "verification", (6, 4, 4), _tone_voices, "for tests, no speech"),
    Task("tone-words", "Tones: words", "characters", (20, 6, 6), _asr("tones", "es"), "for tests, no speech"),
)
TASKS = {task.name: task for task in _DECLARED}


def find(name: str) -> Task:
    """Return a task.

    Raises:
        CorpusError: there is none of that name; the nearest is given.
    """
    if name not in TASKS:
        raise CorpusError(f"there is no task {name!r}.{nearest(name, TASKS)}")
    return TASKS[name]


LABELS = ("speaker", "text", "folder", "language")


def own(where: str, label: str = "folder") -> Task:
    """Return the task of telling the classes of one's own labelled clips apart.

    Args:
        where: speech as ``corpora.own`` reads it, ``WHERE[:LANGUAGE]``.
        label: what names a clip's class: its speaker, its text, the folder it lies in, or its language. Where it is
            not the text, nothing needs to say what is said, and folders of sounds will do.

    Splits are those of the source where it names all three; else each class is split here, by a hash of the ids.

    Raises:
        CorpusError: there is no such speech, or all clips have one class.
    """
    if label not in LABELS:
        raise CorpusError(f"clips have no label {label!r}.{nearest(label, LABELS)}")
    found = corpora.own.read(*corpora.own.parse(where), texts=label == "text")
    examples = [Example(c, _label(c, label), c.split, f"{c.language} {c.id}") for c in order(found.clips)]
    classes = Counter(one.label for one in examples)
    if len(classes) < 2:
        raise CorpusError(
            f"{where}: all {len(examples)} clips have the {label} {next(iter(classes))!r}; expected two classes or "
            f"more. Other labels: {', '.join(name for name in LABELS if name != label)}."
        )
    given = found.splits_given and {one.split for one in examples} == set(SPLITS)
    fold = examples if given else split_recordings(examples)
    title = f"{label} of {corpora.own.name_of(where)}"
    return Task("own", title, "classes", ALL, lambda sizes: [capped(fold, sizes)], "your own speech")


def _label(clip: Clip, label: str) -> str:
    if label == "folder":
        return clip.id.rpartition("/")[0].rpartition("/")[2] or "."
    return getattr(clip, label)
