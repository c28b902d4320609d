"""Properties of MP, SVP and LoRS on single matrices."""

import pytest
import torch

from speechmerge.merging.rules.decompositions import leading
from speechmerge.merging.rules.lowrank import lors, mp, rank, svp
from speechmerge.merging.rules.ranking import keep_count, largest

M, N, T = 24, 40, 3


@pytest.fixture
def deltas() -> torch.Tensor:
    return torch.randn(T, M, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def truncated(matrix: torch.Tensor, k: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :k] * s[:k] @ v[:k]


def test_mp_keeps_exactly_the_largest_entries(deltas):
    found = mp(deltas, density=0.3)
    for one, whole in zip(found, deltas, strict=True):
        kept = one != 0
        assert kept.sum() == keep_count(0.3, M * N)
        assert torch.equal(one[kept], whole[kept])
        assert whole[kept].abs().min() > whole[~kept].abs().max()


def test_equal_magnitudes_keep_the_first_in_row_order():
    values = torch.tensor([[1.0, -2.0, 2.0, 2.0, -2.0, 0.5], [3.0, 3.0, 3.0, 3.0, 3.0, 3.0]])
    assert largest(values, 3).int().tolist() == [[0, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("density", "size", "count"), [(0.1, 30, 3), (0.4, 960, 384), (1 / 3, 3, 1), (1e-9, 7, 1), (0, 7, 0)]
)
def test_the_count_is_the_ceiling_undisturbed_by_rounding(density, size, count):
    assert keep_count(density, size) == count


@pytest.mark.parametrize("shape", [(M, N), (N, M), (M, M)])
@pytest.mark.parametrize("k", [1, 7, 23])
def test_the_leading_subspace_equals_the_truncated_svd(shape, k):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    assert torch.allclose(leading(matrix, k), truncated(matrix, k), atol=1e-10)
    assert (leading(matrix.float(), k) - truncated(matrix, k)).norm() < 1e-5 * matrix.norm()


def test_batches_of_equal_shapes_give_what_single_matrices_give(deltas):
    batch = torch.stack([deltas, deltas.flip(-1) * 2], dim=1)  # [T, B, m, n]
    found = lors(batch, rank_ratio=0.1, density=0.2)
    assert torch.allclose(found[:, 1], lors(batch[:, 1], rank_ratio=0.1, density=0.2), atol=1e-12)


def test_lors_at_its_ends(deltas):
    assert torch.allclose(lors(deltas, rank_ratio=0.1, density=1.0), deltas)
    assert torch.allclose(lors(deltas, rank_ratio=1.0, density=0.1), deltas)
    assert torch.equal(lors(deltas, rank_ratio=0.0, density=0.3), mp(deltas, density=0.3))
    assert torch.equal(lors(deltas, rank_ratio=0.1, density=0.0), svp(deltas, rank_ratio=0.1))
    assert torch.linalg.matrix_rank(svp(deltas, rank_ratio=0.1)).tolist() == [round(0.1 * M)] * T


def test_lors_error_falls_with_rank_and_density(deltas):
    def error(**params) -> float:
        return (lors(deltas, **params) - deltas).norm().item()

    by_rank = [error(rank_ratio=r, density=0.2) for r in (0.05, 0.2, 0.5, 0.9)]
    by_density = [error(rank_ratio=0.05, density=p) for p in (0.0, 0.1, 0.4, 0.9)]
    assert by_rank == sorted(by_rank, reverse=True)
    assert by_density == sorted(by_density, reverse=True)


def test_what_the_sparse_part_leaves_out_is_the_residual(deltas):
    low = svp(deltas, rank_ratio=0.1)
    sparse = lors(deltas, rank_ratio=0.1, density=0.2) - low
    kept = sparse.abs() > 1e-14
    assert torch.allclose(sparse[kept], (deltas - low)[kept])


def test_each_expert_may_have_its_own_rank_and_density(deltas):
    found = lors(deltas, rank_ratio=[0.0, 0.1, 0.5], density=[0.1, 0.2, 0.0])
    for t, (r, p) in enumerate([(0.0, 0.1), (0.1, 0.2), (0.5, 0.0)]):
        assert torch.allclose(found[t : t + 1], lors(deltas[t : t + 1], rank_ratio=r, density=p))


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.0, 0), (1e-6, 1), (0.01, 8), (0.02, 15), (0.03, 23), (0.05, 38), (1.0, 768)]
)
def test_a_rank_ratio_is_a_fraction_of_the_smaller_side(ratio, expected):
    assert rank(ratio, 768, 3072) == expected


def test_a_rank_ratio_may_count_parameters():
    assert [rank(r, 768, 768, "parameters") for r in (0.01, 0.02, 0.03, 0.05)] == [4, 8, 12, 19]


@pytest.mark.parametrize("shape", [(160, 224), (224, 160), (2, 160, 160)])
def test_the_leading_subspace_of_fp32_is_exact_beyond_fp32(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    exact = u[..., :4] * s[..., None, :4] @ v[..., :4, :]
    assert (leading(matrix, 4) - exact).norm() < 1e-9 * exact.norm()
