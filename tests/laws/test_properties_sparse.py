"""Properties of the rules that mask, elect and draw, each against a slow second formula."""

import itertools
import math

import numpy as np
import pytest
import torch
from held import Held

from speechmerge.merging.applying import generator
from speechmerge.merging.rules import consensus, dropping, per_task, sparse
from speechmerge.merging.rules.primitives import elect
from speechmerge.merging.rules.ranking import ranks
from speechmerge.merging.rules.streams import order_statistics

T, M, N = 4, 24, 40


@pytest.fixture
def deltas() -> torch.Tensor:
    return 1e-3 * torch.randn(T, M * N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def whole(deltas: torch.Tensor, pieces: int = 3):
    """The stream an engine would give a prepass: the vector in pieces of unequal length."""
    edges = [0, 7, deltas.shape[1] // pieces, deltas.shape[1]]
    return Held([deltas[:, a:b] for a, b in itertools.pairwise(edges)])


def ties(deltas, density=0.2, **options):
    settings = {"scope": "model", "count": "ceil", "zeros": "majority", "weights": None} | options
    prepass = sparse._ties_prepass(whole(deltas), density=density, **settings)
    return sparse.ties(deltas, density=density, prepass=prepass, **options)


def trimmed(deltas, density):
    kept = np.zeros(deltas.shape)
    for row, values in zip(kept, deltas.numpy(), strict=True):
        count = math.ceil(density * values.size - 1e-9)
        chosen = np.argsort(-np.abs(values))[:count]
        row[chosen] = values[chosen]
    return kept


@pytest.mark.parametrize("density", [0.05, 0.2, 0.77, 1.0])
def test_ties_by_the_papers_three_steps(deltas, density):
    kept = trimmed(deltas, density)
    sign = np.sign(kept.sum(0))
    agree = (np.sign(kept) == sign) & (kept != 0)
    expected = (kept * agree).sum(0) / np.maximum(agree.sum(0), 1)
    found = ties(deltas, density).numpy()
    assert np.allclose(found, expected, atol=1e-15)
    assert (np.abs(found) <= deltas.abs().amax(0).numpy() + 1e-15).all()


def test_ties_of_opposed_experts_takes_the_majority_side():
    ahead = torch.tensor([3.0, 2.0, 1.0, 5.0])
    opposed = torch.stack([ahead, torch.tensor([-3.0, 2.0, 1.0, -5.0])])
    assert ties(opposed, 1.0).tolist() == [3.0, 2.0, 1.0, 5.0]
    assert ties(-opposed, 1.0).tolist() == [-3.0, -2.0, -1.0, -5.0]
    assert ties(-opposed, 1.0, zeros="positive").tolist() == [3.0, -2.0, -1.0, 5.0]


def test_ties_sum_of_one_sign_is_task_arithmetic(deltas):
    same = deltas.abs()
    assert torch.allclose(ties(same, 1.0, merge="sum"), same.sum(0))
    assert torch.allclose(ties(same, 1.0), same.mean(0))


def test_ties_scopes_differ_where_tensors_have_different_sizes(deltas):
    uneven = torch.cat([deltas[:, :200] * 10, deltas[:, 200:]], 1)
    per_tensor = torch.cat([sparse.ties(x, scope="tensor") for x in (uneven[:, :200], uneven[:, 200:])])
    assert (ties(uneven) - per_tensor).norm() > 0.1 * per_tensor.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_statistics_are_exact_also_among_ties_and_zeros(dtype):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 60_000, generator=generator, dtype=dtype)
    rows[1, :50_000] = 0.0
    rows[2] = rows[2].mul(3).round()
    ranks = [[0, 17, 30_000, 59_999]] * 3
    found = order_statistics(Held(rows.split(7_001, dim=1)), torch.clone, ranks)
    assert torch.equal(found, rows.sort(1).values[:, ranks[0]])


def test_order_statistics_survive_a_sample_that_misleads():
    row = torch.zeros(1, 100_000)
    row[0, 3_000:3_500] = torch.arange(500.0) + 1  # a lump between two samples
    found = order_statistics(Held([row]), torch.clone, [[99_999, 99_750]])
    assert found.tolist() == [[500.0, 251.0]]


def test_an_election_by_weights_divides_by_the_weights_that_agree():
    edited = torch.tensor([[1.0, 0.0, 2.0], [-3.0, 1.0, 1.0]])
    assert elect(edited, weights=[4.0, 1.0]).tolist() == pytest.approx([1.0, 1.0, 1.8])


def crumbs(values, outliers, keep):
    order = np.argsort(-np.abs(values))
    first = int(outliers * values.size)
    kept = np.zeros(values.size)
    chosen = order[first : first + round(keep * values.size)]
    kept[chosen] = values[chosen]
    return kept


@pytest.mark.parametrize(("outliers", "keep"), [(0.0, 1.0), (0.1, 0.2), (0.0, 0.25), (0.3, 0.7)])
def test_breadcrumbs_keep_the_middle(deltas, outliers, keep):
    found = sparse.breadcrumbs(deltas, density=keep, outliers=outliers)
    expected = np.stack([crumbs(row, outliers, keep) for row in deltas.numpy()])
    assert np.array_equal(found.numpy(), expected)


def test_breadcrumbs_by_row_and_outliers_that_leave_no_room(deltas):
    rows = deltas.view(T, M, N)
    found = sparse.breadcrumbs(rows, density=0.25, outliers=0.1, scope="row", count="floor")
    assert (found != 0).sum(-1).unique().tolist() == [10]
    assert torch.equal(sparse.breadcrumbs(rows, density=1.0, outliers=0.5), rows)


def generators(seed, experts=T):
    return [generator(seed, "tensor", t) for t in range(experts)]


def test_dare_keeps_the_stated_fraction_and_rescales_it(deltas):
    found = dropping.dare(deltas, density=0.1, generators=generators(0))
    kept = found != 0
    assert abs(kept.double().mean() - 0.1) < 0.02
    assert torch.allclose(found[kept], deltas[kept] / 0.1)
    assert torch.equal(dropping.dare(deltas, density=1.0, generators=generators(0)), deltas)
    assert torch.equal(found, dropping.dare(deltas, density=0.1, generators=generators(0)))
    assert not torch.equal(found, dropping.dare(deltas, density=0.1, generators=generators(1)))


@pytest.mark.parametrize("rule", [dropping.dare, dropping.della_linear])
def test_random_thinning_changes_nothing_on_average(rule, deltas):
    short, seeds = deltas[:, :60], 3000
    total = sum(rule(short, density=0.5, generators=generators(seed)) for seed in range(seeds)) / seeds
    assert (total - short).norm() < 4 / math.sqrt(seeds) * short.norm()


@pytest.mark.parametrize(("experts", "density"), [(4, 0.5), (8, 0.2)])
def test_dare_ties_of_copies_is_inflated_by_the_known_factor(experts, density):
    copies, seeds = torch.ones(experts, 2000, dtype=torch.float64), 40
    total = sum(dropping.dare_ties(copies, density=density, generators=generators(s, experts)) for s in range(seeds))
    expected = (1 - (1 - density) ** experts) / density
    assert abs((total / seeds).mean().item() - expected) < 0.02 * expected
    divided = sum(
        dropping.dare_ties(copies, density=density, merge="experts", generators=generators(s, experts))
        for s in range(seeds)
    )
    assert abs((divided / seeds).mean().item() - 1) < 0.02


def test_della_keeps_large_entries_more_often(deltas):
    rows = deltas.view(-1, N)
    keep = dropping._ranked(0.5, 0.2, T)(0, rows)
    ordered = keep.gather(-1, rows.abs().argsort(-1))
    assert (ordered.diff(dim=-1) > 0).all()
    assert torch.allclose(keep.mean(-1), torch.tensor(0.5, dtype=keep.dtype))
    assert ordered.min().item() == pytest.approx(0.3)
    assert torch.equal(dropping._ranked(0.7, 0.1, T)(0, deltas[:, :1]), torch.full((T, 1), 0.7, dtype=keep.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_are_those_of_a_stable_sort_of_magnitudes(deltas, dtype):
    rows = deltas.view(-1, N).to(dtype)
    rows[:, 5], rows[:, 9] = -rows[:, 2], 0.0  # equal magnitudes, and a zero
    assert torch.equal(ranks(rows), rows.abs().argsort(dim=-1, stable=True).argsort(dim=-1))


@pytest.mark.parametrize("rescale", ["inverse", "l1"])
def test_masks_do_not_depend_on_the_size_of_the_pieces_they_are_drawn_in(deltas, rescale, monkeypatch):
    tensor = deltas.view(T, M, N)
    once = dropping.della_linear(tensor, rescale=rescale, generators=generators(3))
    monkeypatch.setattr(dropping, "CHUNK", 5 * N)
    assert torch.allclose(dropping.della_linear(tensor, rescale=rescale, generators=generators(3)), once, rtol=1e-12)


def test_consensus_at_its_ends(deltas):
    copies = deltas[:1].expand(T, -1)
    assert torch.equal(consensus.consensus(deltas, votes=0), deltas.sum(0))
    assert not consensus.consensus(deltas, votes=T + 1).any()
    assert torch.equal(consensus.consensus(copies, strictness=0.3), copies.sum(0))
    assert not consensus.consensus(copies, strictness=0.4).any()  # 0.4 > 1 / (T - 1)
    assert torch.equal(per_task.tall_mask(deltas, task=2, strictness=0.0), deltas.sum(0))


def stitched(deltas, density):
    edges = sparse.whole_model_thresholds(whole(deltas), density=density, count="ceil")
    return consensus.localize_and_stitch(deltas, density=density, prepass=edges)


def test_stitching_averages_overlaps_and_keeps_what_stands_alone(deltas):
    kept = trimmed(deltas, 0.1)
    expected = kept.sum(0) / np.maximum((kept != 0).sum(0), 1)
    assert np.allclose(stitched(deltas, 0.1).numpy(), expected, atol=1e-18)
    assert torch.allclose(stitched(deltas, 1.0), deltas.mean(0))
    apart = torch.block_diag(*torch.rand(3, 1, 20).add(1)).view(3, 60)
    assert torch.equal(stitched(apart, 1 / 3), apart.sum(0))


def pcb(deltas, density, limit=1e-4):
    prepass = consensus._pcb_prepass(whole(deltas), density=density, limit=limit)
    return consensus.pcb(deltas, density=density, limit=limit, prepass=prepass)


def test_pcb_by_a_second_formula(deltas):
    values, ratio, limit = deltas.numpy(), 0.1, 1e-2
    size = values.shape[1]
    limited, scores = [], []
    for row in values:
        order = np.sort(np.abs(row))
        low, high = order[int(size * limit)], order[int(size * (1 - limit) - 1)]
        magnitude = np.clip(np.abs(row), low, high)
        limited.append(np.sign(row) * magnitude)
        scores.append(np.exp(T * ((magnitude - low) / (high - low)) ** 2) * np.tanh(row * values.sum(0)))
    share = []
    for row in scores:
        cut = np.sort(row)[int(size * (1 - ratio))]
        share.append((np.maximum(row, cut) - cut) / (row.max() - cut))
    expected = (np.array(share) * limited).sum(0) / np.maximum(np.array(share).sum(0), 1e-12)
    assert np.allclose(pcb(deltas, ratio, limit).numpy(), expected, atol=1e-15)


def test_pcb_of_copies_with_everything_counted_returns_the_copy(deltas):
    copies = deltas[:1].expand(T, -1)
    wrong = (pcb(copies, 1.0, limit=0.0) - deltas[0]).abs() > 1e-12
    assert wrong.sum() <= 2  # only entries of least score
    assert not torch.allclose(pcb(1e4 * deltas, 0.2), 1e4 * pcb(deltas, 0.2), rtol=1e-3)


def test_sce_of_copies_and_of_opposed_experts(deltas):
    copies = deltas[:1].expand(T, -1)
    assert torch.allclose(consensus.sce(copies, density=1.0), deltas[0])
    assert not consensus.sce(copies, density=0.5, masked="deltas").any()
    assert torch.allclose(consensus.sce(copies, density=0.5), deltas[0])
    pair = torch.tensor([[3.0, -1.0], [-2.0, 4.0]])
    assert torch.allclose(consensus.sce(pair, density=1.0), torch.tensor([3.0, 4.0]))


def test_sce_guards_change_small_updates_in_public_code_only(deltas):
    small = 1e-3 * deltas * torch.tensor([1.0, 2, 4, 8], dtype=torch.float64)[:, None]
    guarded = consensus.sce(small, density=1.0, masked="deltas", floor=1e-6)
    assert torch.allclose(consensus.sce(1e3 * small, density=1.0), 1e3 * consensus.sce(small, density=1.0))
    assert (guarded - consensus.sce(small, density=1.0)).norm() > 0.1 * guarded.norm()


def test_emr_restores_each_experts_sum_of_magnitudes(deltas):
    for task in range(T):
        factor = per_task._emr_prepass(whole(deltas), task=task, rescale="sums")
        found = per_task.emr(deltas, task=task, prepass=factor)
        assert factor <= 1 + 1e-12
        assert found.abs().sum() == pytest.approx(deltas[task].abs().sum().item())
    alone = per_task._emr_prepass(whole(deltas[:1]), task=0, rescale="sums")
    assert torch.allclose(per_task.emr(deltas[:1], prepass=alone), deltas[0])
