"""What a merge learns or is given beside the models: weights, statistics, the scale of depth."""

import numpy as np
import pytest
import torch
from small_models import NAMES

import speechmerge
from speechmerge.errors import MethodError
from speechmerge.merging import fitting
from speechmerge.merging.merge import open_merge
from speechmerge.merging.run import Known, Run


@pytest.mark.parametrize("method", ["regmean", "regmean_pp"])
def test_batches_take_their_own_statistics(method, base, experts):
    inputs = {n.removesuffix(".weight"): torch.randn(3, 20, 4) for n in NAMES if n.endswith("fc1.weight")}
    extras = {"grams": [{n: x[t].T @ x[t] for n, x in inputs.items()} for t in range(3)]}
    one = speechmerge.merge_state_dicts(method, base, experts, extras=extras)
    together = speechmerge.merge_state_dicts(method, base, experts, extras=extras, batched=True)
    assert all(torch.allclose(one[n], together[n], atol=1e-6) for n in base)


def test_any_method_can_be_scaled_by_depth():
    names = {f"model.encoder.layers.{i}.fc1.weight": (3, 3) for i in range(3)} | {"model.encoder.conv1.bias": (3,)}
    base = {n: torch.zeros(s) for n, s in names.items()}
    experts = [{n: torch.full(s, x) for n, s in names.items()} for x in (1.0, 2.0)]
    found = speechmerge.merge_state_dicts("task_arithmetic", base, experts, lines={"alpha": 0.25, "beta": 0.5})
    assert [x.flatten()[0].item() for x in found.values()] == [0.75, 1.5, 2.25, 0.75]
    same = speechmerge.merge_state_dicts("lines", base, experts, alpha=0.25, beta=0.5)
    assert all(torch.allclose(found[n], same[n]) for n in base)
    balanced = speechmerge.merge_state_dicts("task_arithmetic", base, experts, lines={"beta": 0.0})
    assert torch.allclose(balanced["model.encoder.conv1.bias"], torch.tensor(1.5))  # α = 1 / T of the plain sum
    halved = speechmerge.merge_state_dicts("mp", base, experts, density=4 / 9, lines={})
    whole = 3 * (3 * 9 + 3)  # Σ|Στ| over what is left of it after pruning, over T
    assert halved["model.encoder.conv1.bias"][0].item() == pytest.approx(3 * (whole / 3) / 2 / (3 * 4 + 3))


def test_greedy_soup_keeps_what_helps(base, experts):
    target = {n: (experts[0][n] + experts[2][n]) / 2 for n in base}

    def score(state: dict) -> float:
        return sum((state[n] - target[n]).square().sum().item() for n in base)

    found = speechmerge.merge_state_dicts("greedy_soup", base, experts, extras={"score": score})
    assert all(torch.allclose(found[n], target[n], atol=1e-6) for n in base)
    equal = {"score": lambda state: 1.0}
    all_of_them = speechmerge.merge_state_dicts("greedy_soup", base, experts, extras=equal)
    first = speechmerge.merge_state_dicts("greedy_soup", base, experts, extras=equal, flavour="official")
    assert all(torch.allclose(all_of_them[n], sum(x[n] for x in experts) / 3, atol=1e-6) for n in base)
    assert all(torch.allclose(first[n], experts[0][n]) for n in base)


@pytest.mark.parametrize("groups", ["model", "stack", "layer"])
def test_learnt_weights_find_a_target_and_have_the_gradient_of_finite_differences(groups, base, experts):
    share = {"model": [0.2, 0.7, 0.1]}
    target = {
        n: base[n] + sum(w * (x[n] - base[n]) for w, x in zip(share["model"], experts, strict=True)) for n in base
    }

    def gradient(state: dict) -> tuple[float, dict]:
        gaps = {n: (state[n] - target[n]).double() for n in base}
        return 1e4 * sum(g.square().sum().item() for g in gaps.values()), {n: 2e4 * g for n, g in gaps.items()}

    for method in ("learned_average", "learned_arithmetic"):
        options = {"groups": groups, "steps": 300, "rate": 0.05}
        run = fitting.begin(open_merge(method, base, experts, extras={"gradient": gradient}, **options))
        found = dict(run.stream())
        gap = sum((found[n] - target[n]).square().sum() for n in base).sqrt()
        assert gap < 0.05 * sum((target[n] - base[n]).square().sum() for n in base).sqrt()
        assert run.known.weights.shape == ({"model": 1, "stack": 3, "layer": 3}[groups], 3)
    weights = torch.full(run.known.weights.shape, 0.3, dtype=torch.float64)
    _, slope = fitting.gradient(run.weighted(weights))
    step = torch.zeros_like(weights)
    step[0, 1] = 1e-3
    ends = [fitting.gradient(run.weighted(weights + sign * step))[0] for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / 2e-3
    assert difference == pytest.approx(slope[0, 1].item(), rel=1e-2)


@pytest.mark.parametrize(
    ("method", "extras", "words"),
    [
        ("regmean", None, r"needs extras=\{'grams': \[...\]\} with one item per expert \(3\), got 0"),
        ("regmean", {"grams": [{}] * 3}, "has nothing for 'model.encoder.layers.0.fc1'"),
        ("fisher", {"fishers": [{}] * 2}, "got 2"),
        ("greedy_soup", {"score": 3}, "function of a merged state dict"),
    ],
)
def test_missing_statistics_get_a_sentence(method, extras, words, base, experts):
    with pytest.raises(MethodError, match=words):
        speechmerge.merge_state_dicts(method, base, experts, extras=extras)


def test_a_merged_model_is_made_tensor_by_tensor_when_it_is_asked_for(base, experts, monkeypatch):
    merge = open_merge("learned_average", base, experts, extras={"gradient": lambda state: (0.0, {})})
    run = Run(merge, Known.given(merge)).weighted(torch.full((1, 3), 1 / 3, dtype=torch.float64))
    made = []
    monkeypatch.setattr(run, "tensor", lambda name: made.append(name) or base[name])
    state = run.model()
    assert list(state) == list(base) and len(state) == len(base) and made == []
    name = list(NAMES)[1]
    assert state[name] is base[name] and made == [name]
    with pytest.raises(KeyError):
        state["proj_out.weight"]


@pytest.mark.parametrize("groups", ["model", "tensor"])
def test_adamergings_slope_is_that_of_finite_differences(groups, base, experts):
    def entropy(state: dict) -> tuple[float, dict]:
        return sum(state[n].double().sin().sum().item() for n in base), {n: state[n].double().cos() for n in base}

    run = fitting.begin(open_merge("adamerging", base, experts, extras={"entropy": entropy}, groups=groups, steps=0))
    assert run.known.weights.shape == ({"model": 1, "tensor": len(base)}[groups], 3)
    weights = run.known.weights + torch.linspace(0, 0.3, 3, dtype=torch.float64)
    _, slope = fitting.gradient(run.weighted(weights))
    for row, expert in ((0, 0), (-1, 2)):
        step = torch.zeros_like(weights)
        step[row, expert] = 1e-2
        ends = [fitting.gradient(run.weighted(weights + sign * step))[0] for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(slope[row, expert].item(), rel=1e-2, abs=1e-5)


def test_adamerging_starts_as_task_arithmetic_and_stays_between_zero_and_one(base, experts):
    extras = {"entropy": lambda state: (0.0, {n: experts[0][n] - base[n] for n in base})}  # ever less of the first
    start = speechmerge.merge_state_dicts("adamerging", base, experts, extras=extras, steps=0)
    plain = speechmerge.merge_state_dicts("task_arithmetic", base, experts, scaling=0.3)
    assert all(torch.allclose(start[n], plain[n], atol=1e-6) for n in base)
    run = fitting.begin(open_merge("adamerging", base, experts, extras=extras, steps=60, rate=0.02))
    assert run.known.weights.min() == 0 and run.known.weights.max() <= 1
    assert run.known.learnt["weights"] == run.known.weights.tolist() and "weights" not in run.merge.parameters


def test_evo_merging_finds_what_to_keep_then_what_it_counts(base, experts):
    deltas = [{n: x[n] - base[n] for n in base} for x in experts]
    target = {n: base[n] + 1.2 * deltas[0][n] - 0.5 * deltas[2][n] for n in base}
    losses = []

    def loss(state: dict) -> float:
        losses.append(sum((state[n] - target[n]).square().sum().item() for n in base))
        return losses[-1]

    options = {"denoising": 90, "evaluations": 400, "population": 12, "sigma": 0.2, "penalty": 0.0}
    merge = open_merge("evo_merging", base, experts, extras={"loss": loss}, **options)
    runs = [fitting.begin(merge) for _ in range(2)]
    one, two = (dict(run.stream()) for run in runs)
    assert all(torch.equal(one[n], two[n]) for n in base)  # the same seed
    assert len(losses) <= 2 * (90 + 400)
    kept, [factors] = runs[0].known.learnt["density"], runs[0].known.learnt["weights"]
    assert kept[1] < 0.5 < kept[0]  # an expert that only disturbs is thinned out
    assert factors[0] > 0.8 and factors[2] < -0.2
    found = loss(one)
    assert found < losses[0] and found == pytest.approx(min(losses[:-1]), rel=1e-4)
    other = fitting.begin(open_merge("evo_merging", base, experts, extras={"loss": loss}, seed=5, **options))
    assert any(not torch.equal(x, one[n]) for n, x in other.stream())


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"density": 1.0}, [1 / 3, 1 / 3, 1 / 3]),
        ({"density": [1.0, 0.0, 1.0]}, [1 / 3, 0.0, 1 / 3]),
    ],
)
def test_evo_merging_without_a_budget_is_a_mean_of_what_is_kept(params, expected, base, experts):
    extras = {"loss": lambda state: pytest.fail("nothing is measured")}
    found = speechmerge.merge_state_dicts(
        "evo_merging", base, experts, extras=extras, denoising=0, evaluations=0, **params
    )
    for n in base:
        mean = base[n] + sum(w * (x[n] - base[n]) for w, x in zip(expected, experts, strict=True))
        assert torch.allclose(found[n], mean, atol=1e-6)


def test_the_search_leaves_numpys_own_random_numbers_alone_and_ends_with_its_seconds(base, experts):
    extras = {"loss": lambda state: 1.0}
    before = np.random.get_state()[1].tolist()
    options = {"evaluations": 10_000, "seconds": 1e-9}
    run = fitting.begin(open_merge("evolved_arithmetic", base, experts, extras=extras, **options))
    assert np.random.get_state()[1].tolist() == before
    assert run.known.weights.tolist() == [[0.3, 0.3, 0.3]]  # the start is measured whatever the clock says


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("evo_merging", {"denoising": 20}, "a budget of 20 evaluations is too small for the start and one generation"),
        ("evolved_average", {"evaluations": 5}, "give 8 or more, or a smaller population"),
        ("evolved_arithmetic", {"extras": {"loss": lambda state: float("nan")}}, "measured nan; expected a finite"),
        (
            "adamerging",
            {"extras": {"entropy": lambda s: (1.0, {n: x * torch.nan for n, x in s.items()})}},
            "gradient is",
        ),
        ("adamerging", {"extras": None}, r"adamerging learns from unlabelled data: give extras=\{'entropy'"),
        ("evo_merging", {"extras": {}}, r"evo_merging learns from dev data: give extras=\{'loss'"),
    ],
)
def test_what_cannot_be_learnt_from_gets_a_sentence(method, options, words, base, experts):
    options = {"extras": {"loss": lambda state: 1.0}} | options
    with pytest.raises(MethodError, match=words):
        speechmerge.merge_state_dicts(method, base, experts, **options)
