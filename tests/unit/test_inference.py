"""Intervals and verdicts that take the training seed into account, on made-up counts whose truth is known."""

import dataclasses

import numpy as np
import pytest
from sacrebleu.metrics import CHRF

from speechmerge.errors import ScoringError
from speechmerge.evaluation.chrf import character_matches, chrf
from speechmerge.evaluation.inference import EQUIVALENT, FAILS, HOLDS, OPEN, Bootstrap, seed_deviation, verdict, widened
from speechmerge.evaluation.predictions import Prediction
from speechmerge.evaluation.resampling import RESAMPLES, compare, comparison, interval, pooled, resampled_rates
from speechmerge.evaluation.scoring import Counts, translation

CELLS = ("es", "it", "nl")


def counts(errors, words, name="c"):
    return Counts(
        tuple(f"{name}{i}" for i in range(len(words))), np.asarray(errors), np.asarray(words),
        substitutions=0, deletions=0, insertions=0, character_errors=0, characters=1, runaway=0, empty_references=0,
    )  # fmt: skip


def table(rng, rates, *, clips=40, hardness=None):
    """Scores of a system by seed and cell: ``rates`` is its error rate for each seed; clips differ in hardness."""
    hardness = np.random.default_rng(8).gamma(4, 1 / 4, size=clips) if hardness is None else hardness
    words = np.full(clips, 8)
    return [
        {cell: counts(rng.binomial(words, np.clip(rate * hardness, 0, 1)), words) for cell in CELLS} for rate in rates
    ]


@pytest.fixture
def systems():
    rng = np.random.default_rng(1)
    return table(rng, (0.20, 0.22, 0.25)), table(rng, (0.26, 0.29, 0.30))


@pytest.fixture
def translations(make_clip):
    english = ["the sun rises over the sea", "the dog sleeps in the house", "bread and fire", "a silver key", "a"]
    said = ["The sun rises over the sea", "the dog is sleeping in the house", "", "a silver key!", "an"]
    clips = [make_clip(f"c{i}", "texto", translation=text) for i, text in enumerate(english)]
    return translation([Prediction(f"c{i}", text) for i, text in enumerate(said)], clips), said, english


@pytest.mark.parametrize("macro", [False, True])
@pytest.mark.parametrize("view", [lambda s: s, Counts.capped], ids=["raw", "capped"])
def test_one_seed_is_the_bootstrap_over_clips(systems, macro, view):
    one, other = ([view(s) for s in system[0].values()] for system in systems)
    named = [[dict(zip(CELLS, scores, strict=True))] for scores in (one, other)]
    bootstrap = Bootstrap(CELLS, macro=macro)
    rate, samples = bootstrap.rate(named[0])
    np.testing.assert_array_equal(samples, resampled_rates(one, macro=macro))
    assert rate == (np.mean([s.rate for s in one]) if macro else pooled(one))
    if not macro:
        assert comparison(*bootstrap.difference(named)) == compare(one, other)


@pytest.mark.parametrize("view", [lambda s: s, lambda s: s.by_chrf()], ids=["bleu", "chrf"])
def test_translations_are_resampled_too(translations, view):
    scores = view(translations[0])
    rate, samples = Bootstrap(("es",)).rate([{"es": scores}])
    np.testing.assert_array_equal(samples, resampled_rates([scores]))
    assert rate == scores.rate and interval(samples)[0] < rate < interval(samples)[1]


def test_bleu_is_not_compared_with_chrf(translations):
    scores, *_ = translations
    with pytest.raises(ScoringError, match=r"not scored alike.*'chrF2, nrefs"):
        Bootstrap(("es",)).difference(([{"es": scores}], [{"es": scores.by_chrf()}]))


def test_chrf_is_sacrebleus_of_the_whole_and_of_redrawn_utterances(translations):
    scores, said, english = translations
    assert 100 * scores.by_chrf().rate == pytest.approx(scores.chrf, abs=1e-9)
    draws = np.array([[2, 0, 1, 1, 1], [0, 0, 5, 0, 0], [0, 0, 0, 0, 5]])
    found, ones = scores.by_chrf().resampled(draws)
    for row, value in zip(draws, found, strict=True):
        again = [i for i, times in enumerate(row) for _ in range(times)]
        expected = CHRF().corpus_score([said[i] for i in again], [[english[i] for i in again]]).score
        assert 100 * value == pytest.approx(expected, abs=1e-9)
    assert list(ones) == [1, 1, 1]


@pytest.mark.parametrize(
    "pair", [("ä b", "äb"), ("abcabc", "abc"), ("", "abc"), ("abc", ""), ("", ""), ("xyz", "abc"), ("Mr. 木", "mr 木")]
)
def test_chrf_of_short_texts(pair):
    assert 100 * chrf(character_matches(*pair)) == pytest.approx(CHRF().corpus_score([pair[0]], [[pair[1]]]).score)


def test_seeds_widen_the_interval_by_what_theory_says():
    """Seeds that shift a system's rate: the variance of the mean over seeds is added to that of the clips."""
    words = np.full(400, 10)
    model = np.random.default_rng(0).binomial(words, 0.3)
    rates = np.array([0.0, 1.0, 2.0]) / 10
    system = [{"es": counts(model + round(10 * shift), words)} for shift in rates]
    _, samples = Bootstrap(("es",), seeds=3).rate(system)
    clips = resampled_rates([system[0]["es"]])
    assert samples.var() == pytest.approx(clips.var() + np.var(rates, ddof=1) / 3, rel=0.05)


def test_shared_draws_make_differences_narrower(systems):
    first, second = systems
    bootstrap = Bootstrap(CELLS, seeds=3)
    _, paired = bootstrap.difference((first, second))
    apart = bootstrap.rate(first)[1] - dataclasses.replace(bootstrap, seed=1).rate(second)[1]
    assert np.std(paired) < 0.7 * np.std(apart)
    assert np.all(bootstrap.difference((first, first))[1] == 0)


def test_an_average_of_differences_is_narrower_than_the_average_of_the_ends(systems):
    """Pairs on other cells are nearly independent: three of them shrink the interval to about the root of a third."""
    bootstrap = Bootstrap(CELLS)
    pairs = [tuple([{cell: system[0][cell]}] for system in systems) for cell in CELLS]
    value, joint = bootstrap.difference(*pairs)
    single = [bootstrap.difference(pair) for pair in pairs]
    assert value == pytest.approx(np.mean([difference for difference, _ in single]))
    ends = np.mean([interval(samples) for _, samples in single], axis=0)
    assert np.ptp(interval(joint)) == pytest.approx(np.ptp(ends) / np.sqrt(3), rel=0.15)
    again = bootstrap.difference(pairs[1], pairs[1])[1]  # the same clips are redrawn alike
    np.testing.assert_array_equal(again, single[1][1])


def test_intervals_cover_the_truth_where_seeds_matter():
    """Difference of two systems with three seeds each; without the seeds the interval covers far too seldom."""
    rng, times, truth = np.random.default_rng(4), 150, 0.05
    covered = {"seeds": 0, "clips": 0}
    for _ in range(times):
        hardness = rng.gamma(4, 1 / 4, size=40)
        shift = rng.normal(0, 0.015, size=(2, 3))
        first, second = (table(rng, 0.2 + at + s, hardness=hardness) for at, s in zip((truth, 0), shift, strict=True))
        for name, chosen in (("seeds", slice(3)), ("clips", slice(1))):
            samples = Bootstrap(CELLS, seeds=3 if name == "seeds" else 1).difference((first[chosen], second[chosen]))[1]
            low, high = interval(samples)
            covered[name] += low < truth < high
    assert covered["seeds"] >= 0.87 * times and covered["clips"] <= 0.8 * times


def test_a_difference_of_one_seed_is_widened_by_the_deviation_between_seeds():
    samples = np.random.default_rng(0).normal(0.02, 0.003, RESAMPLES)
    low, high = interval(widened(samples, 0.004))
    assert (high + low) / 2 == pytest.approx(0.02, abs=3e-4)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.005, rel=0.03)
    np.testing.assert_array_equal(widened(samples, 0.0), samples)


def test_the_deviation_between_seeds_is_pooled_within_pairs():
    assert seed_deviation(np.array([[1.0, 2, 3], [11, 11, 11]])) == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize(
    ("mean", "deviation", "found"),
    [
        (-2.0, 0.5, HOLDS),
        (2.0, 0.5, FAILS),
        (-1.0, 1.0, OPEN),
        (0.0, 0.5, EQUIVALENT),
        (0.0, 0.58, EQUIVALENT),  # 90 % are within .95, 95 % are not within 1
        (0.0, 0.65, OPEN),
        (-0.5, 0.1, EQUIVALENT),  # certain, and too small to count
        (-1.2, 0.1, HOLDS),
    ],
)
def test_verdicts_on_hand_cases(mean, deviation, found):
    samples = mean + deviation * np.random.default_rng(0).standard_normal(RESAMPLES)
    assert verdict(samples, "lower", margin=1.0) == found
    assert verdict(-samples, "higher", margin=1.0) == found


@pytest.mark.parametrize("margin", [0.0, -1.0, float("nan"), float("inf")])
def test_a_margin_that_is_none_is_refused(margin):
    with pytest.raises(ScoringError, match=r"margin of a claim is .*; expected a number above 0"):
        verdict(np.zeros(9), "lower", margin)


def test_other_bad_input_is_refused(systems):
    first, second = systems
    bootstrap = Bootstrap(CELLS, seeds=3)
    with pytest.raises(ScoringError, match="scores of 2 training seeds, the table has 3; train the missing"):
        bootstrap.difference((first, second[:2]))
    with pytest.raises(ScoringError, match="tested on es, it, nl and on es, it; test both on all"):
        bootstrap.difference((first, [{c: s[c] for c in ("es", "it")} for s in second]))
    fewer = [s | {"es": counts([1], [4])} for s in second]
    with pytest.raises(ScoringError, match="not scored alike: 40 and 1 utterances"):
        bootstrap.difference((first, fewer))
    with pytest.raises(ScoringError, match="not scored alike: 40 and 1 utterances"):
        bootstrap.difference((first, second), (fewer, fewer))
    other = [first[0], first[1], first[2] | {"it": dataclasses.replace(first[2]["it"], normaliser="none")}]
    with pytest.raises(ScoringError, match=r"not scored alike.*'none'"):
        bootstrap.rate(other)
    with pytest.raises(ScoringError, match="tested on es, it, nl; expected cells among es, it"):
        Bootstrap(("es", "it"), seeds=3).rate(first)
    with pytest.raises(ScoringError, match="tested on nothing"):
        bootstrap.rate([{}, {}, {}])
    with pytest.raises(ScoringError, match="no pair of systems"):
        bootstrap.difference()
    with pytest.raises(ScoringError, match="has 0 training seeds"):
        Bootstrap(CELLS, seeds=0)
    with pytest.raises(ScoringError, match=r"direction of a claim is 'lowr'\. Did you mean 'lower'"):
        verdict(np.zeros(9), "lowr", 1.0)
    with pytest.raises(ScoringError, match=r"between seeds is -0\.1; expected a number of at least 0"):
        widened(np.zeros(9), -0.1)
    with pytest.raises(ScoringError, match="measured with 1 training seed; at least two"):
        seed_deviation(np.zeros((4, 1)))
