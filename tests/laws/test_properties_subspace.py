"""Properties of the rules on singular vectors and on statistics of data."""

import math

import pytest
import torch

from speechmerge.errors import MethodError
from speechmerge.merging.rules import calibrated, decompositions, interference, subspace
from speechmerge.merging.rules.subspace import boosted_tsvm, iso_c, iso_cts, subspace_boosting, tsvm

M, N, T = 24, 40, 4
K = M // T


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def deltas() -> torch.Tensor:
    return 1e-3 * draw(T, M, N)


@pytest.fixture
def apart() -> torch.Tensor:
    """Experts with mutually orthogonal row and column spaces, of rank K each."""
    u, v = torch.linalg.qr(draw(M, M, seed=1)).Q, torch.linalg.qr(draw(N, N, seed=2)).Q
    size = torch.linspace(3, 1, K, dtype=torch.float64)
    return torch.stack([u[:, i * K :][:, :K] * size @ v[:, i * K :][:, :K].T for i in range(T)])


def values(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrix)


def near(one: torch.Tensor, other: torch.Tensor, share: float = 1e-9) -> bool:
    return bool((one - other).norm() <= share * other.norm())


@pytest.mark.parametrize("shape", [(M, N), (N, M), (M, M)])
def test_factors_and_polar_equal_those_of_a_full_svd(shape):
    matrix = draw(*shape)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = decompositions.factors(matrix, 7)
    assert torch.allclose(found[1], s[:7])
    assert near((found[0] * found[1]) @ found[2].mT, u[:, :7] * s[:7] @ vh[:7])
    assert near(decompositions.polar(matrix), u @ vh)


def test_the_quick_way_to_leading_vectors_agrees_with_the_full_one_on_a_flat_spectrum():
    matrix = draw(300, 400, seed=4).float()
    quick, full = decompositions.leading(matrix, 6), torch.linalg.svd(matrix.double(), full_matrices=False)
    assert near(quick, full.U[:, :6] * full.S[:6] @ full.Vh[:6], 1e-5)


def test_small_singular_values_take_the_full_svd_and_zero_ones_have_no_vectors():
    u, v = torch.linalg.qr(draw(M, M)).Q, torch.linalg.qr(draw(N, N)).Q[:, :M]
    s = torch.tensor([1.0, 1e-4, 1e-9] + [0.0] * (M - 3), dtype=torch.float64)
    left, found, right = decompositions.factors((u * s) @ v.T, 4)
    assert torch.allclose(found, s[:4], atol=1e-15)
    assert torch.allclose((left.mT @ u[:, :3]).abs()[:3], torch.eye(3, dtype=torch.float64), atol=1e-5)
    assert not left[:, 3].any()
    assert not right[:, 3].any()


def test_an_svd_that_does_not_converge_is_disturbed_and_tried_again(monkeypatch):
    plain, calls = torch.linalg.svd, []

    def stubborn(matrix, **options):
        calls.append(matrix)
        if len(calls) == 1:
            raise torch.linalg.LinAlgError("did not converge")
        return plain(matrix, **options)

    matrix = draw(M, N)
    monkeypatch.setattr(torch.linalg, "svd", stubborn)
    u, s, v = decompositions.svd(matrix)
    assert near((u * s) @ v.mT, matrix, 1e-7)
    monkeypatch.setattr(torch.linalg, "svd", lambda *_, **__: (_ for _ in ()).throw(torch.linalg.LinAlgError("no")))
    with pytest.raises(MethodError, match="does not converge"):
        decompositions.svd(matrix)


@pytest.mark.parametrize("coefficients", ["quintic", "muon", "polar_express"])
def test_newton_schulz(coefficients):
    matrix, turn = draw(M, 2 * N), torch.linalg.qr(draw(M, M, seed=3)).Q
    found = decompositions.newton_schulz(matrix, coefficients)
    low, high = {"quintic": (0.95, 1.05), "muon": (0.65, 1.2), "polar_express": (0.8, 1.2)}[coefficients]
    assert low < values(found).min() <= values(found).max() < high
    assert near(decompositions.newton_schulz(matrix.mT, coefficients), found.mT)
    assert near(decompositions.newton_schulz(1e-6 * matrix, coefficients), found)
    assert near(decompositions.newton_schulz(turn @ matrix, coefficients), turn @ found)
    assert not decompositions.newton_schulz(0 * matrix, coefficients).any()


def test_tsvm_of_one_expert_and_of_orthogonal_ones(deltas, apart):
    assert near(tsvm(deltas[:1]), deltas[0])
    assert near(tsvm(apart), apart.sum(0))
    assert near(tsvm(apart, orthogonalise="newton_schulz"), apart.sum(0), 0.04)


def test_tsvm_has_the_pooled_singular_values(deltas):
    kept = torch.cat([values(delta)[:K] for delta in deltas]).sort(descending=True).values
    assert torch.allclose(values(tsvm(deltas))[: K * T], kept)
    assert torch.linalg.matrix_rank(tsvm(deltas, rank_ratio=0.1)) == 3 * T


def test_tsvm_of_copies_is_too_large_by_the_known_factor_unless_directions_are_dropped(deltas):
    copies = deltas[:1].expand(T, -1, -1)
    u, s, vh = torch.linalg.svd(deltas[0], full_matrices=False)
    once = u[:, :K] * s[:K] @ vh[:K]
    gap = (tsvm(copies + 1e-12 * draw(T, M, N, seed=5)) - once).norm() / once.norm()
    assert gap.item() == pytest.approx(math.sqrt(T - 1), rel=0.05)
    assert near(tsvm(copies, tolerance=1e-3), once, 1e-6)
    assert near(tsvm(copies, orthogonalise="newton_schulz"), once, 0.1)


def test_a_turned_sign_turns_only_its_own_contribution(deltas):
    turned = torch.cat([-deltas[:1], deltas[1:]])
    gap = tsvm(deltas) - tsvm(turned)
    assert torch.linalg.matrix_rank(gap, tol=1e-9 * gap.norm()) == K


def test_boosting(deltas):
    spectrum = torch.tensor([5.0, 3.0, 1.0, 0.5, 0.5], dtype=torch.float64)
    assert subspace.boosted(spectrum, 0.6).tolist() == [5.0, 3.0, 3.0, 3.0, 3.0]  # shares 0.5, 0.8, ...
    assert subspace.boosted(spectrum, 0.5).tolist() == [5.0] * 5
    assert subspace.boosted(spectrum, 0.9).tolist() == [5.0, 3.0, 1.0, 1.0, 1.0]
    assert subspace.boosted(spectrum, 0.6, power=2).tolist() == [5.0] * 5
    assert subspace.boosted(spectrum[:2], 0.95, spectrum=spectrum).tolist() == [5.0, 3.0]
    assert torch.equal(subspace.boosted(spectrum, 1.0), spectrum)


def test_boosted_tsvm_between_its_ends(deltas):
    plain = tsvm(deltas, orthogonalise="newton_schulz")
    assert near(boosted_tsvm(deltas, boost=1.0), plain)
    assert near(boosted_tsvm(deltas[:1], boost=1.0), deltas[0], 0.04)
    flat = values(boosted_tsvm(deltas[:1], boost=0.0, orthogonalise="procrustes"))
    assert (flat[0] - flat[-1]) < 1e-9 * flat[0]
    norms = [boosted_tsvm(deltas[:1], boost=b).norm().item() for b in (0.05, 0.1, 0.3, 0.5, 0.9, 1.0)]
    assert norms == sorted(norms, reverse=True)


def test_subspace_boosting_raises_the_tail_of_the_sum(deltas):
    before, after = values(deltas.sum(0)), values(subspace_boosting(deltas, boost=0.3))
    assert torch.allclose(after[:4], before[:4])
    assert (after >= before - 1e-15).all()
    assert near(subspace_boosting(deltas, boost=1.0), deltas.sum(0))


def test_iso_c_is_flat_keeps_the_nuclear_norm_and_points_the_same_way(deltas):
    found, total = iso_c(deltas), deltas.sum(0)
    assert values(found).max() - values(found).min() < 1e-12
    assert values(found).sum().item() == pytest.approx(values(total).sum().item())
    assert (found * total).sum() > 0
    assert near(iso_c(found[None]), found)


def test_iso_cts_between_common_and_specific(deltas):
    assert near(iso_cts(deltas, common=1.0), iso_c(deltas))
    flat = values(iso_cts(deltas, common=0.5))
    assert flat.max() - flat.min() < 1e-8 * flat.max()


@pytest.mark.parametrize(
    ("rank", "experts", "expected"), [(768, 5, (613, 31)), (1280, 10, (1020, 26)), (384, 10, (304, 8)), (4, 9, (4, 0))]
)
def test_iso_cts_dimensions(rank, experts, expected):
    assert subspace.common_dimensions(rank, experts, 0.8) == expected


def test_iso_cts_with_less_than_nothing_in_common_is_refused():
    with pytest.raises(MethodError, match="no common directions"):
        subspace.common_dimensions(5, 6, 0.0)


@pytest.fixture
def grams() -> torch.Tensor:
    inputs = draw(T, 60, N, seed=6)
    return inputs.mT @ inputs / 60


def test_regmean_minimises_the_gap_to_every_experts_outputs(deltas, grams):
    found = calibrated.regmean(deltas, alpha=1.0, gram=grams)

    def loss(x: torch.Tensor) -> float:
        return sum(((x - d) @ g @ (x - d).T).trace().item() for d, g in zip(deltas, grams, strict=True))

    assert all(loss(found) < loss(found + 1e-5 * draw(M, N, seed=s)) for s in range(10))


def test_regmean_with_equal_and_with_diagonal_grams(deltas, grams):
    assert near(calibrated.regmean(deltas, alpha=1.0, gram=grams[:1].expand(T, -1, -1)), deltas.mean(0), 1e-5)
    diagonal = grams.diagonal(dim1=1, dim2=2)
    expected = (deltas * diagonal[:, None]).sum(0) / diagonal.sum(0)
    assert near(calibrated.regmean(deltas, alpha=0.0, gram=grams), expected, 1e-6)


def test_regmean_in_fp32_is_near_the_plain_formula_where_inputs_differ_in_size(deltas):
    inputs = draw(T, 60, N, seed=6).float() * torch.logspace(-3, 3, N)
    grams = inputs.mT @ inputs / 60
    damped = 0.9 * grams.double() + 0.1 * torch.diag_embed(grams.double().diagonal(dim1=1, dim2=2))
    expected = (deltas @ damped).sum(0) @ torch.linalg.inv(damped.sum(0))
    assert near(calibrated.regmean(deltas.float(), alpha=0.9, ridge=0.0, gram=grams).double(), expected, 1e-4)


def test_regmean_with_too_few_frames_is_still_defined(deltas):
    inputs = draw(T, 3, N, seed=8)  # rank 12 at most, of 40
    grams = inputs.mT @ inputs
    grams[:, 0] = grams[:, :, 0] = 0  # a feature that is always zero
    for ridge in (1e-8, 0.0):
        found = calibrated.regmean(deltas, alpha=1.0, ridge=ridge, gram=grams)
        assert torch.isfinite(found).all()
        assert found.norm() < 10 * deltas.norm()
    assert not calibrated.regmean(deltas, gram=0 * grams).any()


def test_fisher_follows_the_expert_that_knows_and_stays_within_all(deltas):
    fishers = torch.rand(T, M, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.01
    found = calibrated.fisher(deltas, fisher=fishers)
    assert near(found, (fishers * deltas).sum(0) / fishers.sum(0))
    assert (found <= deltas.amax(0) + 1e-15).all()
    assert (found >= deltas.amin(0) - 1e-15).all()
    assert near(calibrated.fisher(deltas, fisher=9 * fishers), found)
    only = fishers * torch.tensor([0.0, 1, 0, 0], dtype=torch.float64)[:, None, None]
    assert near(calibrated.fisher(deltas, fisher=only), deltas[1])
    assert near(calibrated.fisher(deltas, fisher=0 * fishers), deltas.mean(0))


def wudi_loss(x: torch.Tensor, deltas: torch.Tensor) -> float:
    return sum((((x - d) @ d.T).norm() ** 2 / d.norm() ** 2).item() for d in deltas)


def test_wudi_closed_form(deltas, apart):
    def closed(x: torch.Tensor) -> torch.Tensor:
        return interference.wudi(x, solver="closed_form")

    assert near(closed(deltas[:1]), deltas[0], 1e-6)
    assert near(closed(deltas[:1].expand(T, -1, -1)), deltas[0], 1e-6)
    assert near(closed(apart), apart.sum(0), 1e-6)
    best = wudi_loss(closed(deltas), deltas)
    assert best <= wudi_loss(deltas.sum(0), deltas)
    assert best <= wudi_loss(interference.wudi(deltas), deltas)


def test_wudi_descends_and_does_not_depend_on_the_size_of_updates(deltas):
    found = interference.wudi(deltas, rate=1e-3)
    assert wudi_loss(found, deltas) < 0.9 * wudi_loss(deltas.sum(0), deltas)
    assert near(interference.wudi(1e-3 * deltas, rate=1e-3), 1e-3 * found)


def test_the_objective_multiplied_out_has_the_gradient_of_the_papers(deltas):
    x = (2 * deltas.sum(0)).requires_grad_()
    loss = sum(((x - d) @ d.T).square().sum() / d.square().sum() for d in deltas)
    loss.backward()
    grams = interference._grams(deltas, deltas)
    assert near(2 * (x.detach() @ grams.sum(0) - (deltas @ grams).sum(0)), x.grad)


def test_optmerge_moves_from_its_start(deltas):
    assert near(interference.optmerge(deltas, steps=0), deltas.sum(0))
    assert near(interference.optmerge(deltas, steps=0, start="mean"), deltas.mean(0))
    assert 0 < (interference.optmerge(deltas, rate=1e-3) - deltas.sum(0)).norm() < deltas.sum(0).norm()
