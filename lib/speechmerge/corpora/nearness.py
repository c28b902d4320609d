"""Splits in which near-equal sentences never stand on two sides, over all corpora and languages that come as packages.

Two texts are *near* if their normalised forms have an indel similarity of at least ``THRESHOLD``; transcripts and
English translations are compared alike. Clips whose texts are near, directly or through others, form a component, and a
component goes into one split as a whole. The outcome is kept in ``splits.csv`` by the hash of a transcript, with the
similarity of each held-out transcript to the nearest training text, so that no corpus needs the others to be loaded.
"""

import csv
import functools
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rapidfuzz import fuzz, process
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..errors import CorpusError
from .base import Clip, transcript_key

THRESHOLD = 0.8  # of the indel similarity, 2·common / (length + length): at or above it two texts are near
SHARE, FEWEST = 0.15, 60  # of a cell's clips that dev gets, and test as many; or this number of clips, if it is larger
LARGEST = 0.25  # of what dev or test is to get: a component that would fill more of it goes to train
SEED = "speechmerge-near-1"  # changing it draws all components anew
TABLE = Path(__file__).with_name("splits.csv")
BLOCK = 1024  # texts compared with all others at a time

Cell = tuple[str, str, str]


def texts_of(clip: Clip) -> tuple[str, ...]:
    """Return the normalised texts by which a clip is compared: its transcript, and its translation if it has one."""
    return tuple(filter(None, (transcript_key(clip.text), transcript_key(clip.translation or ""))))


def cell_of(clip: Clip, domains: Iterable[str] = ()) -> Cell:
    """Return what dev and test sizes are counted by: corpus, language, and the domain where it can be loaded apart."""
    return clip.source, clip.language, clip.domain if clip.domain in domains else ""


def similar(texts: Sequence[str], others: Sequence[str], cutoff: float = 0.0) -> Iterator[np.ndarray]:
    """Yield for blocks of ``BLOCK`` texts their similarity to all others, ``[block, others]``, 0 to 1.

    What lies below ``cutoff`` is given as 0.
    """
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        found = process.cdist(block, others, scorer=fuzz.ratio, score_cutoff=100 * cutoff, dtype=np.float32)
        yield found / 100


def components(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Return the clips by component, whatever their order; components and the clips of each are sorted."""
    texts = sorted({text for clip in clips for text in texts_of(clip)})
    place = {text: i for i, text in enumerate(texts)}
    pairs = [[place[texts_of(clip)[0]], place[texts_of(clip)[-1]]] for clip in clips]
    for number, block in enumerate(similar(texts, texts, THRESHOLD)):
        rows, columns = block.nonzero()
        pairs += np.stack([rows + number * BLOCK, columns], axis=1)[rows + number * BLOCK < columns].tolist()
    first, second = np.array(pairs).T
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(texts), len(texts)))
    _, labels = connected_components(graph, directed=False)
    found: dict[int, list[Clip]] = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: (clip.source, clip.language, clip.id)):
        found[labels[place[texts_of(clip)[0]]]].append(clip)
    return sorted(found.values(), key=_name)


def _name(component: Sequence[Clip]) -> str:
    """Return the smallest transcript of a component: what it is drawn by."""
    return min(transcript_key(clip.text) for clip in component)


def assign(clips: Sequence[Clip], domains: Iterable[str] = ()) -> list[Clip]:
    """Return the clips with their splits, sorted by corpus, language and id.

    Components are taken in the order of a hash. One goes to test while most of its clips belong to cells whose test
    part is not full yet, then likewise to dev, and to train after that or if it is too large for a cell.

    Args:
        clips: of all corpora that are to be kept apart.
        domains: values of ``Clip.domain`` that are cells of their own.
    """
    domains = set(domains)
    sizes = Counter(cell_of(clip, domains) for clip in clips)
    target = {cell: max(FEWEST, round(SHARE * size)) for cell, size in sizes.items()}
    filled: dict[str, Counter[Cell]] = {"test": Counter(), "dev": Counter()}
    found = []
    for component in sorted(components(clips), key=lambda part: _hash(f"{SEED}|{_name(part)}")):
        counts = Counter(cell_of(clip, domains) for clip in component)
        split = "train"
        if all(count <= LARGEST * target[cell] for cell, count in counts.items()):
            for held, have in filled.items():
                wanted = sum(count for cell, count in counts.items() if have[cell] < target[cell])
                if 2 * wanted > len(component):
                    split = held
                    have.update(counts)
                    break
        found += [replace(clip, split=split) for clip in component]
    return sorted(found, key=lambda clip: (clip.source, clip.language, clip.id))


def similarities(clips: Sequence[Clip]) -> dict[str, float]:
    """Return for every held-out transcript its similarity, 0 to 1, to the nearest training text (or translation)."""
    trained = sorted({text for clip in clips if clip.split == "train" for text in texts_of(clip)})
    held = sorted({texts_of(clip) for clip in clips if clip.split != "train"})
    flat = sorted({text for texts in held for text in texts})
    best = np.concatenate([block.max(axis=1) for block in similar(flat, trained)]) if flat and trained else []
    nearest = dict(zip(flat, np.array(best, dtype=float).tolist(), strict=False))
    found: dict[str, float] = {}
    for texts in held:
        found[texts[0]] = max(found.get(texts[0], 0.0), *(nearest.get(text, 0.0) for text in texts))
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def write_table(clips: Sequence[Clip]) -> None:
    """Write the split of every transcript, by its hash, and the similarity of held-out ones.

    Raises:
        CorpusError: two transcripts share a hash, or a transcript stands in two splits.
    """
    nearest, rows, names = similarities(clips), {}, {}
    for clip in clips:
        key = transcript_key(clip.text)
        row = (clip.split, f"{math.floor(1000 * nearest[key]) / 1000:.3f}" if key in nearest else "")
        if names.setdefault(_hash(key), key) != key or rows.setdefault(_hash(key), row) != row:
            raise CorpusError(f"{clip.text!r} and {names[_hash(key)]!r} share a hash or stand in two splits.")
    lines = [f"{name},{split},{similarity}\n" for name, (split, similarity) in sorted(rows.items())]
    TABLE.write_text("sentence,split,similarity\n" + "".join(lines))


@functools.cache
def table() -> dict[str, tuple[str, float | None]]:
    """Return split and similarity of every known transcript, by its hash."""
    with TABLE.open(newline="") as stream:
        return {
            row["sentence"]: (row["split"], float(row["similarity"]) if row["similarity"] else None)
            for row in csv.DictReader(stream)
        }


def applied(clips: Sequence[Clip]) -> list[Clip]:
    """Return clips with the splits and similarities of the table.

    Raises:
        CorpusError: a transcript is not in it.
    """
    known = table()
    keys = [_hash(transcript_key(clip.text)) for clip in clips]
    strange = [clip for clip, key in zip(clips, keys, strict=True) if key not in known]
    if strange:
        raise CorpusError(
            f"{len(strange)} clips of {strange[0].source} {strange[0].language} are not in {TABLE.name} (first: "
            f"{strange[0].id!r}), so another version of the corpus was fetched; run `speechmerge splits --write`."
        )
    found = [known[key] for key in keys]
    return [
        replace(clip, split=split, similarity=similarity)
        for clip, (split, similarity) in zip(clips, found, strict=True)
    ]


def changes(clips: Sequence[Clip]) -> tuple[list[tuple[Clip, str]], list[Clip]]:
    """Return the clips whose split the table has otherwise, each with that split, and those it does not have."""
    known = table() if TABLE.is_file() else {}
    was = [(clip, known.get(_hash(transcript_key(clip.text)))) for clip in clips]
    return [(c, row[0]) for c, row in was if row and row[0] != c.split], [c for c, row in was if row is None]


def sizes(clips: Sequence[Clip], domains: Iterable[str] = ()) -> dict[Cell, Counter[str]]:
    """Return how many clips each split of a cell has."""
    domains, found = set(domains), defaultdict(Counter)
    for clip in clips:
        found[cell_of(clip, domains)][clip.split] += 1
    return dict(found)
