"""A merged update far longer than its experts': refused for a tensor, said for a model, recorded always."""

import json

import pytest
import torch
from safetensors.torch import save_file

from speechmerge import merge_state_dicts
from speechmerge.errors import MethodError
from speechmerge.merging import engine, fitting, lengths
from speechmerge.merging.merge import open_merge

NAME = "model.decoder.layers.0.fc1.weight"


def drawn(seed, size=1.0):
    """Numbers on a grid, so that sums and differences are exact."""
    found = torch.randn(24, 16, generator=torch.Generator().manual_seed(seed)) * size
    return (found * 2**20).round() / 2**20


BASE = {NAME: drawn(0)}


def experts(*updates):
    return [{NAME: BASE[NAME] + update} for update in updates]


NEARLY_OPPOSED = experts(drawn(1, 0.01), -drawn(1, 0.01) + drawn(2, 3e-5))
OPPOSED = experts(drawn(1, 0.01), -2 * drawn(1, 0.01))


@pytest.mark.parametrize(
    ("method", "models", "options"),
    [
        ("model_stock", NEARLY_OPPOSED, {"flavour": "mergekit"}),
        ("model_stock", NEARLY_OPPOSED, {"flavour": "fusion_bench"}),
        ("slerp", experts(drawn(1, 0.01), -drawn(1, 0.02) + drawn(2, 3e-5)), {"space": "deltas"}),
    ],
)
def test_a_tensor_that_leaves_its_experts_neighbourhood_is_refused(method, models, options):
    with pytest.raises(MethodError, match=rf"{method} made an update of '{NAME}' that is .* times as long") as caught:
        merge_state_dicts(method, BASE, models, **options)
    assert "expected under 100; nothing was written" in str(caught.value)
    assert "raise max_growth" in str(caught.value)
    merge_state_dicts(method, BASE, models, max_growth=1e12, **options)


def test_many_matrices_at_once_are_checked_too():
    base = BASE | {NAME.replace("0", "1"): BASE[NAME]}
    exploded = [{name: x + 1e-6 * drawn(seed) for name, x in base.items()} for seed in (1, 2)]
    with pytest.raises(MethodError, match="wudi made an update"):
        merge_state_dicts("wudi", base, exploded, batched=True, flavour="official", steps=100, rate=0.1)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("slerp", {"space": "deltas"}),
        ("slerp", {"space": "deltas", "flavour": "mergekit"}),
        ("multi_slerp", {"space": "deltas"}),
        ("karcher", {"space": "deltas"}),
        ("model_stock", {"flavour": "mergekit"}),
        ("model_stock", {"flavour": "fusion_bench"}),
        ("ties", {"flavour": "mergekit"}),
        ("sce", {}),
    ],
)
@pytest.mark.parametrize("models", [experts(drawn(1, 0.01), -drawn(1, 0.01)), OPPOSED, OPPOSED[::-1]])
def test_exactly_opposed_experts_stay_in_their_neighbourhood(method, options, models):
    found = merge_state_dicts(method, BASE, models, **options)
    longest = max((expert[NAME] - BASE[NAME]).norm() for expert in models)
    assert (found[NAME] - BASE[NAME]).norm() <= 1.001 * longest


@pytest.mark.parametrize(
    ("method", "options"),
    [("dare", {"density": 0.05}), ("task_arithmetic", {"scaling": 2.5}), ("subspace_boosting", {}), ("tsvm", {})],
)
def test_what_is_published_is_neither_refused_nor_warned_of(method, options, caplog):
    merge_state_dicts(method, BASE, experts(*(drawn(seed, 0.01) for seed in range(1, 5))), **options)
    assert not caplog.text


def test_a_long_update_is_said(caplog):
    merge_state_dicts("task_arithmetic", BASE, experts(drawn(1, 0.01)), scaling=50)
    assert "50 times as long as those of all experts together" in caplog.text


def test_the_record_says_how_long_the_update_is(tmp_path):
    models = [BASE, *experts(drawn(1, 0.01), drawn(2, 0.01))]
    wanted = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
    for number, model in enumerate(models):
        (tmp_path / str(number)).mkdir()
        save_file(model, tmp_path / str(number) / "model.safetensors")
        (tmp_path / str(number) / "generation_config.json").write_text(json.dumps(dict.fromkeys(wanted, 1)))
    base, *tuned = (tmp_path / str(number) for number in range(3))
    options = {"lines": {"alpha": 0.5, "beta": 0.0}, "scaling": 3.0, "progress": False}
    out = engine.merge_folders("task_arithmetic", base, tuned, tmp_path / "out", **options)
    one, two = drawn(1, 0.01), drawn(2, 0.01)
    expected = 1.5 * (one + two).norm() / (one.norm() + two.norm())
    assert json.loads((out / "merge_recipe.json").read_text())["growth"] == pytest.approx(expected.item(), rel=1e-2)


def test_a_model_merged_again_and_again_is_measured_once():
    run = fitting.begin(open_merge("task_arithmetic", BASE, experts(drawn(1, 0.01)), scaling=0.5))
    once = [dict(run.stream()) and run.lengths.growth(0.5) for _ in range(3)]
    assert once == [pytest.approx(0.5)] * 3


def test_a_merge_taken_up_again_does_not_claim_a_length():
    models = BASE | {"x": torch.ones(3)}, [experts(drawn(1))[0] | {"x": torch.ones(3)}]
    run = fitting.begin(open_merge("task_arithmetic", *models), whole=False)
    list(run.stream(skip=["x"]))
    assert lengths.rounded(run) is None
