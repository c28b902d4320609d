"""Predictions and references become numbers: WER, CER, BLEU, chrF.

Nothing is decoded here and nothing is dropped: an empty reference, an empty hypothesis and a runaway repetition all
count, and how many there were is part of the score.
"""

import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache
from typing import Protocol

import jiwer
import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from ..errors import ScoringError
from ..spelling import procedure, spell
from ..text import LETTER_BY_LETTER, NORMALISER, WITHOUT_SPACES, is_marked, normalise, spaced
from .chrf import CharacterMatches, character_matches
from .predictions import Prediction

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Errors:
    """Word errors of the utterances of one language, in the references' order; arrays are ``[n]``."""

    ids: tuple[str, ...]
    errors: np.ndarray
    words: np.ndarray
    _: KW_ONLY
    normaliser: str = NORMALISER

    @property
    def wer(self) -> float:
        """Word error rate as a fraction; may exceed 1."""
        return float(self.errors.sum() / max(1, self.words.sum()))

    rate = wer  # under the name that it has for scores of any kind

    @property
    def weight(self) -> int:
        """Reference words: what a rate is weighted by where languages are pooled."""
        return int(self.words.sum())

    def capped(self) -> "Errors":
        """Count at most as many errors of an utterance as it has words, so that one runaway hypothesis cannot lead."""
        return Errors(self.ids, np.minimum(self.errors, self.words), self.words, normaliser=self.normaliser)

    def only(self, kept: np.ndarray) -> "Errors":
        """Leave out utterances; ``kept`` is true for those that stay, shape ``[n]``."""
        return Errors(_ids(self.ids, kept), self.errors[kept], self.words[kept], normaliser=self.normaliser)

    def resampled(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return errors and words of redrawn utterances; ``draws`` counts each utterance, shape ``[R, n]``."""
        return draws @ self.errors, draws @ self.words


@dataclass(frozen=True, eq=False)
class Counts(Errors):
    """Word and character edits of the utterances of one language.

    Both are counted on normalised text, of which the single spaces between words are characters too. In languages
    written without spaces a character is a letter with its marks, and spaces do not count; where Whisper's procedure
    compares letter by letter, those letters are the words, and both rates are the same.
    """

    substitutions: int
    deletions: int
    insertions: int
    character_errors: int
    characters: int
    runaway: int
    empty_references: int

    @property
    def cer(self) -> float:
        """Character error rate as a fraction."""
        return self.character_errors / max(1, self.characters)


@dataclass(frozen=True, eq=False)
class WordMatches:
    """N-gram matches of the translations of one language, in the references' order.

    Attributes:
        ids: of the utterances.
        statistics: for each utterance the matches of orders 1 to 4, the n-grams of orders 1 to 4, the lengths of
            hypothesis and reference in tokens; shape ``[n, 10]``.
        signature: sacrebleu's.
    """

    ids: tuple[str, ...]
    statistics: np.ndarray
    signature: str

    @property
    def bleu(self) -> float:
        """BLEU of the whole, 0 to 100."""
        return bleu(self.statistics.sum(0))

    @property
    def rate(self) -> float:
        """BLEU as a fraction."""
        return self.bleu / 100

    weight = 1  # BLEU is averaged over languages, not pooled

    @property
    def normaliser(self) -> str:
        """What the texts went through before they were compared: sacrebleu's own tokens."""
        return self.signature

    def only(self, kept: np.ndarray) -> "WordMatches":
        """Leave out utterances, as :meth:`Errors.only`."""
        return WordMatches(_ids(self.ids, kept), self.statistics[kept], self.signature)

    def resampled(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return BLEU as a fraction of redrawn utterances, and ones; ``draws`` as for :meth:`Errors.resampled`."""
        return bleus(draws @ self.statistics) / 100, np.ones(len(draws))


@dataclass(frozen=True, eq=False)
class Matches(WordMatches):
    """The same with what else a row says of translations.

    Attributes:
        chrf: chrF2 of the whole, 0 to 100.
        characters: n-grams of characters for each utterance, from which chrF is summed; shape ``[n, 6, 3]``.
        words: of the references.
        runaway: hypotheses that ran away into repetition.
    """

    chrf: float
    characters: np.ndarray
    words: int
    runaway: int

    def by_chrf(self) -> CharacterMatches:
        """Return the same translations with chrF in the place of BLEU."""
        return CharacterMatches(self.ids, self.characters, f"chrF2, {self.signature}")


def _ids(ids: tuple[str, ...], kept: np.ndarray) -> tuple[str, ...]:
    return tuple(one for one, stays in zip(ids, kept, strict=True) if stays)


Scores = Errors | WordMatches | CharacterMatches
METRICS = {"asr": "wer", "st": "bleu"}


def bleu(statistics: np.ndarray) -> float:
    """BLEU from summed matches, n-grams and lengths, smoothed as sacrebleu does by default."""
    correct, total, lengths = statistics[:4].tolist(), statistics[4:8].tolist(), statistics[8:].tolist()
    return BLEU.compute_bleu(correct, total, *lengths, smooth_method="exp").score


def bleus(statistics: np.ndarray) -> np.ndarray:
    """Return what :func:`bleu` gives for each of many sums ``[R, 10]``, to the last few bits.

    sacrebleu takes one at a time, and a bootstrap has ten thousand. Of each order without a match the precision is that
    of half a match, of a quarter at the second such order, and so on (Chen & Cherry, aclanthology.org/W14-3346,
    method 3).
    """
    matches, grams, said, wanted = statistics[:, :4], statistics[:, 4:8], statistics[:, 8], statistics[:, 9]
    missed = matches == 0
    precision = np.where(missed, 0.5 ** missed.cumsum(-1), matches) / np.maximum(grams, 1)
    brevity = np.exp(np.minimum(0, 1 - wanted / np.maximum(said, 1)))
    defined = ~missed.all(-1) & (grams > 0).all(-1)
    return 100 * defined * brevity * np.exp(np.log(precision).mean(-1))


class Spoken(Protocol):
    """What a clip or a line of a file of references says."""

    @property
    def id(self) -> str:
        """By which the hypothesis is found."""

    @property
    def text(self) -> str:
        """What is said."""

    @property
    def translation(self) -> str | None:
        """The same in English, or ``None``."""


def match(predictions: Sequence[Prediction], clips: Sequence[Spoken]) -> list[Prediction]:
    """Return the predictions in the order of ``clips``; refuse anything but a one-to-one match of ids.

    Raises:
        ScoringError: there are no clips, or an id is missing, unknown or doubled; both counts and an example are named.
    """
    if not clips:
        raise ScoringError(f"there are no references for {len(predictions)} predictions; choose another split.")
    by_id = {p.id: p for p in predictions}
    wanted = {c.id for c in clips}
    for kind, ids in (("missing", wanted - by_id.keys()), ("unknown", by_id.keys() - wanted)):
        if ids:
            raise ScoringError(
                f"predictions do not match the references: {len(predictions)} predictions, {len(clips)} references, "
                f"{len(ids)} {kind} (for example {min(ids)!r}); decode the same corpus, language and split again."
            )
    if not len(by_id) == len(predictions) == len(clips) == len(wanted):
        raise ScoringError(
            f"an id stands twice: {len(predictions)} predictions, {len(clips)} references, {len(wanted)} ids."
        )
    return [by_id[c.id] for c in clips]


def count(predictions: Sequence[Prediction], clips: Sequence[Spoken], language: str) -> Counts:
    """Align hypotheses with transcripts after Whisper's normalisation and count edits per utterance.

    Where words hold combining marks it is said once for each language that the published normaliser cuts them there.

    Raises:
        ScoringError: ids do not match, or the language is none of Whisper's codes.
    """
    matched = match(predictions, clips)
    _check_language(language)
    references = [normalise(c.text, language) for c in clips]
    hypotheses = [normalise(p.text, language) for p in matched]
    edits = [_word_edits(r, h) for r, h in zip(references, hypotheses, strict=True)]
    letters = [_letter_edits(r, h, language) for r, h in zip(references, hypotheses, strict=True)]
    substitutions, deletions, insertions = (sum(e[i] for e in edits) for i in range(3))
    marked = any(is_marked(c.text, language) for c in clips)
    if marked or any(is_marked(p.text, language) for p in matched):
        _say_marked(language)
    return Counts(
        ids=tuple(c.id for c in clips),
        errors=np.array([sum(e) for e in edits]),
        words=np.array([len(r.split()) for r in references]),
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        character_errors=sum(map(sum, letters)),
        characters=sum(len(spaced(r).split() if language in WITHOUT_SPACES else r) for r in references),
        runaway=sum(p.runaway for p in matched),
        empty_references=sum(not r for r in references),
        normaliser=_procedure(language, marked),
    )


def _check_language(language: str) -> None:
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    if language not in LANGUAGES:
        meant = TO_LANGUAGE_CODE.get(language.lower(), language.lower().replace("_", "-").partition("-")[0])
        raise ScoringError(
            f"the language is {language!r}, which decides what counts as a word; expected Whisper's code, such as "
            f"{meant if meant in LANGUAGES else 'es'!r}."
        )


def _procedure(language: str, marked: bool) -> str:
    """Name the normaliser, and what else decides which words are compared."""
    more = {"letter by letter": language in LETTER_BY_LETTER, "words not cut at marks": marked}
    return ", ".join([NORMALISER, *(name for name, holds in more.items() if holds)])


def spelled(counts: Counts, predictions: Sequence[Prediction], clips: Sequence[Spoken], language: str) -> Errors:
    """Count word errors again with numbers in words on both sides, after :mod:`speechmerge.spelling`.

    ``normaliser`` says where numbers stay as they are. Only utterances with numerals are aligned again.

    Args:
        counts: of these predictions and clips.
        predictions: hypotheses by id.
        clips: the references.
        language: Whisper's code.
    """
    errors, words = counts.errors.copy(), counts.words.copy()
    for i, (prediction, clip) in enumerate(zip(match(predictions, clips), clips, strict=True)):
        texts = clip.text, prediction.text
        told = [spell(text, language) for text in texts]
        if any(one != text for one, text in zip(told, texts, strict=True)):
            reference, hypothesis = (normalise(one, language) for one in told)
            errors[i], words[i] = sum(_word_edits(reference, hypothesis)), len(reference.split())
    return Errors(counts.ids, errors, words, normaliser=f"{counts.normaliser}, {procedure(language)}")


@cache
def _say_marked(language: str) -> None:
    log.warning(
        "%s: Whisper's published normaliser puts a space in the place of every combining mark, which cuts words. Here "
        "words stay whole: vowel signs and tones are kept, stress marks and points dropped. Rates may differ from "
        "published ones.",
        language,
    )


def _word_edits(reference: str, hypothesis: str) -> tuple[int, int, int]:
    return _edits(jiwer.process_words, reference, hypothesis, len(hypothesis.split()))


def _letter_edits(reference: str, hypothesis: str, language: str) -> tuple[int, int, int]:
    if language in WITHOUT_SPACES:
        return _word_edits(spaced(reference), spaced(hypothesis))
    return _edits(jiwer.process_characters, reference, hypothesis, len(hypothesis))


def _edits(process, reference: str, hypothesis: str, length: int) -> tuple[int, int, int]:
    """Substitutions, deletions, insertions; an empty reference makes everything an insertion."""
    if not reference:
        return 0, 0, length
    out = process(reference, hypothesis)
    return out.substitutions, out.deletions, out.insertions


def score(predictions: Sequence[Prediction], clips: Sequence[Spoken], language: str, task: str) -> Scores:
    """Score transcripts (``"asr"``) or English translations (``"st"``)."""
    return count(predictions, clips, language) if task == "asr" else translation(predictions, clips)


def translation(predictions: Sequence[Prediction], clips: Sequence[Spoken]) -> Matches:
    """Count n-gram matches with sacrebleu (cased, 13a tokens), references as the corpus gives them.

    Raises:
        ScoringError: ids do not match, or a clip has no translation.
    """
    matched = match(predictions, clips)
    hypotheses, references = [p.text for p in matched], [c.translation for c in clips]
    if None in references:
        raise ScoringError(
            f"clip {clips[references.index(None)].id} has no translation; take a corpus with English text."
        )
    bleu = BLEU()
    single = [bleu.corpus_score([h], [[r]]) for h, r in zip(hypotheses, references, strict=True)]
    return Matches(
        ids=tuple(c.id for c in clips),
        statistics=np.array([[*x.counts, *x.totals, x.sys_len, x.ref_len] for x in single]),
        chrf=CHRF().corpus_score(hypotheses, [references]).score,
        characters=np.array([character_matches(h, r) for h, r in zip(hypotheses, references, strict=True)]),
        words=sum(len(r.split()) for r in references),
        runaway=sum(p.runaway for p in matched),
        signature=str(bleu.get_signature()),
    )
