"""Clips one can play, with what was said and what models wrote; plain HTML that needs no script and no other file.

Words are compared as they are when errors are counted (:func:`speechmerge.text.normalise`) and shown as they were
written. What differs is marked by an element and by a line of its own kind, never by colour alone: ``mark`` for another
word, ``ins`` for a word too many, ``del`` for one that is missing.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import jiwer
from markupsafe import Markup, escape

from speechmerge import corpora
from speechmerge.corpora import Clip
from speechmerge.text import LETTER_BY_LETTER, normalise

from ..figures import style
from ..tables.heard import Heard
from . import licences

MOST = 40  # pieces of a transcript that are shown at once; the rest of a runaway one is folded away
RIGHT, OTHER, ADDED, MISSING = "", "mark", "ins", "del"  # the element of each kind of word
WORDS = {OTHER: "another word", ADDED: "a word too many", MISSING: "a missing word"}

Piece = tuple[str, str]  # kind, text


@dataclass(frozen=True)
class Listening:
    """Clips and transcripts, ready to be shown by a notebook and by the book."""

    heard: tuple[Heard, ...]

    def _repr_html_(self) -> str:
        if not self.heard:
            return '<p class="heard">There is no such clip.</p>'
        return str(Markup("\n").join([_legend(), *map(_figure, self.heard)]))

    def __repr__(self) -> str:
        told = []
        for one in self.heard:
            told.append(f"{_title(one.clip)}: {one.clip.text}")
            told += [f"  {system}: {said.text}" for system, said in one.said.items()]
        return "\n".join(told)


def show(heard: Iterable[Heard]) -> Listening:
    """Return clips with their sound, reference and transcripts as one thing that a page shows, and how to read it.

    A recording whose licence does not let it be passed on (:mod:`.licences`) is not embedded, and the page says so.
    """
    return Listening(tuple(heard))


def _legend() -> Markup:
    """A line that shows how each kind of difference is marked."""
    shown = Markup(", ").join(Markup("<{0}>{1}</{0}>").format(Markup(kind), text) for kind, text in WORDS.items())
    return Markup('<p class="heard">Marked: {}.</p>').format(shown)


def _title(clip: Clip) -> str:
    return f"{style.language_name(clip.language)}, {clip.id}, {clip.seconds:.1f} s"


def _figure(one: Heard) -> Markup:
    """One clip: title, sound, a table of reference and transcripts, and whose it is."""
    title = corpora.find(one.clip.source).title
    caption = Markup("<strong>{}</strong>, {}: <code>{}</code>").format(
        style.language_name(one.clip.language), title, one.clip.id
    )
    rows = [_row("Reference", one.clip, escape(one.clip.text), f"{one.words} word{'s' * (one.words != 1)}")]
    for systems, text in _same(one):
        pieces = compared(one.clip.text, text, one.clip.language)
        rows.append(_row(", ".join(systems), one.clip, _marked(pieces), str(one.errors[systems[0]])))
    heads = Markup("").join(map(Markup('<th scope="col">{}</th>').format, ("Written by", "Text", "Errors")))
    return Markup(
        '<figure class="heard"><figcaption>{}</figcaption>{}'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>"
        '<p class="credit">{}</p></figure>'
    ).format(caption, _sound(one.clip), heads, Markup("").join(rows), licences.credit(one.clip))


def _sound(clip: Clip) -> Markup:
    """The player with the clip in it, or a sentence in its place."""
    if not licences.may_be_passed_on(clip):
        return Markup("<p>This recording is not embedded: its licence does not let it be passed on here.</p>")
    data = base64.b64encode(clip.flac).decode()
    return Markup('<audio controls preload="metadata" aria-label="{}" src="data:audio/flac;base64,{}"></audio>').format(
        _title(clip), Markup(data)
    )


def _same(one: Heard) -> list[tuple[list[str], str]]:
    """Systems that wrote the same, together, in the order of the first of them."""
    texts: dict[str, list[str]] = {}
    for system, said in one.said.items():
        texts.setdefault(said.text, []).append(system)
    return [(systems, text) for text, systems in texts.items()]


def _row(head: str, clip: Clip, text: Markup, errors: str) -> Markup:
    return Markup('<tr><th scope="row">{}</th><td lang="{}" dir="auto">{}</td><td>{}</td></tr>').format(
        head, clip.language, text, errors
    )


def compared(reference: str, hypothesis: str, language: str) -> list[Piece]:
    """Return what was written, piece by piece, with the words that are missing in their places.

    Args:
        reference: what is said.
        hypothesis: what was written.
        language: Whisper's code; it decides what counts as a word.

    Returns:
        Pairs of kind and text. A piece is a word as it was written, with its punctuation; where that cannot be told,
        because the whole is normalised to other words than its parts, it is a word as it is compared.
    """
    said = normalise(reference, language).split()
    pieces = _pieces(hypothesis, language)
    written = [word for _, words in pieces for word in words]
    kinds, missing = _aligned(said, written)
    found, place = [], 0
    for text, words in pieces:
        own = kinds[place : place + len(words)]
        for i in range(place, place + max(1, len(words))):
            found += [(MISSING, word) for word in missing.pop(i, ())]
        found.append((next(filter(None, own), RIGHT), text))
        place += len(words)
    return found + [(MISSING, word) for word in missing.pop(place, ())]


def _pieces(text: str, language: str) -> list[tuple[str, list[str]]]:
    """The parts of a text between spaces, each with the words it is compared as."""
    whole = normalise(text, language).split()
    parts = [(part, normalise(part, language).split()) for part in text.split()]
    if language in LETTER_BY_LETTER or [word for _, words in parts for word in words] != whole:
        return [(word, [word]) for word in whole]
    return parts


def _aligned(said: Sequence[str], written: Sequence[str]) -> tuple[list[str], dict[int, list[str]]]:
    """The kind of each word that was written, and the missing words by the place before which they belong."""
    if not said or not written:
        return [ADDED] * len(written), {0: list(said)}
    kinds, missing = [RIGHT] * len(written), {}
    [chunks] = jiwer.process_words(" ".join(said), " ".join(written)).alignments
    for chunk in chunks:
        here = slice(chunk.hyp_start_idx, chunk.hyp_end_idx)
        if chunk.type == "delete":
            missing[here.start] = list(said[chunk.ref_start_idx : chunk.ref_end_idx])
        elif chunk.type != "equal":
            kinds[here] = [OTHER if chunk.type == "substitute" else ADDED] * (here.stop - here.start)
    return kinds, missing


def _marked(pieces: Sequence[Piece]) -> Markup:
    """Pieces as HTML; those of one kind that follow each other share an element, and a long rest is folded away."""
    if not pieces:
        return Markup("<em>nothing</em>")
    shown = Markup(" ").join(_runs(pieces[:MOST]))
    if not (rest := pieces[MOST:]):
        return shown
    folded = Markup("<details><summary>{} more words</summary>{}</details>")
    return shown + folded.format(len(rest), Markup(" ").join(_runs(rest)))


def _runs(pieces: Sequence[Piece]) -> Iterator[Markup]:
    for kind, run in groupby(pieces, key=lambda piece: piece[0]):
        text = " ".join(word for _, word in run)
        yield Markup("<{0}>{1}</{0}>").format(Markup(kind), text) if kind else escape(text)
