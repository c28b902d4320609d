"""Norms, cosines, spectra and energy of task vectors, against numbers known beforehand."""

import json
import math

import pytest
import torch

from speechmerge.errors import CheckpointError
from speechmerge.merging import task_vectors

FC1, BIAS = "model.encoder.layers.1.fc1.weight", "model.decoder.layers.0.fc1.bias"


@pytest.fixture
def rows() -> list[dict]:
    base = {FC1: torch.zeros(3, 4), BIAS: torch.full((4,), 2.0)}
    a = {FC1: torch.diag(torch.tensor([3.0, 4.0, 0.0]))[:, [0, 1, 2, 2]], BIAS: base[BIAS] + 6.0}
    a[FC1][:, 3] = 0
    b = {FC1: -a[FC1], BIAS: base[BIAS]}
    return task_vectors.describe(base, {"a": a, "b": b})


def pick(rows: list[dict], **wanted) -> dict:
    [row] = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return row


def test_norms(rows):
    row = pick(rows, kind="norm", expert="a", tensor=BIAS)
    assert (row["norm"], row["base_norm"], row["relative"]) == (12.0, 4.0, 3.0)
    assert (row["class"], row["stack"], row["block"], row["layer"]) == ("VEC", "decoder", "mlp", 0)
    assert pick(rows, kind="norm", expert="b", tensor=BIAS)["norm"] == 0
    total = pick(rows, kind="total", expert="a")
    assert total["norm"] == pytest.approx(13.0)
    assert total["relative"] == pytest.approx(13.0 / 4.0)


def test_cosines(rows):
    assert pick(rows, kind="cosine", scope="MAT")["cosine"] == pytest.approx(-1.0)
    assert pick(rows, kind="cosine", scope="decoder")["cosine"] == 0.0
    assert pick(rows, kind="cosine", scope="model")["cosine"] == pytest.approx(-25 / (13 * 5))


def test_spectra(rows):
    row = pick(rows, kind="spectrum", expert="a")
    assert row["rank"] == 3
    assert row["singular_values"] == [4.0, 3.0, 0.0]
    assert row["stable_rank"] == pytest.approx(25 / 16)
    entropy = -(4 / 7 * math.log(4 / 7) + 3 / 7 * math.log(3 / 7))
    assert row["effective_rank"] == pytest.approx(math.exp(entropy))
    assert row["energy_at"]["0.01"] == pytest.approx(16 / 25)


def test_energy_shares_sum_to_one_and_rows_are_json(rows):
    for expert in "ab":
        assert sum(
            row["share"] for row in rows if row["kind"] == "energy" and row["expert"] == expert
        ) == pytest.approx(1)
    assert pick(rows, kind="energy", expert="a", stack="encoder")["share"] == pytest.approx(25 / 169)
    assert json.loads(json.dumps(rows)) == rows


def test_a_zero_matrix_has_no_rank():
    found = task_vectors.spectrum(torch.zeros(5, 3))
    assert (found["effective_rank"], found["stable_rank"], found["energy_at"]) == (0.0, 0.0, {})


def test_models_of_different_shape_are_refused():
    with pytest.raises(CheckpointError, match="shape"):
        task_vectors.describe({FC1: torch.zeros(3, 4)}, {"a": {FC1: torch.zeros(4, 3)}})
