"""The engine: options, output scalings, dtypes, blocks, folders."""

import json

import pytest
import torch
from small_models import folder

import speechmerge
from speechmerge.errors import MethodError, SpeechMergeError
from speechmerge.merging import applying, engine, fitting, merge, methods, output
from speechmerge.merging.merge import open_merge
from speechmerge.whisper import checkpoints


def test_sum_and_mean_by_hand(base, experts):
    total = speechmerge.merge_state_dicts("task_arithmetic", base, experts, scaling=0.3, weights=[1.0, 2.0, -1.0])
    mean = speechmerge.merge_state_dicts("weight_average", base, experts, weights=[1.0, 2.0, 1.0])
    for n in base:
        one, two, three = (x[n] for x in experts)
        by_hand = base[n] + 0.3 * ((one - base[n]) + 2 * (two - base[n]) - (three - base[n]))
        assert torch.allclose(total[n], by_hand, atol=1e-6)
        assert torch.allclose(mean[n], (one + 2 * two + three) / 4, atol=1e-6)


def test_weights_that_sum_to_zero_have_no_mean(base, experts):
    with pytest.raises(MethodError, match="sum to zero"):
        speechmerge.merge_state_dicts("weight_average", base, experts, weights=[1.0, -1.0, 0.0])


def test_other_tensors_than_matrices_are_kept_whole_by_lors_or_as_the_policy_says(base, experts):
    bias, table = "model.encoder.layers.0.fc1.bias", "model.decoder.embed_tokens.weight"
    whole = speechmerge.merge_state_dicts("lors", base, experts)
    policy = {"VEC": "mean", "EMB": "rule", "MAT": "base"}
    other = speechmerge.merge_state_dicts("lors", base, experts, policy=policy, density=0.0, rank_ratio=0.3)
    assert torch.allclose(whole[bias], base[bias] + sum(x[bias] - base[bias] for x in experts), atol=1e-6)
    assert torch.allclose(other[bias], sum(x[bias] for x in experts) / 3, atol=1e-6)
    assert torch.linalg.matrix_rank((other[table] - base[table]).double(), rtol=1e-3) <= 3
    assert torch.equal(other["model.encoder.layers.0.fc1.weight"], base["model.encoder.layers.0.fc1.weight"])


def test_only_the_included_parts_are_merged(base, experts):
    found = speechmerge.merge_state_dicts("task_arithmetic", base, experts, include="encoder+mlp")
    changed = [n for n in base if not torch.equal(found[n], base[n])]
    assert changed == ["model.encoder.layers.0.fc1.weight", "model.encoder.layers.0.fc1.bias"]


def test_dtypes(base, experts):
    half = {n: x.half() for n, x in base.items()}
    found = speechmerge.merge_state_dicts("task_arithmetic", half, experts)
    wide = speechmerge.merge_state_dicts("task_arithmetic", half, experts, dtype=torch.float64)
    assert {x.dtype for x in found.values()} == {torch.float16}
    assert {x.dtype for x in wide.values()} == {torch.float64}


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "pcb", "emr", "localize_and_stitch", "ramplus_tl"])
def test_blocks_and_threads_give_what_whole_tensors_give(method, base, experts, monkeypatch):
    options = {"scope": "model"} if method == "ramplus_tl" else {}
    expected = speechmerge.merge_state_dicts(method, base, experts, **options)
    for module in (merge, fitting):
        monkeypatch.setattr(module, "BLOCK", 5)
    monkeypatch.setattr(applying, "workers", lambda merge: 2)
    found = speechmerge.merge_state_dicts(method, base, experts, **options)
    assert all(torch.equal(found[n], expected[n]) for n in base)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rule_may_look_at_the_whole_model_while_it_is_at_work(workers, base, monkeypatch):
    """TIES does at the first votes that cancel out; the block that it works on must be what it was."""
    monkeypatch.setattr(applying, "workers", lambda merge: workers)
    base = {name: tensor.double() for name, tensor in base.items()}
    draw = torch.Generator().manual_seed(0)
    step = {name: torch.randint(-8, 9, t.shape, generator=draw).double() / 1024 for name, t in base.items()}
    base = {name: (1024 * tensor).round() / 1024 for name, tensor in base.items()}
    experts = [{name: base[name] + sign * step[name] for name in base} for sign in (1, -1)]
    one = fitting.begin(open_merge("ties", base, experts, density=1.0))
    found = dict(one.stream())
    for name in base:  # all votes cancel out, so no sign has a majority, and the positive one counts
        assert torch.equal(found[name], base[name] + step[name].abs())
    assert one.lengths.growth(1.0) == pytest.approx(0.5)


def test_a_sinusoid_that_an_expert_changed_counts_as_a_table_unless_strict(base, experts):
    name = "model.encoder.embed_positions.weight"
    experts[1][name] += 0.5
    found = speechmerge.merge_state_dicts("task_arithmetic", base, experts)
    assert torch.allclose(found[name], base[name] + 0.5)
    with pytest.raises(SpeechMergeError, match="sinusoid"):
        engine.merged("task_arithmetic", base, experts)


def test_a_stored_tied_head_is_tied_again(base, experts):
    table = "model.decoder.embed_tokens.weight"
    with_head = {"proj_out.weight": base[table]} | base
    found = speechmerge.merge_state_dicts("task_arithmetic", with_head, experts)
    assert list(found) == list(with_head)
    assert torch.equal(found["proj_out.weight"], found[table])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scaling": float("nan")}, "finite"),
        ({"policy": {"BIAS": "sum"}}, "no class 'BIAS'"),
        ({"policy": {"VEC": "means"}}, "Did you mean 'mean'"),
        ({"policy": {"VEC": "rule"}}, "acts on matrices"),
        ({"extras": {"gram": []}}, "Did you mean 'grams'"),
    ],
)
def test_wrong_options_get_a_sentence(options, words, base, experts):
    with pytest.raises(MethodError, match=words):
        speechmerge.merge_state_dicts("lors", base, experts, **options)


@pytest.mark.parametrize(
    ("method", "kind", "spoil", "words"),
    [
        (
            "fisher",
            "fishers",
            lambda own: own.fill_(float("nan")),
            r"expert 1: '[\w.]+' has numbers below 0 or not finite",
        ),
        ("fisher", "fishers", lambda own: own.sub_(2), r"expert 1: '[\w.]+' has numbers below 0 or not finite"),
        ("fisher", "fishers", lambda own: own.reshape(-1)[:2], r"expert 1: '[\w.]+' has shape \[2\], expected \["),
        ("regmean", "grams", lambda own: torch.eye(3), r"expert 1: '[\w.]+' has shape \[3, 3\], expected \["),
    ],
)
def test_statistics_that_cannot_be_are_refused(method, kind, spoil, words, base, experts):
    if kind == "fishers":
        found = [{name: torch.ones_like(x) for name, x in base.items()} for _ in experts]
    else:
        matrices = {name: x for name, x in base.items() if x.dim() == 2}
        found = [{n.removesuffix(".weight"): torch.eye(x.shape[1]) for n, x in matrices.items()} for _ in experts]
    found[1] = {name: spoil(own.clone()) for name, own in found[1].items()}
    with pytest.raises(MethodError, match=words):
        speechmerge.merge_state_dicts(method, base, experts, extras={kind: found})


def test_folders_give_what_dicts_give_and_the_record_says_how(base, experts, tmp_path):
    paths = [folder(tmp_path / f"m{i}", state) for i, state in enumerate((base, *experts))]
    expected = speechmerge.merge_state_dicts("lors", base, experts, scaling=0.15, density=[0.1, 0.2, 0.3])
    in_memory = engine.merged("lors", paths[0], paths[1:], scaling=0.15, density=[0.1, 0.2, 0.3])
    out = engine.merge_folders(
        "lors", paths[0], paths[1:], tmp_path / "out", scaling=0.15, density=[0.1, 0.2, 0.3], progress=False
    )
    assert checkpoints.fingerprint(in_memory) == checkpoints.fingerprint(out) == checkpoints.fingerprint(expected)
    record = json.loads((out / "merge_recipe.json").read_text())
    assert record["fingerprints"]["result"] == checkpoints.fingerprint(out)
    assert record["fingerprints"]["experts"] == [checkpoints.fingerprint(x) for x in experts]
    assert record["recipe"]["parameters"]["density"] == [0.1, 0.2, 0.3]
    assert record["recipe"]["parameters"]["lambda"] == 0.15
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"
    assert sorted(x.name for x in out.iterdir()) == [
        "README.md", "config.json", "generation_config.json", "merge_recipe.json", "model.safetensors",
    ]  # fmt: skip
    assert "merge_method: lors" in (out / "README.md").read_text()
    assert str(tmp_path) not in (out / "README.md").read_text() + (out / "merge_recipe.json").read_text()


def test_the_result_has_the_most_precise_dtype_of_the_inputs(base, experts, tmp_path):
    half = [folder(tmp_path / f"h{i}", {n: x.half() for n, x in s.items()}) for i, s in enumerate((base, *experts))]
    full = folder(tmp_path / "full", {n: x.half().float() for n, x in experts[0].items()} | {
        "model.encoder.layers.0.fc1.bias": experts[0]["model.encoder.layers.0.fc1.bias"]})  # fmt: skip
    a = engine.merge_folders("weight_average", half[0], half[1:], tmp_path / "a", progress=False)
    b = engine.merge_folders("weight_average", half[0], [half[2], full], tmp_path / "b", progress=False)
    assert set(checkpoints.open_checkpoint(a).dtypes.values()) == {torch.float16}
    assert set(checkpoints.open_checkpoint(b).dtypes.values()) == {torch.float32}


@pytest.mark.parametrize("method", ["lors", "tsvm", "iso_c", "boosted_tsvm", "wudi", "optmerge", "iso_cts"])
def test_batches_of_equal_shapes_give_what_single_tensors_give(method, base, experts):
    one = speechmerge.merge_state_dicts(method, base, experts)
    together = speechmerge.merge_state_dicts(method, base, experts, batched=True)
    assert list(together) == list(base)
    at = engine.line(method, base, experts, batched=True, strict=False)
    assert all(torch.equal(x, together[n]) for _ in range(2) for n, x in at(1.0).items())
    assert all(torch.allclose(one[n], together[n], atol=1e-6) for n in base)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "lors", "dare", "karcher", "tsvm", "pcb"])
def test_a_gpu_gives_what_the_cpu_gives(method, base, experts):
    one = speechmerge.merge_state_dicts(method, base, experts)
    other = speechmerge.merge_state_dicts(method, base, experts, device="cuda")
    assert all(torch.allclose(one[n], other[n], atol=1e-5) for n in base)


def test_a_device_that_is_not_here_is_refused(base, experts, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert speechmerge.merge_state_dicts("lors", base, experts, device="auto")
    with pytest.raises(MethodError, match="no GPU here"):
        speechmerge.merge_state_dicts("lors", base, experts, device="cuda")


@pytest.mark.parametrize("method", ["svp", "lors", "tsvm", "boosted_tsvm"])
def test_singular_vectors_are_shared_through_the_cache(method, base, experts, tmp_path, monkeypatch):
    expected = speechmerge.merge_state_dicts(method, base, experts)
    first = speechmerge.merge_state_dicts(method, base, experts, svd_cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * 3
    monkeypatch.setattr(torch.linalg, "eigh", None)  # nothing is decomposed any more, save what is joined
    if method in ("svp", "lors"):
        second = speechmerge.merge_state_dicts(method, base, experts, svd_cache=tmp_path)
        assert all(torch.equal(first[n], second[n]) for n in base)
    assert all(torch.allclose(first[n], expected[n], atol=1e-5) for n in base)


def test_a_task_that_does_not_exist_is_refused(base, experts):
    with pytest.raises(MethodError, match="task is 3, but there are 3 experts"):
        speechmerge.merge_state_dicts("emr", base, experts, task=3)


def test_a_generator_depends_on_seed_name_and_expert_only():
    draws = {
        torch.rand(1, generator=applying.generator(*key)).item()
        for key in [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1)]
    }
    assert len(draws) == 4
    assert (
        torch.rand(3, generator=applying.generator(5, "x", 2)).tolist()
        == torch.rand(3, generator=applying.generator(5, "x", 2)).tolist()
    )


def test_every_parameter_reaches_the_recipe(base, experts):
    for name, about in methods.registry().items():
        if not ({"gram", "fisher"} & set(about.needs) or about.measure):
            opened = open_merge(name, base, experts[: about.experts])
            assert set(about.parameters) <= set(output.recipe(opened, {})["parameters"])
