"""The search for λ: finds the minimum, counts its evaluations, and keeps values that decoding can tell apart."""

import math

import pytest

from speechmerge.errors import MethodError
from speechmerge.merging import searching


def bowl(best):
    return lambda value: (math.log(value) - math.log(best)) ** 2 + 1


@pytest.mark.parametrize("best", [0.05, 0.21, 0.6, 1.3, 2.9])
def test_the_minimum_is_found_within_five_per_cent_and_few_evaluations(best):
    calls = []
    tried = searching.minimum(lambda value: calls.append(value) or bowl(best)(value))
    assert tried[0][0] == pytest.approx(best, rel=0.05)
    assert len(calls) == len(set(calls)) == len(tried) <= 16
    assert [loss for _, loss in tried] == sorted(loss for _, loss in tried)


def test_a_minimum_at_the_end_is_taken_from_the_end():
    assert searching.minimum(lambda value: -value)[0][0] == pytest.approx(searching.BRACKET[-1], rel=0.03)
    assert searching.minimum(lambda value: value)[0][0] == searching.BRACKET[0]


def test_losses_that_are_not_finite_are_never_chosen():
    tried = searching.minimum(lambda value: math.nan if value > 0.3 else bowl(0.2)(value))
    assert tried[0][0] == pytest.approx(0.2, rel=0.05)
    assert all(value <= 0.3 for value in searching.finalists(tried))
    with pytest.raises(MethodError, match=r"no λ from 0\.03 to 4 gives a finite loss"):
        searching.minimum(lambda value: math.inf)


def test_finalists_are_the_lowest_losses_that_lie_apart():
    tried = [(1.0, 0.1), (1.05, 0.2), (0.9, 0.3), (0.8, 0.4), (1.5, 0.5), (2.0, math.inf)]
    assert searching.finalists(tried, 3) == [1.0, 0.8, 1.5]
    assert searching.finalists(tried) == [1.0, 0.8]
    assert searching.finalists(tried, 1) == [1.0]
