"""The engine: options, output scalings, dtypes, blocks, folders."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import save_file

import speechmerge
from speechmerge import (
    applying,
    checkpoints,
    engine,
    estimates,
    fitting,
    merging,
    methods,
    output,
    resuming,
    tensor_files,
)
from speechmerge.errors import MethodError, SpeechMergeError

NAMES = {
    "model.encoder.embed_positions.weight": (5, 4),
    "model.encoder.layers.0.fc1.weight": (6, 4),
    "model.encoder.layers.0.fc1.bias": (6,),
    "model.decoder.layers.0.fc1.weight": (6, 4),
    "model.decoder.embed_tokens.weight": (9, 4),
}


def model(seed: int, base: dict | None = None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    fresh = {n: torch.randn(s, generator=generator) for n, s in NAMES.items()}
    if base is None:
        return fresh
    moved = {n: base[n] + 0.01 * fresh[n] for n in NAMES}
    return moved | {"model.encoder.embed_positions.weight": base["model.encoder.embed_positions.weight"].clone()}


@pytest.fixture
def base() -> dict[str, torch.Tensor]:
    return model(0)


@pytest.fixture
def experts(base) -> list[dict[str, torch.Tensor]]:
    return [model(seed, base) for seed in (1, 2, 3)]


def folder(path, state, **config):
    path.mkdir()
    save_file({n: x.contiguous() for n, x in state.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"vocab_size": 9, "torch_dtype": "float16"} | config))
    wanted = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
    (path / "generation_config.json").write_text(json.dumps(dict.fromkeys(wanted, 1) | {"is_multilingual": True}))
    (path / "optimizer.pt").write_bytes(b"never copied")
    return path


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


def test_blocks_give_what_whole_tensors_give(base, experts, monkeypatch):
    expected = speechmerge.merge_state_dicts("task_arithmetic", base, experts)
    monkeypatch.setattr(merging, "BLOCK", 5)
    found = speechmerge.merge_state_dicts("task_arithmetic", base, experts)
    assert all(torch.equal(found[n], expected[n]) for n in base)


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


class Killed(BaseException):
    """Ends a merge as Ctrl-C does; what a kill leaves is the same."""


def interrupted(paths, out, monkeypatch, after: int = 2, **options) -> list[str]:
    """Merge until so many tensors are done; returns their names."""
    done, plain = [], merging.Merge.tensor

    def tensor(self, name):
        if len(done) == after:
            raise Killed
        done.append(name)
        return plain(self, name)

    monkeypatch.setattr(merging.Merge, "tensor", tensor)
    with pytest.raises(Killed):
        engine.merge_folders("dare", paths[0], paths[1:], out, progress=False, **options)
    monkeypatch.setattr(merging.Merge, "tensor", plain)
    assert not out.exists()
    return done


def resumed(paths, out, monkeypatch, **options) -> list[str]:
    """Merge to the end; returns the names of the tensors that were computed."""
    done, plain = [], merging.Merge.tensor
    monkeypatch.setattr(merging.Merge, "tensor", lambda self, name: (done.append(name), plain(self, name))[1])
    engine.merge_folders("dare", paths[0], paths[1:], out, progress=False, **options)
    monkeypatch.setattr(merging.Merge, "tensor", plain)
    assert [x.name for x in out.parent.iterdir() if x.name.startswith(".")] == []
    return done


@pytest.fixture
def paths(base, experts, tmp_path):
    return [folder(tmp_path / f"m{i}", state) for i, state in enumerate((base, *experts))]


def test_an_interrupted_merge_is_taken_up_where_it_was(paths, base, experts, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = interrupted(paths, out, monkeypatch)
    second = resumed(paths, out, monkeypatch)
    assert sorted(first + second) == sorted(NAMES)
    assert len(first) == 2
    expected = speechmerge.merge_state_dicts("dare", base, experts)
    assert checkpoints.fingerprint(out) == checkpoints.fingerprint(expected)


def test_other_parameters_or_inputs_start_afresh(paths, base, experts, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(paths, out, monkeypatch)
    assert len(resumed(paths, out, monkeypatch, seed=1)) == len(NAMES)
    interrupted(paths, tmp_path / "two", monkeypatch)
    save_file({n: x + 1e-3 for n, x in experts[0].items()}, paths[1] / "model.safetensors")
    assert len(resumed(paths, tmp_path / "two", monkeypatch, strict=False)) == len(NAMES)


def test_what_was_damaged_since_is_written_again(paths, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = interrupted(paths, out, monkeypatch, after=4)
    work = tmp_path / ".out.unfinished"
    [entry] = [e for e in tensor_files.header(work / "model.safetensors") if e.stored_name == first[1]]
    with (work / "model.safetensors").open("r+b") as stream:
        stream.seek(entry.start + 4)
        stream.write(b"\x01")
    with (work / resuming.JOURNAL).open("a") as stream:
        stream.write('["cut sho')
    assert first[1] in (again := resumed(paths, out, monkeypatch))
    assert len(again) == 2


def test_an_error_leaves_nothing_and_two_merges_do_not_share_an_output(paths, tmp_path):
    out = tmp_path / "out"
    with (
        resuming.unfinished(out, "key"),
        pytest.raises(SpeechMergeError, match=r"out is being written by another process; wait"),
    ):
        engine.merge_folders("dare", paths[0], paths[1:], out, progress=False)
    with pytest.raises(ValueError, match="of its own"), resuming.unfinished(out, "key"):
        raise ValueError("of its own")
    assert [x.name for x in tmp_path.iterdir() if "out" in x.name] == []


def test_a_merge_never_holds_more_than_its_estimate_of_a_large_table(base, experts):
    merge = merging.Merge("task_arithmetic", base, experts)
    found = estimates.estimate(merge)
    assert found.memory == 4 * 36 * (2 * 3 + 3)
    assert found.read == 4 * 4 * sum(math.prod(shape) for shape in NAMES.values())


@pytest.mark.parametrize("method", ["weight_average", "ties", "sce", "dare", "lors", "tsvm", "regmean"])
def test_the_time_is_estimated_for_every_kind_of_method(method, base, experts):
    extras = {"grams": [{n.removesuffix(".weight"): torch.eye(4) for n in NAMES} for _ in experts]}
    merge = merging.Merge(method, base, experts, extras=extras if method == "regmean" else None)
    found = estimates.estimate(merge)
    assert 0 < found.seconds < 60
    assert "MB of memory and 0 s" in str(found)
    assert "2 min" in str(dataclasses.replace(found, seconds=130.0))


@pytest.mark.parametrize("method", ["lors", "tsvm", "iso_c", "boosted_tsvm", "wudi", "optmerge", "iso_cts"])
def test_batches_of_equal_shapes_give_what_single_tensors_give(method, base, experts):
    one = speechmerge.merge_state_dicts(method, base, experts)
    together = speechmerge.merge_state_dicts(method, base, experts, batched=True)
    assert list(together) == list(base)
    assert all(torch.allclose(one[n], together[n], atol=1e-6) for n in base)


@pytest.mark.parametrize("method", ["regmean", "regmean_pp"])
def test_batches_take_their_own_statistics(method, base, experts):
    inputs = {n.removesuffix(".weight"): torch.randn(3, 20, 4) for n in NAMES if n.endswith("fc1.weight")}
    extras = {"grams": [{n: x[t].T @ x[t] for n, x in inputs.items()} for t in range(3)]}
    one = speechmerge.merge_state_dicts(method, base, experts, extras=extras)
    together = speechmerge.merge_state_dicts(method, base, experts, extras=extras, batched=True)
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
            merge = merging.Merge(name, base, experts[: about.experts])
            assert set(about.parameters) <= set(output.recipe(merge, {})["parameters"])
