"""What speech of one's own holds, in numbers: for ``speechmerge inspect-data`` and for reports."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median, quantiles

from ..base import SPLITS, Clip
from .reading import Found

FIRST = 5  # rows that are shown


def summary(found: Found, *, dropped: bool = False) -> dict:
    """Return counts and examples, as JSON can write them; durations are in seconds.

    Args:
        found: what was read.
        dropped: whether every recording that is left out is named, not only how many there are of a kind.
    """
    languages = sorted({clip.language for clip in found.clips})
    told = {
        "where": found.where,
        "layout": found.layout,
        "notes": [*found.notes, *remarks(found.clips)],
        "splits_given": found.splits_given,
        "clips": len(found.clips),
        "seconds": _seconds(found.clips),
        "dropped": len(found.dropped),
        "languages": {code: _language([c for c in found.clips if c.language == code]) for code in languages},
        "first": [_shown(clip) for clip in found.clips[:FIRST]],
        "reasons": _reasons(found),
    }
    if dropped:
        told["dropped_clips"] = [{"id": one.id, "reason": one.reason} for one in found.dropped]
    return told


def remarks(clips: Iterable[Clip]) -> list[str]:
    """Say what is odd about the texts as a whole, for a model learns to write as they are written."""
    texts = [clip.text for clip in clips]
    cased = [text for text in texts if text.lower() != text.upper()]
    found = []
    if cased and all(text == text.upper() for text in cased):
        found.append("all texts are in capitals, and a model trained on them writes so")
    elif cased and all(text == text.lower() for text in cased):
        found.append("no text has a capital letter, and a model trained on them writes none")
    if len(texts) > 1 and len(set(texts)) <= len(texts) / 2:
        found.append(f"{len(texts)} clips have {len(set(texts))} different texts")
    return found


def _language(clips: list[Clip]) -> dict:
    """Count the clips of one language."""
    splits = {split: [clip for clip in clips if clip.split == split] for split in SPLITS}
    lengths = [clip.seconds for clip in clips]
    return {
        "splits": {split: {"clips": len(part), "seconds": _seconds(part)} for split, part in splits.items()},
        "speakers": len({clip.speaker for clip in clips} - {"unknown"}),
        "translations": sum(clip.translation is not None for clip in clips),
        "clip_seconds": {"shortest": min(lengths), "median": round(median(lengths), 2), "longest": max(lengths)},
        "characters_per_second": _rates([len(clip.text) / clip.seconds for clip in clips]),
    }


def _rates(rates: list[float]) -> dict:
    """Return the median and the two bounds between which nine tenths of the rates lie."""
    cuts = quantiles(rates, n=20, method="inclusive") if len(rates) > 1 else rates
    found = {"low": cuts[0], "median": median(rates), "high": cuts[-1]}
    return {name: round(value, 1) for name, value in found.items()}


def _seconds(clips: Iterable[Clip]) -> float:
    return round(sum(clip.seconds for clip in clips), 1)


def _shown(clip: Clip) -> dict:
    names = ("id", "language", "split", "seconds", "speaker", "text", "translation")
    return {name: getattr(clip, name) for name in names}


def _reasons(found: Found) -> list[dict]:
    """Return every kind of reason with its number and first recording, the most frequent kind first."""
    by_kind = defaultdict(list)
    for one in found.dropped:
        by_kind[one.kind].append(one)
    ordered = sorted(by_kind.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {"reason": kind, "clips": len(some), "first": some[0].id, "found": some[0].reason.partition(": ")[2]}
        for kind, some in ordered
    ]
