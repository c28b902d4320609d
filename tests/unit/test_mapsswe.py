"""The matched pairs test against segments counted on paper and against NIST's own programs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from speechmerge.evaluation.mapsswe import error_places, mapsswe, segmented

SCTK = json.loads((Path(__file__).parents[1] / "golden" / "mapsswe_sctk.json").read_text())


def segment_errors(references: list[str], *systems: list[str]) -> np.ndarray:
    return segmented(*(error_places(references, hypotheses) for hypotheses in systems))


@pytest.mark.parametrize(
    ("reference", "first", "second", "errors"),
    [
        ("a b c d", "a b c d", "a b c d", []),
        ("a b c d e", "a x c d e", "a b c d y", [[1, 0], [0, 1]]),  # two right words between the errors
        ("a b c d", "a x c d", "a b c y", [[1, 1]]),  # one right word does not part them
        ("a b c d e", "x b c d e", "a b c d e", [[1, 0]]),  # the ends of an utterance end a segment
        ("a b c d e", "a b c d x", "a b c d y", [[1, 1]]),
        ("a b c", "a b c d", "z a b c", [[0, 1], [1, 0]]),  # inserted at either end, three right words between
        ("a b c", "a b x c", "x y a b c", [[0, 2], [1, 0]]),
        ("a b c", "a x b y c", "a b c", [[2, 0]]),  # insertions with one word between
        ("a b c d", "a c d", "a b c", [[1, 1]]),  # deletions of b and d, c between
        ("a b c d e f", "a x c d e f", "a b c d y f", [[1, 0], [0, 1]]),
        ("a b c d e f", "a x c p d e f", "a b c d e f", [[2, 0]]),  # an insertion between two right words joins
        ("a b c", "", "a b c", [[3, 0]]),
        ("", "x y", "", [[2, 0]]),
        ("", "", "", []),
    ],
)
def test_segments_counted_on_paper(reference, first, second, errors):
    assert segment_errors([reference], [first], [second]).tolist() == errors
    assert segment_errors([reference], [second], [first]).tolist() == [row[::-1] for row in errors]


def test_segments_do_not_cross_utterances_and_errors_are_those_of_the_alignment():
    found = segment_errors(["a b", "c d"], ["a x", "y d"], ["a b", "c d"])
    assert found.tolist() == [[1, 0], [1, 0]]


def test_mean_z_and_p_by_hand():
    """Differences 1, 1, 0, -1, 2, 0: mean 1/2, variance 11/10, z = .5 / sqrt(1.1 / 6)."""
    errors = np.array([[1, 0], [2, 1], [1, 1], [0, 1], [2, 0], [3, 3]])
    found = mapsswe(errors)
    assert (found.segments, found.difference) == (6, 0.5)
    assert found.z == pytest.approx(0.5 / math.sqrt(1.1 / 6))
    assert found.p_value == pytest.approx(math.erfc(found.z / math.sqrt(2)))


@pytest.mark.parametrize("case", SCTK["cases"].values(), ids=list(SCTK["cases"]))
def test_nists_own_programs_find_the_same(case):
    errors = segment_errors(case["reference"], case["first"], case["second"])
    found, expected = mapsswe(errors), case["sc_stats"]
    assert found.segments == expected["segments"]
    assert found.difference == pytest.approx(expected["mean"], abs=5e-4)
    assert np.std(errors[:, 0] - errors[:, 1], ddof=1) == pytest.approx(expected["deviation"], abs=5e-4)
    assert found.z == pytest.approx(expected["z"], abs=5e-4)
    turned = mapsswe(errors[:, ::-1])
    assert (turned.z, turned.p_value) == (-found.z, found.p_value)


@pytest.mark.parametrize("errors", [np.zeros((0, 2), int), np.array([[3, 0]]), np.array([[1, 1]] * 40)])
def test_nothing_to_go_by_is_no_difference(errors):
    assert mapsswe(errors).p_value == 1.0


def test_no_spread_is_no_doubt():
    found = mapsswe(np.array([[0, 1]] * 40))
    assert (found.z, found.p_value) == (-math.inf, 0.0)
