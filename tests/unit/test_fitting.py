"""What a merge learns or is given beside the models: weights, statistics, the scale of depth."""

import pytest
import torch
from small_models import NAMES

import speechmerge
from speechmerge.errors import MethodError
from speechmerge.merging import fitting
from speechmerge.merging import merge as merging


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
        merge = merging.Merge(method, base, experts, extras={"gradient": gradient}, groups=groups, steps=300, rate=0.05)
        found = dict(merge.stream())
        gap = sum((found[n] - target[n]).square().sum() for n in base).sqrt()
        assert gap < 0.05 * sum((target[n] - base[n]).square().sum() for n in base).sqrt()
        assert merge.weights.shape == ({"model": 1, "stack": 3, "layer": 3}[groups], 3)
    weights = torch.full(merge.weights.shape, 0.3, dtype=torch.float64)
    _, slope = fitting._gradient(merge, weights)
    step = torch.zeros_like(weights)
    step[0, 1] = 1e-3
    difference = (fitting._gradient(merge, weights + step)[0] - fitting._gradient(merge, weights - step)[0]) / 2e-3
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
