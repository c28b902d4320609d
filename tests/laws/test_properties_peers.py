"""What defines the rules that came from other libraries, each against a slow second formula or at its limits."""

import math

import numpy as np
import pytest
import torch
from held import Held
from scipy.special import softmax

import speechmerge
from speechmerge.errors import MethodError
from speechmerge.merging.methods import find
from speechmerge.merging.rules import contributions, drawn_in, learned, projections

T, M, N = 3, 14, 9


@pytest.fixture
def deltas() -> torch.Tensor:
    return 1e-3 * torch.randn(T, M, N, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.fixture
def base() -> torch.Tensor:
    return 0.3 * torch.randn(M, N, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_magmax_takes_the_entry_of_largest_magnitude(deltas):
    found = contributions.magmax(deltas)
    assert torch.equal(found.abs(), deltas.abs().amax(0))
    assert (found == deltas).any(0).all()


def test_magmax_gives_equal_magnitudes_to_the_last_expert():
    assert contributions.magmax(torch.tensor([[2.0, -1.0, 0.0], [-2.0, 3.0, 0.0], [1.0, -3.0, 0.0]])).tolist() == [
        -2.0, -3.0, 0.0,
    ]  # fmt: skip


def ram_entry(values, epsilon, growth):
    """One entry by the definition: what one expert changed alone is kept, what several did is averaged over them."""
    active = [t for t, value in enumerate(values) if abs(value) > epsilon]
    if len(active) == 1:
        return growth[active[0]] * values[active[0]]
    return sum(values[t] for t in active) / len(active) if active else 0.0


@pytest.mark.parametrize("epsilon", [0.0, 5e-4, 2e-3, 1.0])
def test_ram_keeps_what_one_changed_and_averages_what_several_did(deltas, epsilon):
    found = contributions.ram(deltas, epsilon=epsilon)
    expected = np.apply_along_axis(ram_entry, 0, deltas.numpy(), epsilon, [1.0] * T)
    assert np.allclose(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [0.2, 100.0])
def test_ram_plus_enlarges_what_is_unique_by_the_ratio_of_shared_entries(deltas, alpha):
    active = deltas.abs() > 1e-3
    shared = (active & (active.sum(0) > 1)).sum((1, 2)).double()
    unique = (active & (active.sum(0) == 1)).sum((1, 2)).double()
    growth = [1 + 0.5 * min(s / u, alpha) for s, u in zip(shared.tolist(), unique.tolist(), strict=True)]
    expected = np.apply_along_axis(ram_entry, 0, deltas.numpy(), 1e-3, growth)
    found = contributions.ramplus_tl(deltas, r=0.5, alpha=alpha, epsilon=1e-3)
    assert np.allclose(found, expected, rtol=1e-12, atol=0)
    assert torch.equal(contributions.ramplus_tl(deltas, r=0.0, epsilon=1e-3), contributions.ram(deltas, epsilon=1e-3))


def test_ram_plus_counts_over_the_whole_model_where_it_is_asked_to(deltas):
    names = [f"model.encoder.layers.{i}.fc1.weight" for i in range(3)]
    base = {name: torch.zeros(M, N, dtype=torch.float64) for name in names}
    experts = [{name: delta * (1 + i) for i, name in enumerate(names)} for delta in deltas]
    found = speechmerge.merge_state_dicts("ramplus_tl", base, experts, flavour="official", epsilon=1e-3)
    whole = torch.stack([torch.cat([expert[name] for name in names]) for expert in experts])
    expected = contributions.ramplus_tl(whole, r=0.2, alpha=1.0, epsilon=1e-3)
    assert torch.allclose(torch.cat([found[name] for name in names]), expected, rtol=1e-12, atol=0)
    apart = speechmerge.merge_state_dicts("ramplus_tl", base, experts, r=0.2, alpha=1.0, epsilon=1e-3)
    assert any(not torch.allclose(apart[name], found[name]) for name in names)


def test_nearswap_moves_no_entry_farther_than_t_and_swaps_those_within(deltas):
    found = drawn_in.nearswap(deltas[:1], t=5e-4)
    near = deltas[0].abs() <= 5e-4
    assert torch.equal(found[near], deltas[0][near]) and near.any() and not near.all()
    assert torch.equal(found[~near], 5e-4 * deltas[0][~near].sign())


def test_nearswap_at_its_limits(deltas):
    assert not drawn_in.nearswap(deltas[:1], t=0.0).any()
    assert torch.equal(drawn_in.nearswap(deltas[:1], t=1.0), deltas[0])
    guarded = drawn_in.nearswap(torch.tensor([[1e-7, 5e-7, 4e-6, 0.0]]).double(), t=2e-7, floor=1e-6)
    assert np.allclose(guarded, [2e-8, 1e-7, 2e-7, 0.0])


def importance_of(delta, base):
    after, before = softmax(base + delta, -1) + 1e-8, softmax(base, -1) + 1e-8
    return np.abs(delta) * (after * np.log(after / before)).sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", [(M, N), (6, 7, 3), (40,)])
@pytest.mark.parametrize("fence", [0.0, 1.5])
def test_arcee_fusion_keeps_entries_under_its_threshold_at_the_base(shape, fence):
    generator = torch.Generator().manual_seed(9)
    base, delta = (size * torch.randn(shape, generator=generator, dtype=torch.float64) for size in (0.5, 0.05))
    scores = importance_of(delta.numpy(), base.numpy())
    ordered = np.sort(scores.ravel())
    low, middle, high = (ordered[math.floor(share * (scores.size - 1))] for share in (0.25, 0.5, 0.75))
    taken = torch.from_numpy(scores >= middle + fence * (high - low))
    found = drawn_in.arcee_fusion(delta[None], fence=fence, base=base)
    assert torch.equal(found, delta * taken)
    assert 0 < taken.sum() < taken.numel()


def test_arcee_fusions_divergence_holds_its_digits_for_nearby_models(base, deltas):
    plain = importance_of(deltas[0].numpy(), base.numpy())
    found = drawn_in.importance(deltas[0], base).numpy()
    assert np.allclose(found / found.max(), plain / plain.max(), rtol=1e-6)
    far, near = (drawn_in.divergence(scale * deltas[0], base) for scale in (1e-2, 1e-6))
    assert torch.allclose(near * 1e8, far, rtol=1e-4)  # falls with the square of the distance, down to 1e-24
    assert not drawn_in.divergence(torch.full_like(base, 0.1), base).gt(1e-25).any()  # a shift turns no row


def test_arcee_fusion_takes_what_has_no_divergence():
    column = torch.randn(1, 9, 1, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn_in.arcee_fusion(column, base=torch.zeros(9, 1)), column[0])


def test_singular_projection_splits_an_update_in_two(base, deltas):
    u, _, vh = np.linalg.svd(base.numpy())
    left, right = (x @ x.T for x in (u[:, :3], vh[:3].T))
    low = projections.singular_projection(deltas, directions=3, base=base)
    assert np.allclose(low, left @ deltas.numpy() @ right)
    rest = projections.singular_projection(deltas, part="high", directions=3, null_space=True, base=base)
    assert np.allclose(rest, (np.eye(M) - left) @ deltas.numpy() @ (np.eye(N) - right))
    thin = projections.singular_projection(deltas, part="high", directions=3, base=base)
    span = u[:, :N] @ u[:, :N].T
    assert np.allclose(thin, (span - left) @ deltas.numpy() @ (np.eye(N) - right))
    assert not torch.allclose(thin, rest)


def test_singular_projection_at_its_limits(base, deltas):
    square, update = base[:N], deltas[:, :N]
    assert torch.allclose(projections.singular_projection(update, directions=99, base=square), update, atol=1e-15)
    assert not projections.singular_projection(deltas, directions=0, base=base).any()
    assert not projections.singular_projection(deltas, part="high", directions=99, base=base).any()


def test_half_of_the_base_is_where_the_singular_values_reach_half_their_sum():
    values = torch.tensor([[4.0, 3.0, 2.0, 1.0], [9.0, 1.0, 0.0, 0.0]])
    assert projections.half_rank(values, 0.5).tolist() == [[2], [1]]
    assert projections.half_rank(values, 0.75).tolist() == [[3], [1]]


def doge(deltas, **options):
    settings = {"density": 1.0, "count": "ceil"} | {k: options[k] for k in ("density",) if k in options}
    prepass = projections._thresholds(Held([deltas]), **settings)
    return projections.doge_ta(deltas, **{"density": 1.0, **options}, prepass=prepass)


def test_doge_without_a_correction_makes_every_expert_equally_long(deltas):
    far = deltas * torch.tensor([1.0, 10.0, 0.1]).view(-1, 1, 1)
    expected = sum(0.07 * delta / delta.norm() for delta in deltas)
    assert torch.allclose(doge(far, steps=0), expected)


@pytest.mark.parametrize("subspace", [0.0, 1 / 3])
def test_doges_correction_lowers_the_loss(deltas, subspace):
    def loss(merged):
        return sum(((delta * (merged - delta)).sum(-1) ** 2).sum() for delta in deltas)

    assert loss(doge(deltas, steps=200, subspace=subspace)) < loss(doge(deltas, steps=0))


def test_doges_shared_directions_are_those_that_most_experts_lean_on(deltas):
    common = torch.linalg.qr(deltas[0])[0][:, :1]
    alike = deltas + 0.1 * common @ torch.randn(T, 1, N, generator=torch.Generator().manual_seed(2)).double()
    shared = projections.shared_directions(alike, 1 / 9)
    assert shared.shape == (M, 1)
    assert (shared.mT @ common).abs() > 0.99
    assert projections.shared_directions(deltas, 0.0).shape == (M, 0)


def test_doge_keeps_only_the_largest_entries_of_each_expert(deltas):
    kept = doge(deltas, density=0.25, steps=0)
    most = sum((delta.abs() >= delta.abs().flatten().sort().values[-32]).long() for delta in deltas)
    assert torch.equal(kept != 0, most > 0)


def test_doge_of_experts_that_changed_nothing_is_finite(deltas):
    empty = torch.stack([deltas[0], torch.zeros_like(deltas[0])])
    assert torch.isfinite(doge(empty, steps=20)).all()


def quadratic(target):
    return lambda weights: (0.5 * (weights - target).square().sum().item(), weights - target)


def test_frank_wolfe_stays_among_its_vertices_and_nears_the_best_of_them():
    target = torch.tensor([[0.5, 0.3, -0.4]], dtype=torch.float64)
    last = math.inf
    for steps in (20, 200, 2000):
        found = learned._frank_wolfe(quadratic(target), 1, 3, steps=steps, rate=1.0, initial=0.3)
        gap = quadratic(target)(found)[0]
        assert gap < last + 1e-4
        last = gap
    assert (found >= 0).all() and found.sum() <= 1 + 1e-9
    assert torch.allclose(found, torch.tensor([[0.6, 0.4, 0.0]]).double(), atol=0.01)  # the nearest point of the hull


def test_frank_wolfe_never_picks_an_expert_that_does_not_help():
    target = torch.tensor([[1.0, 0.0, -5.0]], dtype=torch.float64)
    found = learned._frank_wolfe(quadratic(target), 1, 3, steps=50, rate=1.0, initial=0.0)
    assert found[0, 2] == 0 and found[0, 0] > 0.9


def test_frank_wolfe_chooses_for_each_group_and_stays_where_nothing_falls():
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    found = learned._frank_wolfe(quadratic(target), 2, 2, steps=9, rate=1.0, initial=0.3)
    assert torch.equal(found, target)  # the first step reaches it, and no other leaves it again


@pytest.mark.parametrize(
    ("method", "params", "experts", "words"),
    [
        ("nearswap", {}, 2, "nearswap merges exactly 1 expert, got 2"),
        ("arcee_fusion", {}, 3, "arcee_fusion merges exactly 1 expert, got 3"),
        ("slerp", {}, 3, "slerp merges exactly 2 experts, got 3"),
        ("nearswap", {"t": -1e-4}, 1, "t is -0.0001, outside"),
        ("arcee_fusion", {"fence": -1.0}, 1, "fence is -1.0, outside"),
        ("ram", {"epsilon": float("nan")}, 2, "epsilon is nan, outside"),
        ("ramplus_tl", {"scope": "row"}, 2, "scope is 'row'"),
        ("magmax", {"density": 0.5}, 2, "magmax has no parameter 'density'"),
        ("singular_projection", {"directions": 2.5}, 2, "directions is 2.5, expected a whole number"),
        ("singular_projection", {"part": "hihg"}, 2, "Did you mean 'high'"),
        ("doge_ta", {"rate": 0.0}, 2, "rate is 0.0, outside"),
        ("frank_wolfe", {"rate": 1.5}, 2, "rate is 1.5, outside"),
    ],
)
def test_a_wrong_number_of_experts_or_parameter_gets_a_sentence(method, params, experts, words):
    with pytest.raises(MethodError) as caught:
        find(method).check(params, experts=experts)
    assert words in str(caught.value)


def test_frank_wolfe_asks_for_its_gradient(base, deltas):
    name = "model.encoder.layers.0.fc1.weight"
    with pytest.raises(MethodError, match="frank_wolfe learns from dev data: give extras="):
        speechmerge.merge_state_dicts("frank_wolfe", {name: base}, [{name: base + d} for d in deltas])
