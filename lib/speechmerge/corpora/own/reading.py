"""From decoded rows to clips: languages, repeats, splits; whatever is left out has a reason."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ...errors import CorpusError
from .. import nearness
from ..base import SPLITS, Clip, assign_split, transcript_key
from . import hub, languages
from .states import place
from .storing import Kept, stored

LICENCE = "unknown"  # of recordings and texts
ID_REPEATS = 0.1  # share of repeated values above which a column is none of ids, as FLEURS' ids of sentences
LARGEST = 0.05  # share of all clips: a group of near-equal sentences that is larger goes to train


class Dropped(NamedTuple):
    """A recording that is left out: its id, and a kind of reason with, after a colon, what was found."""

    id: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason without what was found."""
        return self.reason.partition(":")[0]


@dataclass(frozen=True)
class Found:
    """What speech of one's own holds.

    Attributes:
        where: as it was named.
        layout: how it is laid out.
        clips: in order of id.
        dropped: every recording that is left out, in order of id.
        splits_given: whether the source names the splits.
        notes: what its reader should know.
    """

    where: str
    layout: str
    clips: list[Clip]
    dropped: list[Dropped]
    splits_given: bool
    notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> Counter[str]:
        """How many recordings each kind of reason has left out."""
        return Counter(one.kind for one in self.dropped)


def name_of(where: str) -> str:
    """Return what ``Clip.source`` says: the last two parts of a path, or the id on the hub."""
    if where.startswith(hub.PREFIX):
        return where.removeprefix(hub.PREFIX)
    return "/".join(Path(place(where)).parts[-2:]).lstrip("/")


def read(where: str | Path, language: str | None, *, kept_apart: str = "equal", texts: bool = True) -> Found:
    """Read speech of one's own; it is decoded at the first use, and again after a file of it has changed.

    Args:
        where: a path or ``hub:OWNER/NAME[:CONFIG]``.
        language: whose clips are wanted, as Whisper's code; ``None``: of all languages that the source names.
        kept_apart: ``"equal"`` or ``"near"``: sentences that never stand in two splits.
        texts: whether it is wanted what is said; without, folders of sounds are read too, whose clips have no text.

    Raises:
        CorpusError: there is no speech of a known layout, or none that can be used.
        SourceError: the hub does not answer.
    """
    where = str(where)
    language = languages.checked(language) if language else None
    store = stored(where, texts=texts)
    rows, notes = _named(store.rows)
    dropped: list[Dropped] = []
    rows = _sifted(rows, dropped, lambda row: row.reason)
    codes = {one: languages.code(one) for one in {row.language for row in rows} if one}
    rows = [replace(row, language=codes.get(row.language, language or "")) for row in rows]
    rows = _sifted(rows, dropped, lambda row: _foreign(row, language))
    rows = _once(rows, dropped)
    clips, given, told = _split([_clip(row, name_of(where)) for row in rows], dropped, kept_apart)
    found = Found(
        where=where,
        layout=store.layout,
        clips=sorted(clips, key=lambda clip: clip.id),
        dropped=sorted(dropped),
        splits_given=given,
        notes=(*store.notes, *notes, *told),
    )
    if not clips:
        told = ", ".join(f"{count} × {kind}" for kind, count in found.reasons.most_common())
        first = found.dropped[0]
        raise CorpusError(
            f"{where}: none of {len(dropped)} recordings can be used: {told} (first: {first.id}: {first.reason})."
        )
    return found


def _named(rows: list[Kept]) -> tuple[list[Kept], list[str]]:
    """Give every row an id: the source's where it has such, else the name of its file, else what it sounds like."""
    notes, given = [], Counter(row.id for row in rows)
    if given[""] or len(rows) - len(given) > ID_REPEATS * len(rows):
        if len(given) > 1:
            notes.append("the source's ids are not unique, so clips are named after their files")
        rows = [replace(row, id=row.name or row.hash[:16]) for row in rows]
        sounds = defaultdict(set)
        for row in rows:
            if not row.reason:
                sounds[row.id].add(row.hash)
        several = {name for name, some in sounds.items() if len(some) > 1}
        rows = [replace(row, id=f"{row.id}-{row.hash[:8]}") if row.id in several else row for row in rows]
    return rows, notes


def _sifted(rows: Iterable[Kept], dropped: list[Dropped], problem: Callable[[Kept], str | None]) -> list[Kept]:
    kept = []
    for row in rows:
        if reason := problem(row):
            dropped.append(Dropped(row.id, reason))
        else:
            kept.append(row)
    return kept


def _foreign(row: Kept, language: str | None) -> str | None:
    return None if language in (None, row.language) else f"another language: {row.language}"


def _once(rows: list[Kept], dropped: list[Dropped]) -> list[Kept]:
    """Keep a recording once, and an id once: of equals the one that is held out, whatever the order of the rows."""
    heard, named = defaultdict(list), defaultdict(list)
    for row in rows:
        heard[row.hash].append(row)
    for same in heard.values():
        first = min(same, key=_rank)
        others = sorted({transcript_key(row.text or "") for row in same})
        if len(others) > 1:
            told = " / ".join(sorted({row.text for row in same}))
            dropped += [Dropped(row.id, f"one recording under several texts: {told}") for row in same]
            continue
        dropped += [Dropped(row.id, f"repeated recording: as {first.id}") for row in same if row is not first]
        named[first.id].append(first)
    kept = []
    for same in named.values():
        first = min(same, key=_rank)
        dropped += [
            Dropped(row.id, f"repeated id: also of {first.text or first.name}") for row in same if row is not first
        ]
        kept.append(first)
    return kept


def _rank(row: Kept) -> tuple:
    held = SPLITS[::-1].index(row.split) if row.split else len(SPLITS)
    return held, row.id, row.text or "", row.hash


def _clip(row: Kept, source: str) -> Clip:
    return Clip(
        id=row.id,
        flac=row.flac,
        text=row.text or "",
        translation=row.translation or None if row.language != "en" else None,
        language=row.language,
        domain="own",
        speaker=row.speaker or "unknown",
        seconds=row.seconds,
        split=row.split or "",
        source=source,
        licence=LICENCE,
    )


def _split(clips: list[Clip], dropped: list[Dropped], kept_apart: str) -> tuple[list[Clip], bool, list[str]]:
    """Give every clip a split, and leave out those whose sentence is held out in another one.

    Returns:
        The clips, whether the source names the splits, and what to tell of them.
    """
    named, near, notes = {clip.split for clip in clips} - {""}, kept_apart == "near", []
    if named <= {"train"}:
        drawn = _drawn(clips, near=near)
        if named:
            notes.append("the source names train alone, so dev and test are drawn from it by their texts")
        return [replace(clip, split=drawn[clip.id, clip.language]) for clip in clips], False, notes
    loose = sum(not clip.split for clip in clips)
    if loose:
        notes.append(f"{loose} clips name no split, so they are of train")
    clips = [replace(clip, split=clip.split or "train") for clip in clips]
    lacking = [split for split in SPLITS[1:] if split not in named]
    if lacking and any(clip.split == "train" for clip in clips):
        drawn = _drawn(clips, near=near)
        notes.append(f"the source names no {lacking[0]}, so it is drawn from train by the texts")
        clips = [
            replace(clip, split=there)
            if clip.split == "train" and (there := drawn[clip.id, clip.language]) in lacking
            else clip
            for clip in clips
        ]
    return _held_out_once(clips, dropped, near=near), True, notes


def _drawn(clips: list[Clip], *, near: bool) -> dict[tuple[str, str], str]:
    """Return a split for each clip, by id and language: equal (or near-equal) sentences have the same."""
    found = {}
    for group in _groups(clips, near=near):
        first = min(group, key=_said)
        english = min((clip.translation for clip in group if clip.translation), default=None)
        split = assign_split(first.text or first.id, first.language, english=english)
        if near and len({_said(clip) for clip in group}) > 1 and len(group) > LARGEST * len(clips):
            split = "train"
        found |= {(clip.id, clip.language): split for clip in group}
    return found


def _groups(clips: list[Clip], *, near: bool) -> list[list[Clip]]:
    if near:
        return nearness.components(clips) if clips else []
    groups = defaultdict(list)
    for clip in clips:
        groups[clip.language, _said(clip)].append(clip)
    return list(groups.values())


def _said(clip: Clip) -> str:
    """Return what tells a sentence from others: its words, or the clip's id where nobody has written them down."""
    return transcript_key(clip.text) or clip.id


def _held_out_once(clips: list[Clip], dropped: list[Dropped], *, near: bool) -> list[Clip]:
    """Leave out of train what stands in dev or test, and of dev what stands in test."""
    kept = []
    for group in _groups(clips, near=near):
        split = max((clip.split for clip in group), key=SPLITS.index)
        other = "near a sentence of another split" if near else "sentence of another split"
        dropped += [Dropped(clip.id, f"{other}: {split}") for clip in group if clip.split != split]
        kept += [clip for clip in group if clip.split == split]
    return kept
