"""The speech a merge is chosen by: for each expert its own, and what must be kept though no expert is for it.

One part of the clips chooses, the other reports and is heard once, at the end. Where a source names a dev and a test
split these are the parts; elsewhere its sentences are parted in halves by the hash of their text, so that no sentence
stands in both.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from .. import corpora
from ..corpora import Clip
from ..errors import CorpusError
from ..finetuning.training_recipe import Source

FEWEST, FEW = 20, 60  # clips of one part: fewer are refused; fewer than FEW are worth a warning
CHOOSE, REPORT = "choose", "report"
NO_TRANSLATION = "no translation"


@dataclass(frozen=True)
class Speech:
    """Speech in one language and task that a merge is measured on.

    Attributes:
        name: what tables call it; unique.
        sources: where it comes from, as the user spelt it.
        places: corpora, folders or files among them.
        language, task: as in :class:`Clip` and :class:`Source`.
        expert: whose own speech it is, counted from 0; ``None`` for speech that must be kept.
        choose, report: the clips of both parts.
        parted: how the parts came about: ``"dev and test"``, or ``"halves"`` of what the source holds.
        dropped: how many clips were left out for each reason.
        drawn: how many clips the parts had before they were cut to what the budget allows.
        training: whether the source calls all of it training speech.
        notes: what reading it gave to say.
    """

    name: str
    sources: tuple[str, ...]
    places: tuple[str, ...]
    language: str
    task: str
    expert: int | None
    choose: tuple[Clip, ...]
    report: tuple[Clip, ...]
    parted: str
    dropped: tuple[tuple[str, int], ...] = ()
    drawn: tuple[int, int] = (0, 0)
    training: bool = False
    notes: tuple[str, ...] = ()

    def part(self, name: str) -> tuple[Clip, ...]:
        """Return the clips that choose or those that report."""
        return self.choose if name == CHOOSE else self.report

    def cut(self, most: int, seed: int) -> "Speech":
        """Keep at most so many clips of each part, drawn by ``seed``; a smaller draw lies within a larger one."""
        return replace(
            self, choose=draw(self.choose, most, seed), report=draw(self.report, most, seed), drawn=self.sizes()
        )

    def sizes(self) -> tuple[int, int]:
        """Return how many clips choose and how many report."""
        return len(self.choose), len(self.report)


def draw(clips: Sequence[Clip], most: int, seed: int) -> tuple[Clip, ...]:
    """Draw at most ``most`` clips, in their own order; which ones depends on their ids and the seed alone."""
    rank = {clip.id: hashlib.sha256(f"{seed}|{clip.id}".encode()).digest() for clip in clips}
    kept = set(sorted(rank, key=rank.get)[:most])
    return tuple(clip for clip in clips if clip.id in kept)


def load(experts: Sequence[Sequence[Source]], also: Sequence[Sequence[Source]]) -> list[Speech]:
    """Read the speech of every expert, in order, and what must be kept.

    Sources of one expert in the same language and for the same task count as one.

    Raises:
        CorpusError: a source cannot be read, a part has too few clips, or a recording stands in two of them.
        SourceError: a package cannot be had.
    """
    groups = [(number, own) for number, own in enumerate(experts)] + [(None, own) for own in also]
    found = []
    for expert, sources in groups:
        for language, task in dict.fromkeys((s.language, s.task) for s in sources):
            own = [s for s in sources if (s.language, s.task) == (language, task)]
            found.append(_speech(own, language, task, expert))
    _check_apart(found)
    return [replace(one, name=name) for one, name in zip(found, _names(found), strict=True)]


def _speech(sources: Sequence[Source], language: str, task: str, expert: int | None) -> Speech:
    """Read one speech and part it."""
    dropped: Counter[str] = Counter()
    own: dict[str, list[tuple[str, list[Clip]]]] = {CHOOSE: [], REPORT: []}
    how, notes, training = [], [], False
    for source in sources:
        clips, reasons, splits_given, said = read(source)
        dropped.update(reasons)
        notes += said
        if task == "st":
            dropped[NO_TRANSLATION] += sum(not clip.translation for clip in clips)
            clips = [clip for clip in clips if clip.translation]
        training |= splits_given and all(clip.split == "train" for clip in clips)
        choose, report, parted = _parted(clips, splits_given)
        own[CHOOSE].append((source.corpus, choose))
        own[REPORT].append((source.corpus, report))
        how.append(parted)
    parts = {part: corpora.together(some) for part, some in own.items()}
    told = tuple(f"{s.corpus}:{s.language}" + (":st" if s.task == "st" else "") for s in sources)
    for part, clips in parts.items():
        if len(clips) < FEWEST:
            what = "choose the merge by" if part == CHOOSE else "report it on"
            raise CorpusError(
                f"{', '.join(told)} gives {len(clips)} clips to {what}, expected at least {FEWEST}; one half of the "
                f"speech, or its dev split, chooses, the rest reports, so give about {4 * FEWEST} clips or more."
            )
    reasons = tuple((reason, count) for reason, count in dropped.items() if count)
    both = tuple(parts[CHOOSE]), tuple(parts[REPORT])
    places = tuple(source.corpus for source in sources)
    more = {"dropped": reasons, "training": training, "notes": tuple(notes)}
    return Speech("", told, places, language, task, expert, *both, " and ".join(dict.fromkeys(how)), **more)


class Read(NamedTuple):
    """A source: its clips, why each other one was left out, whether it names splits, and what one should know."""

    clips: list[Clip]
    reasons: list[str]
    splits_given: bool
    notes: tuple[str, ...] = ()


def read(source: Source) -> Read:
    """Read a source whole, be it a corpus of the registry or speech of one's own."""
    if corpora.is_registered(source.corpus):
        return Read(corpora.load(source.corpus, source.language), [], True)
    if not corpora.own.is_own(source.corpus):
        corpora.load(source.corpus, source.language)  # says that there is no such speech
    found = corpora.own.read(source.corpus, source.language)
    return Read(list(found.clips), [one.kind for one in found.dropped], found.splits_given, tuple(found.notes))


def _parted(clips: Sequence[Clip], splits_given: bool) -> tuple[list[Clip], list[Clip], str]:
    """Part clips into those that choose and those that report."""
    own = {split: [clip for clip in clips if clip.split == split] for split in corpora.SPLITS}
    if splits_given and own["dev"] and own["test"]:
        return own["dev"], own["test"], "dev and test"
    held = own["dev"] + own["test"] if splits_given else []
    halves: dict[str, list[Clip]] = {"dev": [], "test": []}
    for clip in held or clips:
        halves[corpora.assign_split(clip.text, clip.language, 0.5, english=clip.translation)].append(clip)
    return halves["dev"], halves["test"], "halves"


def _check_apart(found: Sequence[Speech]) -> None:
    """Refuse a recording that stands in two speeches: it would count twice, or choose here and report there."""
    first: dict[tuple, tuple[int, Clip]] = {}
    for number, speech in enumerate(found):
        for clip in (*speech.choose, *speech.report):
            mark = hashlib.sha256(clip.flac).digest(), speech.language, speech.task
            other, before = first.setdefault(mark, (number, clip))
            if other != number:
                raise CorpusError(
                    f"clip {clip.id!r} of {', '.join(speech.sources)} is the same recording as {before.id!r} of "
                    f"{', '.join(found[other].sources)}; give each recording to one expert, or to --also, only."
                )


def _names(found: Sequence[Speech]) -> list[str]:
    """Name each speech by the least that tells it from the others: language and task, else its sources."""
    short = [one.language + (" st" if one.task == "st" else "") for one in found]
    longer = [f"{'+'.join(map(_last, one.places))}:{name}" for one, name in zip(found, short, strict=True)]
    names = [s if short.count(s) == 1 else n for s, n in zip(short, longer, strict=True)]
    whole = ["+".join(one.sources) for one in found]
    return [n if names.count(n) == 1 else w for n, w in zip(names, whole, strict=True)]


def _last(place: str) -> str:
    return Path(place).name or place


def repeated(found: Sequence[Speech]) -> int:
    """Count sentences that report and also stand, in the same language, among those that choose."""
    chosen = {(s.language, corpora.transcript_key(clip.text)) for s in found for clip in s.choose}
    return len({(s.language, corpora.transcript_key(clip.text)) for s in found for clip in s.report} & chosen)
