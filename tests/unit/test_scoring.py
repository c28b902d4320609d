"""Error rates, intervals and comparisons against cases worked out by hand."""

import dataclasses
import logging

import numpy as np
import pytest
import sacrebleu
from sacrebleu.metrics import BLEU, CHRF

from speechmerge.cli.models import _rates
from speechmerge.evaluation import scoring
from speechmerge.evaluation.predictions import Prediction
from speechmerge.evaluation.resampling import RESAMPLES, compare, interval, pooled, resampled_rates
from speechmerge.evaluation.scoring import count, translation
from speechmerge.evaluation.summaries import averages, summary
from speechmerge.text import NORMALISER


@pytest.fixture
def scored(make_clip):
    """Count (reference, hypothesis) pairs of a language."""

    def score(*pairs, language="es"):
        clips = [make_clip(f"c{i}", reference) for i, (reference, _) in enumerate(pairs)]
        return count([Prediction(f"c{i}", h) for i, (_, h) in enumerate(pairs)], clips, language)

    return score


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits", "letters"),
    [
        ("el sol sale", "el sol sale", (0, 0, 0), 0),
        ("el sol sale", "El SOL, sale.", (0, 0, 0), 0),
        ("el sol sale", "el son sale", (1, 0, 0), 1),
        ("el sol sale", "el sale", (0, 1, 0), 4),
        ("el sol sale", "el sol que sale", (0, 0, 1), 4),
        ("el sol sale", "", (0, 3, 0), 11),
        ("qué", "que", (1, 0, 0), 1),
        ("uno dos", "tres cuatro cinco", (2, 0, 1), None),
    ],
)
def test_edits_of_one_utterance(scored, reference, hypothesis, edits, letters):
    counts = scored((reference, hypothesis))
    assert (counts.substitutions, counts.deletions, counts.insertions) == edits
    assert counts.wer == pytest.approx(sum(edits) / len(reference.split()))
    if letters is not None:
        assert counts.character_errors == letters and counts.cer == pytest.approx(letters / len(reference))


def test_words_of_all_utterances_are_pooled(scored):
    counts = scored(("a b c d", "a b c d"), ("e", "f"))
    assert counts.errors.tolist() == [0, 1] and counts.words.tolist() == [4, 1]
    assert counts.wer == 0.2
    assert (len(counts.ids), counts.characters) == (2, 8)


def test_an_empty_reference_is_kept_and_what_was_said_counts_as_insertions(scored):
    counts = scored(("...", "hola a todos"), ("sol", "sol"))
    assert counts.empty_references == 1 and counts.insertions == 3 and counts.wer == 3.0
    assert counts.character_errors == len("hola a todos")
    silent = scored(("...", ""), ("...", "!"))
    assert (silent.wer, silent.cer, silent.empty_references) == (0.0, 0.0, 2)


def test_runaway_repetition_raises_the_rate_above_one_and_is_counted(scored, make_clip):
    counts = scored(("te as", "t'as " * 60))
    assert counts.wer > 10 and counts.runaway == 1
    cut = count([Prediction("a", "hola", cut=True)], [make_clip("a", "hola")], "es")
    assert (cut.wer, cut.runaway) == (0.0, 1)
    assert scored(("el sol sale", "el sol sale por la mañana y se pone por la tarde")).runaway == 0


def test_english_is_compared_after_whispers_english_normaliser(scored):
    assert scored(("I won't pay twenty dollars", "I will not pay $20"), language="en").wer == 0.0
    assert scored(("I won't pay twenty dollars", "I will not pay $20"), language="es").wer > 0.5


@pytest.mark.parametrize(
    ("language", "reference", "hypothesis", "rate", "words"),
    [
        ("ja", "今日は天気がいい", "今日は天気がよい", 1 / 8, 8),
        ("ja", "今日は 天気がいい。", "今日は、天気がいい", 0, 8),
        ("zh", "今天天气很好", "今天天气真好", 1 / 6, 6),
        ("yue", "廣東話係好", "廣東話好", 1 / 5, 5),
        ("th", "สวัสดี", "สวัสดิ", 1 / 4, 4),
        ("lo", "ສະບາຍດີ", "ສະບາຍດ", 1 / 6, 6),
        ("my", "မြန်မာ", "မြန်မ", 1 / 3, 3),
    ],
)
def test_languages_without_spaces_are_counted_letter_by_letter(scored, language, reference, hypothesis, rate, words):
    counts = scored((reference, hypothesis), language=language)
    assert (counts.wer, counts.cer, counts.words.sum()) == (pytest.approx(rate), counts.wer, words)
    assert counts.normaliser.startswith(f"{NORMALISER}, letter by letter")
    assert _rates(language).startswith("CER") and _rates(language).endswith("letters")


def test_khmer_is_counted_in_words_as_whispers_authors_do_but_its_characters_come_first(scored):
    counts = scored(("ភាសាខ្មែរ ល្អ", "ភាសាខ្មែរល្អ"), language="km")
    assert (counts.wer, counts.cer, counts.characters) == (1.0, 0.0, 7)
    assert _rates("km").startswith("CER") and _rates("km").endswith("words") and _rates("es").startswith("WER")


@pytest.mark.parametrize(
    ("language", "reference", "hypothesis", "rate", "words"),
    [
        ("tr", "İstanbul çok güzel.", "istanbul çok güzel", 0, 3),
        ("ru", "закрыл за\u0301мок", "закрыл замок", 0, 2),
        ("hi", "मेरा नाम राम है", "मोरा नामा रमि हैं", 1, 4),
        ("bn", "আমার নাম", "আমার নামা", 1 / 2, 2),
        ("ar", "كَتَبَ الولد", "كتب الولد", 0, 2),
        ("vi", "tie\u0302\u0301ng Việt", "tiếng việt", 0, 2),
    ],
)
def test_words_are_not_cut_at_marks(scored, caplog, language, reference, hypothesis, rate, words):
    scoring._say_marked.cache_clear()
    with caplog.at_level(logging.WARNING):
        counts = scored((reference, hypothesis), language=language)
        scored((reference, hypothesis), language=language)
    assert (counts.wer, counts.words.sum()) == (rate, words)
    told = language != "vi"  # Unicode composes those
    assert [record.getMessage()[:2] for record in caplog.records] == [language] * told
    assert counts.normaliser == NORMALISER + ", words not cut at marks" * told


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize(
    ("reference", "hypothesis", "errors", "words"),
    [
        ("Hold the line…", "hold the line...", 0, 3),
        ("Hello…", "Hello", 0, 1),
        ("…", "♪", 0, 0),
        ("…", "no", 1, 0),
        ("A — … no & no %", "a no no", 0, 3),
    ],
)
def test_what_holds_no_letter_or_digit_is_counted_nowhere(scored, language, reference, hypothesis, errors, words):
    counts = scored((reference, hypothesis), language=language)
    assert (counts.errors.sum(), counts.words.sum(), counts.empty_references) == (errors, words, words == 0)


def test_an_average_names_every_normaliser_behind_it(scored):
    chinese, spanish = scored(("很好", "很好"), language="zh"), scored(("sol", "sol"))
    assert averages([spanish, chinese])["pooled"]["normaliser"] == f"{NORMALISER}; {NORMALISER}, letter by letter"
    assert averages([spanish, spanish])["macro"]["normaliser"] == NORMALISER


def test_predictions_are_put_into_the_order_of_the_references(make_clip):
    clips = [make_clip("a", "uno"), make_clip("b", "dos")]
    counts = count([Prediction("b", "dos"), Prediction("a", "uno")], clips, "es")
    assert counts.wer == 0.0 and counts.ids == ("a", "b")


def noisy(rng, make_clip, error_rate, *, size=60, name="c"):
    """Utterances of 4 to 9 words of which a share is wrong."""
    clips, said = [], []
    for i in range(size):
        words = [f"w{k}" for k in rng.integers(1000, size=rng.integers(4, 10))]
        clips.append(make_clip(f"{name}{i}", " ".join(words), flac=b""))
        said.append(Prediction(f"{name}{i}", " ".join("x" if rng.random() < error_rate else w for w in words)))
    return count(said, clips, "es")


def degraded(counts, rng, share):
    """The same utterances with errors added to a share of the words."""
    return dataclasses.replace(counts, errors=counts.errors + rng.binomial(counts.words, share))


@pytest.fixture
def pair(make_clip):
    rng = np.random.default_rng(5)
    return [noisy(rng, make_clip, 0.2), noisy(rng, make_clip, 0.5, size=30, name="d")]


def test_pooled_is_over_words_and_macro_over_languages(pair):
    words = sum(c.words.sum() for c in pair)
    assert pooled(pair) == pytest.approx(sum(c.errors.sum() for c in pair) / words)
    macro = resampled_rates(pair, macro=True).mean()
    assert macro == pytest.approx(np.mean([c.wer for c in pair]), abs=0.01)
    assert resampled_rates(pair).mean() == pytest.approx(pooled(pair), abs=0.01)
    assert macro - pooled(pair) > 0.03  # the smaller, harder language weighs more


@pytest.mark.parametrize("macro", [False, True])
def test_the_interval_holds_the_estimate_and_is_seeded(pair, macro):
    rates = resampled_rates(pair, macro=macro)
    assert rates.shape == (RESAMPLES,)
    low, high = interval(rates)
    estimate = np.mean([c.wer for c in pair]) if macro else pooled(pair)
    assert low < estimate < high and high - low < 0.2
    np.testing.assert_array_equal(rates, resampled_rates(pair, macro=macro))
    assert not np.array_equal(rates, resampled_rates(pair, macro=macro, seed=1))


def test_the_interval_narrows_with_more_utterances_as_theory_says(make_clip):
    widths = []
    for size in (50, 800):
        low, high = interval(resampled_rates([noisy(np.random.default_rng(2), make_clip, 0.3, size=size)]))
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.3)


def test_one_utterance_has_no_spread(scored):
    assert interval(resampled_rates([scored(("a b", "a c"))])) == (0.5, 0.5)


def test_a_system_compared_with_itself(pair):
    same = compare(pair, pair)
    assert (same.difference, same.ci_low, same.ci_high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_the_better_system_has_a_negative_difference_and_a_small_p(pair):
    worse = [degraded(c, np.random.default_rng(1), 0.15) for c in pair]
    found = compare(pair, worse)
    assert found.difference == pytest.approx(pooled(pair) - pooled(worse)) and found.difference < -0.1
    assert found.ci_low < found.difference < found.ci_high < 0 and found.p_value < 0.001
    turned = compare(worse, pair)
    assert turned.difference == -found.difference and turned.p_value == pytest.approx(found.p_value)


def test_a_difference_of_chance_is_not_significant(pair):
    rng = np.random.default_rng(3)
    one, other = ([degraded(c, rng, 0.05) for c in pair] for _ in range(2))
    found = compare(one, other)
    assert found.p_value > 0.05 and found.ci_low < 0 < found.ci_high


def test_pairing_sees_what_separate_intervals_do_not(pair):
    """Two systems that differ by a few errors on the same utterances: intervals overlap, the paired one excludes 0."""
    worse = [degraded(c, np.random.default_rng(1), 0.03) for c in pair]
    assert interval(resampled_rates(pair))[1] > interval(resampled_rates(worse))[0]
    assert compare(pair, worse).ci_high < 0


@pytest.fixture
def translated(make_clip):
    english = ["the sun rises over the sea", "the dog sleeps in the house", "bread and fire", "a silver key"]
    said = ["The sun rises over the sea", "the dog is sleeping in the house", "bread and a fire", "a silver key"]
    clips = [make_clip(f"c{i}", "texto", translation=text) for i, text in enumerate(english)]
    return [Prediction(f"c{i}", text) for i, text in enumerate(said)], clips


def test_translation_scores_are_sacrebleus(translated):
    predictions, clips = translated
    found = translation(predictions[::-1], clips)
    hypotheses, references = [p.text for p in predictions], [[c.translation for c in clips]]
    assert found.bleu == pytest.approx(BLEU().corpus_score(hypotheses, references).score)
    assert found.chrf == CHRF().corpus_score(hypotheses, references).score
    row = summary(found)
    assert row["ci_low"] <= found.bleu <= row["ci_high"] and 0 < found.bleu < 100
    assert found.words == row["n_reference_words"] == sum(len(text.split()) for text in references[0])


def test_the_signature_names_case_tokens_and_version(translated):
    assert translation(*translated).signature == (
        f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    )


def test_a_perfect_translation_scores_a_hundred_and_is_better_than_another(translated):
    _, clips = translated
    found, other = translation([Prediction(c.id, c.translation) for c in clips], clips), translation(*translated)
    assert found.bleu == pytest.approx(100) and found.chrf == pytest.approx(100)
    compared = compare([other, other], [found, found])
    assert compared.difference == pytest.approx(other.rate - 1) and compared.ci_low < compared.difference


def test_bleu_of_many_sums_is_sacrebleus_of_each():
    random = np.random.default_rng(0)
    lengths = random.integers(0, 9, (4000, 2))  # short: orders without n-grams and orders without a match are frequent
    grams = np.maximum(lengths[:, :1] - np.arange(4), 0)
    matches = np.minimum.accumulate(random.binomial(grams, random.random((4000, 1))), axis=1)
    sums = np.hstack([matches, grams, lengths])
    expected = [scoring.bleu(x) for x in sums]
    assert 500 < np.count_nonzero(expected) < 3500
    assert scoring.bleus(sums) == pytest.approx(expected, rel=1e-12)


def test_resampled_bleu_is_that_of_the_redrawn_utterances(translated):
    found = translation(*translated)
    draws = np.array([[2, 0, 1, 1], [1, 1, 1, 1]])
    tops, bottoms = found.resampled(draws)
    hypotheses = [p.text for p in translated[0]]
    again = [i for i, times in enumerate(draws[0]) for _ in range(times)]
    expected = BLEU().corpus_score([hypotheses[i] for i in again], [[translated[1][i].translation for i in again]])
    assert tops == pytest.approx([expected.score / 100, found.rate]) and list(bottoms) == [1, 1]
