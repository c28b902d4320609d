"""Predictions and references become numbers with intervals: WER, CER, BLEU, chrF, bootstrap, paired comparison.

Nothing is decoded here and nothing is dropped: an empty reference, an empty hypothesis and a runaway repetition all
count, and how many there were is part of the score.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from .corpora import Clip
from .decoding import Prediction
from .errors import ScoringError
from .text import NORMALISER, normalise

RESAMPLES = 10_000
COMPRESSION_LIMIT = 2.4  # Whisper's own threshold for a repetitive hypothesis


@dataclass(frozen=True)
class Counts:
    """Word and character edits of the utterances of one language, in the references' order; arrays are ``[n]``."""

    ids: tuple[str, ...]
    errors: np.ndarray
    words: np.ndarray
    substitutions: int
    deletions: int
    insertions: int
    character_errors: int
    characters: int
    runaway: int
    empty_references: int
    normaliser: str = NORMALISER

    @property
    def wer(self) -> float:
        """Word error rate as a fraction; may exceed 1."""
        return float(self.errors.sum() / max(1, self.words.sum()))

    @property
    def cer(self) -> float:
        """Character error rate as a fraction."""
        return self.character_errors / max(1, self.characters)


def match(predictions: Sequence[Prediction], clips: Sequence[Clip]) -> list[Prediction]:
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


def count(predictions: Sequence[Prediction], clips: Sequence[Clip], language: str) -> Counts:
    """Align hypotheses with transcripts after Whisper's normalisation and count edits per utterance."""
    matched = match(predictions, clips)
    references = [normalise(c.text, language) for c in clips]
    hypotheses = [normalise(p.text, language) for p in matched]
    edits = [_edits(jiwer.process_words, r, h, len(h.split())) for r, h in zip(references, hypotheses, strict=True)]
    letters = [_edits(jiwer.process_characters, r, h, len(h)) for r, h in zip(references, hypotheses, strict=True)]
    substitutions, deletions, insertions = (sum(e[i] for e in edits) for i in range(3))
    return Counts(
        ids=tuple(c.id for c in clips),
        errors=np.array([sum(e) for e in edits]),
        words=np.array([len(r.split()) for r in references]),
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        character_errors=sum(map(sum, letters)),
        characters=sum(map(len, references)),
        runaway=sum(p.cut or is_repetitive(p.text) for p in matched),
        empty_references=sum(not r for r in references),
    )


def _edits(process, reference: str, hypothesis: str, length: int) -> tuple[int, int, int]:
    """Substitutions, deletions, insertions; an empty reference makes everything an insertion."""
    if not reference:
        return 0, 0, length
    out = process(reference, hypothesis)
    return out.substitutions, out.deletions, out.insertions


def is_repetitive(text: str) -> bool:
    """Tell whether a hypothesis compresses better than 2.4 to 1, Whisper's sign of a decoding loop."""
    data = text.encode()
    return len(data) > COMPRESSION_LIMIT * len(zlib.compress(data))


def resampled_rates(counts: Sequence[Counts], *, macro: bool = False, seed: int = 0) -> np.ndarray:
    """Bootstrap error rates, shape ``[RESAMPLES]``: utterances are redrawn within each language.

    Args:
        counts: one entry per language; the same seed redraws the same utterances for every system.
        macro: average the languages' rates instead of pooling their words.
        seed: of the resampling.
    """
    errors, words = [], []
    for i, c in enumerate(counts):
        rng = np.random.default_rng([seed, i])
        draws = rng.multinomial(len(c.errors), np.full(len(c.errors), 1 / len(c.errors)), size=RESAMPLES)
        errors.append(draws @ c.errors)
        words.append(draws @ c.words)
    if macro:
        return np.mean([e / np.maximum(w, 1) for e, w in zip(errors, words, strict=True)], axis=0)
    return np.sum(errors, axis=0) / np.maximum(np.sum(words, axis=0), 1)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of bootstrap samples."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """Paired difference of two systems on the same utterances: first minus second, as a fraction."""

    difference: float
    ci_low: float
    ci_high: float
    p_value: float


def compare(first: Sequence[Counts], second: Sequence[Counts], *, seed: int = 0) -> Comparison:
    """Paired bootstrap of the pooled word error rates; negative means the first system makes fewer errors.

    The p-value is two-sided: twice the smaller share of resamples on either side of zero.

    Raises:
        ScoringError: the systems were scored on different utterances or with different normalisers.
    """
    if len(first) != len(second):
        raise ScoringError(f"the systems were scored on {len(first)} and {len(second)} languages; score both on all.")
    for a, b in zip(first, second, strict=True):
        if a.ids != b.ids or a.normaliser != b.normaliser:
            raise ScoringError(
                f"the systems were not scored alike: {len(a.ids)} and {len(b.ids)} utterances, normalisers "
                f"{a.normaliser!r} and {b.normaliser!r}; score both on the same references."
            )
    samples = resampled_rates(first, seed=seed) - resampled_rates(second, seed=seed)
    below = (np.sum(samples <= 0) + 1) / (RESAMPLES + 1)
    above = (np.sum(samples >= 0) + 1) / (RESAMPLES + 1)
    return Comparison(
        pooled_wer(first) - pooled_wer(second), *interval(samples), float(min(1.0, 2 * min(below, above)))
    )


def pooled_wer(counts: Sequence[Counts]) -> float:
    """All errors over all reference words."""
    return float(sum(c.errors.sum() for c in counts) / max(1, sum(c.words.sum() for c in counts)))


@dataclass(frozen=True)
class Translation:
    """BLEU and chrF of a test set with sacrebleu's signature and a 95 % bootstrap interval of BLEU; scale 0 to 100."""

    bleu: float
    chrf: float
    ci_low: float
    ci_high: float
    signature: str
    words: int


def translation(predictions: Sequence[Prediction], clips: Sequence[Clip], *, resamples: int = 1000) -> Translation:
    """Score English translations with sacrebleu (cased, 13a tokens), references as the corpus gives them."""
    hypotheses = [p.text for p in match(predictions, clips)]
    references = [c.translation for c in clips]
    if None in references:
        raise ScoringError(
            f"clip {clips[references.index(None)].id} has no translation; take a corpus with English text."
        )
    bleu = BLEU()
    whole = bleu.corpus_score(hypotheses, [references])
    rng = np.random.default_rng(0)
    draws = rng.integers(len(clips), size=(resamples, len(clips)))
    sampled = [bleu.corpus_score([hypotheses[i] for i in d], [[references[i] for i in d]]).score for d in draws]
    return Translation(
        bleu=whole.score,
        chrf=CHRF().corpus_score(hypotheses, [references]).score,
        **dict(zip(("ci_low", "ci_high"), interval(np.array(sampled)), strict=True)),
        signature=str(bleu.get_signature()),
        words=sum(len(r.split()) for r in references),
    )
