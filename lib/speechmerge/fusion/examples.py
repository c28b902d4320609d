"""Examples of a task and the laws of their splits: no recording, and in verification no voice, in two of them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..corpora import SPLITS, Clip
from ..errors import CorpusError

Sizes = tuple[int, int, int]  # most clips of a class (or voice) in train, dev and test
SHARES = (0.15, 0.15)  # of test and of dev, where recordings are split here


@dataclass(frozen=True)
class Example:
    """A clip of a task.

    Attributes:
        clip: the speech.
        label: a class, a voice, or the text that is said.
        split: ``"train"``, ``"dev"`` or ``"test"``.
        recording: what a bootstrap redraws and a split keeps together.
    """

    clip: Clip
    label: str
    split: str
    recording: str


Fold = list[Example]


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: as it is asked for.
        title: for tables.
        kind: ``"classes"``, ``"verification"`` or ``"characters"``.
        sizes: most clips of a class in each split, if not told otherwise.
        draw: gives the folds for such sizes.
        caution: what must be said beside its numbers.
    """

    name: str
    title: str
    kind: str
    sizes: Sizes
    draw: Callable[[Sizes], list[Fold]]
    caution: str

    @property
    def metric(self) -> str:
        """The error that dev chooses by: ``"error"``, ``"eer"`` or ``"cer"``."""
        return {"classes": "error", "verification": "eer", "characters": "cer"}[self.kind]

    @property
    def whole(self) -> bool:
        """Whether all frames of a clip are needed."""
        return self.kind == "characters"

    def folds(self, sizes: Sizes | None = None) -> list[Fold]:
        """Return the folds, checked.

        Raises:
            CorpusError: a class lacks clips, or a recording stands in two splits.
        """
        found = self.draw(sizes or self.sizes)
        for fold in found:
            check(self, fold)
        return found


def check(task: Task, fold: Sequence[Example]) -> None:
    """Refuse a fold that cannot be trained on or would be tested on what was trained on.

    Raises:
        CorpusError: naming the class or the recording.
    """
    splits: dict[str, str] = {}
    for example in fold:
        if splits.setdefault(example.recording, example.split) != example.split:
            raise CorpusError(
                f"task {task.name!r}: recording {example.recording!r} stands in {splits[example.recording]} and "
                f"{example.split}; a recording may stand in one split only."
            )
    have = {split: Counter(one.label for one in fold if one.split == split) for split in SPLITS}
    for split in SPLITS:
        if not have[split]:
            raise CorpusError(f"task {task.name!r} has no clips in {split}; give it more speech.")
    if task.kind == "verification":
        shared = set(have["train"]) & (set(have["dev"]) | set(have["test"]))
        if shared or set(have["dev"]) & set(have["test"]):
            raise CorpusError(f"task {task.name!r}: a voice stands in two splits; expected other voices in each.")
    if task.kind == "classes":
        for split, other in (("dev", "train"), ("test", "train"), ("train", "dev")):
            for label in have[split]:
                if not have[other][label]:
                    raise CorpusError(
                        f"task {task.name!r}: class {label!r} has {have[split][label]} clips in {split} and none in "
                        f"{other}; every class needs clips in each split, so give more of it or leave it out."
                    )


def order(clips: Iterable[Clip]) -> list[Clip]:
    """Return clips in the order in which they are drawn: by a hash of their names."""
    return sorted(clips, key=lambda clip: place(name_of(clip)))


def name_of(clip: Clip) -> str:
    """Return what tells a clip from all others, of its own corpus and of others."""
    return f"{clip.source} {clip.language} {clip.id}"


def place(text: str) -> str:
    """Return a hash, by which things are ordered."""
    return hashlib.sha256(text.encode()).hexdigest()


def capped(examples: Iterable[Example], sizes: Sizes, of: Callable[[Example], str] = lambda one: one.label) -> Fold:
    """Keep the first clips of each class in each split, as many as ``sizes`` allows."""
    seen: Counter = Counter()
    kept = []
    for example in examples:
        group = (of(example), example.split)
        if seen[group] < sizes[SPLITS.index(example.split)]:
            kept.append(example)
        seen[group] += 1
    return kept


def split_recordings(examples: Sequence[Example]) -> Fold:
    """Give each recording a split, class by class: in the order of a hash, test first, then dev, then train.

    Raises:
        CorpusError: a class has fewer than three recordings.
    """
    by_class: dict[str, dict[str, None]] = defaultdict(dict)
    for example in examples:
        by_class[example.label][example.recording] = None
    splits = {}
    for label, recordings in by_class.items():
        names = sorted(recordings, key=place)
        if len(names) < len(SPLITS):
            raise CorpusError(f"class {label!r} has {len(names)} recordings; expected at least 3, one for each split.")
        test, dev = (max(1, round(share * len(names))) for share in SHARES)
        for number, name in enumerate(names):
            splits[label, name] = "test" if number < test else "dev" if number < test + dev else "train"
    return [replace(one, split=splits[one.label, one.recording]) for one in examples]
