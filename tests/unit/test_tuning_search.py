"""The search of a tuning on made-up losses: what it finds, in what order, and that a shorter one is its beginning."""

import math

import pytest

from speechmerge.errors import MethodError
from speechmerge.merging import searching
from speechmerge.tuning import methods
from speechmerge.tuning.search import ALL, SOME, Spent, Trial, finalists, front, search
from speechmerge.tuning.updates import Candidate

BEST = {"iso_c": 1.08, "task_arithmetic": 1.15, "ties": 1.3}  # least loss that each method can reach
NAMES = tuple(BEST)


class Bowls:
    """Losses that are bowls over ln λ, each method with its own depth; two kinds of speech."""

    def __init__(self, granted=math.inf, fails=()):
        self.asked, self.granted, self.fails = [], granted, fails

    def norm(self, candidate):
        return 0.0 if candidate.method in self.fails else {"weight_average": 1.0}.get(candidate.method, 2.0)

    def ask(self, candidate, scaling, fidelity):
        if len(self.asked) >= self.granted:
            raise Spent
        self.asked.append((candidate, scaling, fidelity))
        depth = BEST[candidate.method] - 0.02 * ("density" in candidate.options and candidate.options["density"] == 0.7)
        weights = candidate.options.get("weights", [1.0, 1.0])
        depth += 0.05 * (weights[1] / weights[0] - 1.4) ** 2 if candidate.method == "task_arithmetic" else 0.0
        score = depth + 0.3 * math.log(scaling / 0.8) ** 2
        losses = (score * weights[1] ** 0.2, score * 1.3 / weights[1] ** 0.2)
        return Trial(candidate, scaling, fidelity, losses, score)

    def run(self):
        return search(NAMES, self.ask, self.norm, lambda trial: list(trial.losses), length=1.4, seed=0)

    def trials(self):
        return [self.__class__().ask(*one) for one in self.asked]


def test_the_best_method_and_its_scaling_are_found_on_all_clips():
    bowls = Bowls()
    assert bowls.run() is True
    best = finalists(bowls.trials(), 3)
    assert best[0].candidate.method == "iso_c" and best[0].fidelity == ALL
    assert best[0].scaling == pytest.approx(0.8, rel=0.06)
    assert len({(c.candidate, c.scaling) for c in best}) == 3


def test_every_method_is_measured_once_before_any_is_looked_at_more_closely():
    bowls = Bowls()
    bowls.run()
    assert [candidate.method for candidate, _, _ in bowls.asked[:3]] == list(NAMES)
    assert {fidelity for *_, fidelity in bowls.asked[:3]} == {SOME}


@pytest.mark.parametrize("granted", [1, 4, 11, 19])
def test_a_search_that_is_cut_short_has_tried_the_first_of_what_a_longer_one_tries(granted):
    whole, cut = Bowls(), Bowls(granted)
    whole.run()
    assert cut.run() is False
    assert cut.asked == whole.asked[:granted]


def test_other_parameters_are_tried_around_the_best_and_weights_answer_to_the_speech_that_lags():
    bowls = Bowls()
    bowls.run()
    tried = {candidate for candidate, *_ in bowls.asked}
    assert Candidate.of("ties", {"density": 0.7}) in tried
    weighed = [c for c in tried if c.method == "task_arithmetic" and "weights" in c.options]
    assert weighed and all(c.options["weights"][1] > c.options["weights"][0] for c in weighed)
    assert all(sum(c.options["weights"]) == pytest.approx(2, abs=0.01) for c in weighed)


def test_a_method_that_cannot_merge_is_passed_over():
    bowls = Bowls(fails=("iso_c",))
    bowls.run()
    assert {candidate.method for candidate, *_ in bowls.asked} == {"task_arithmetic", "ties"}


def test_finalists_are_told_apart_and_of_one_method_there_are_two_at_most():
    one, other = Candidate.of("ties"), Candidate.of("iso_c")
    trials = [Trial(one, scaling, ALL, (), scaling) for scaling in (1.0, 1.1, 1.3, 2.0)]
    trials += [Trial(other, 1.0, SOME, (), 0.5), Trial(other, 2.0, ALL, (), math.inf)]
    trials += [Trial(methods.AVERAGE, 1.0, ALL, (), 0.1)]
    assert [(t.candidate, t.scaling) for t in finalists(trials, 5)] == [(one, 1.0), (one, 1.3), (other, 1.0)]


def test_the_front_holds_what_no_other_point_beats_on_both_sides():
    points = [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0), (2.5, 2.5), (1.0, 4.0), (3.0, 1.0)]
    assert sorted(front(points)) == [0, 1, 2]


@pytest.mark.parametrize(("best", "start"), [(0.2, 0.2), (0.3, 0.2), (0.2, 0.5), (1.5, 0.7), (0.8, 0.9)])
def test_a_descent_from_a_good_guess_takes_few_evaluations(best, start):
    calls = []
    tried = searching.descend(lambda value: calls.append(value) or (math.log(value / best)) ** 2, start)
    assert tried[0][0] == pytest.approx(best, rel=0.05)
    assert len(calls) == len(set(calls)) <= 6


def test_a_descent_goes_no_further_than_it_may_and_past_what_is_not_finite():
    assert len(searching.descend(lambda value: -value, 1.0)) == searching.STEPS
    tried = searching.descend(lambda value: math.nan if value > 1.2 else (math.log(value / 0.9)) ** 2, 1.0)
    assert tried[0][0] == 1.0 and math.isinf(tried[-1][1])
    calls = []
    searching.descend(lambda v: calls.append(v) or (math.log(v / 0.9)) ** 2, 1.0, worth=lambda: False)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tyes"], "There is no merge method 'tyes'. Did you mean 'ties'?"),
        (["ties", "ties"], "--methods names ties twice"),
        (["regmean"], "regmean cannot be tuned here, for it needs more than the models"),
        (["emr"], "emr cannot be tuned here, for it makes one model for each expert"),
        (["slerp"], "slerp cannot be tuned here, for it merges 2 experts only"),
    ],
)
def test_methods_that_cannot_be_tuned_are_refused_by_name(names, message):
    with pytest.raises(MethodError) as fault:
        methods.chosen(names, 3)
    assert message in str(fault.value)


def test_all_methods_are_those_that_need_the_models_alone_the_slow_ones_last():
    every = methods.chosen(["all"], 2)
    assert every[: len(methods.DEFAULT)] == methods.DEFAULT == methods.chosen(None, 2)
    assert every[-2:] == methods.LAST and "slerp" in every and len(every) == len(set(every)) > 20
    assert not {"regmean", "fisher", "emr", "greedy_soup"} & set(every)
    for name in every:
        first = methods.first(name, 3)
        assert ("seed" in first.options) == methods.find(name).stochastic
        for candidate in (first, *methods.variants(first)):
            methods.find(name).check(candidate.options, experts=2)
