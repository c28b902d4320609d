"""Properties of means on the sphere, against the formulas written with vectors."""

import math

import pytest
import torch

from speechmerge.merging.rules.spherical import karcher, model_stock, multi_slerp, slerp

N, T = 300, 4


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(T, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def raw(rule, vectors, **options):
    """Apply a rule to weights themselves: relative to an arbitrary base, which must not matter."""
    base = torch.linspace(-1, 1, N, dtype=torch.float64)
    return base + rule(vectors - base, base=base, **options)


def test_slerp_at_its_ends_in_its_middle_and_turned_round(vectors):
    a, b = vectors[:2]
    angle = math.acos((a @ b / a.norm() / b.norm()).item())
    expected = (math.sin(0.7 * angle) * a + math.sin(0.3 * angle) * b) / math.sin(angle)
    assert torch.allclose(raw(slerp, vectors[:2], t=0.3), expected)
    assert torch.allclose(raw(slerp, vectors[:2], t=0.0), a)
    assert torch.allclose(raw(slerp, vectors[:2], t=1.0), b)
    assert torch.allclose(raw(slerp, vectors[:2], t=0.3), raw(slerp, vectors[:2].flip(0), t=0.7))


def test_slerp_of_nearly_equal_models_is_nearly_straight(vectors):
    a = vectors[0]
    for size in (1e-2, 1e-4, 1e-7):
        pair = torch.stack([a, a + size * vectors[1]])
        straight = a + 0.3 * (pair[1] - a)
        assert (raw(slerp, pair, t=0.3) - straight).norm() < size**2 * a.norm() + 1e-14 * a.norm()
    assert torch.allclose(raw(slerp, torch.stack([a, a])), a, rtol=1e-14, atol=1e-15)


def test_slerp_of_task_vectors_and_of_opposed_ones(vectors):
    found = slerp(vectors[:2], space="deltas", base=torch.zeros(N))
    assert torch.allclose(found, raw(slerp, vectors[:2]))
    opposed = slerp(torch.stack([vectors[0], -vectors[0]]), t=0.25, space="deltas", base=torch.zeros(N))
    assert torch.allclose(opposed, 0.5 * vectors[0])  # no arc is defined; the straight line is


def test_multi_slerp_is_mean_direction_times_mean_length(vectors):
    share = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    lengths = vectors.norm(dim=1)
    direction = (share[:, None] * vectors / lengths[:, None]).sum(0)
    expected = direction / direction.norm() * (share @ lengths)
    assert torch.allclose(raw(multi_slerp, vectors, weights=share.tolist()), expected)
    assert torch.allclose(raw(multi_slerp, vectors, weights=(7 * share).tolist()), expected)


def test_zero_tensors_are_skipped(vectors):
    with_zero = torch.cat([vectors[:1] * 0, vectors[:1]])
    found = multi_slerp(with_zero, space="deltas", base=torch.zeros(N))
    assert torch.allclose(found, 0.5 * vectors[0])  # its direction counts nothing, its length zero
    for rule in (multi_slerp, karcher):
        assert not rule(0 * vectors, space="deltas", base=torch.zeros(N)).any()


def test_karcher_is_the_point_of_least_squared_angles(vectors):
    found = raw(karcher, vectors, iterations=100, tolerance=1e-14)
    u, units = found / found.norm(), vectors / vectors.norm(dim=1, keepdim=True)
    angles = (units @ u).clamp(-1, 1).acos()
    pull = sum(a / math.sin(a) * (x - math.cos(a) * u) for a, x in zip(angles.tolist(), units, strict=True)) / T
    assert pull.norm() < 1e-10
    assert found.norm() == pytest.approx(vectors.norm(dim=1).mean().item())
    turn = torch.linalg.qr(torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    assert torch.allclose(raw(karcher, vectors @ turn, iterations=100, tolerance=1e-14), found @ turn)


def test_karcher_of_two_equal_lengths_is_slerp_half_way(vectors):
    pair = vectors[:2] / vectors[:2].norm(dim=1, keepdim=True)
    assert torch.allclose(raw(karcher, pair, iterations=50, tolerance=1e-14), raw(slerp, pair))


@pytest.mark.parametrize("size", [1e-3, 1e-2, 1e-1])
def test_for_small_updates_karcher_is_nearly_the_mean(vectors, size):
    base = vectors[0] / vectors[0].norm()
    deltas = size * vectors[1:] / vectors[1:].norm(dim=1, keepdim=True)
    mean = deltas.mean(0)
    gap = (karcher(deltas, base=base) - mean).norm() / mean.norm()
    assert 0.1 * size < gap < 2 * size


def stocked(deltas, **options):
    return model_stock(deltas, **options)


def test_model_stock_by_its_formula(vectors):
    vectors = vectors + vectors.mean(0)
    units = vectors / vectors.norm(dim=1, keepdim=True)
    pairs = [(units[i] @ units[j]).item() for i in range(T) for j in range(i)]
    cosine = sum(pairs) / len(pairs)
    t = T * cosine / (1 + (T - 1) * cosine)
    assert torch.allclose(stocked(vectors), t * vectors.mean(0))
    degrees = sum(math.acos(c) for c in pairs) / len(pairs)
    t = T * math.cos(degrees) / (1 + (T - 1) * math.cos(degrees))
    assert torch.allclose(stocked(vectors, angle="degrees"), t * vectors.mean(0))


def test_model_stock_of_orthogonal_opposed_and_single_experts(vectors):
    apart = torch.block_diag(*torch.ones(3, 1, 20))
    assert not stocked(apart).any()
    assert not stocked(torch.stack([vectors[0], -0.9 * vectors[0]])).any()
    assert torch.equal(stocked(vectors[:1]), vectors[0])


def test_model_stock_by_row_decides_each_row(vectors):
    rows = vectors.view(T, 10, 30) + vectors.view(T, 10, 30).mean(0)
    expected = torch.stack([stocked(rows[:, i]) for i in range(10)])
    assert torch.allclose(stocked(rows, per_row=True), expected)


def test_model_stock_does_not_depend_on_the_size_of_updates_unless_floored(vectors):
    agreeing = vectors + vectors.mean(0)
    small = 1e-6 * agreeing
    assert torch.allclose(stocked(small), 1e-6 * stocked(agreeing))
    assert stocked(small, floor=1e-6).norm() < 0.01 * stocked(small).norm()
