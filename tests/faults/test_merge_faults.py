"""Faults 1 to 13 and 15 to 18 of the house style where merging meets them: a sentence, or a defined result."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import save_file

import speechmerge
from speechmerge.errors import CheckpointError, MethodError, SpeechMergeError
from speechmerge.merging import engine, validation
from speechmerge.merging.methods import registry
from speechmerge.whisper import checkpoints

FC1, BIAS = "model.encoder.layers.0.fc1.weight", "model.encoder.layers.0.fc1.bias"
TABLE = "model.decoder.embed_tokens.weight"
SHAPES = {FC1: (8, 4), BIAS: (8,), TABLE: (9, 4)}


def state(seed: int, base: dict | None = None, delta: float = 0.01) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    fresh = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    return fresh if base is None else {n: base[n] + delta * fresh[n] for n in base}


def folder(path, tensors, **config):
    path.mkdir(parents=True)
    save_file({n: x.contiguous() for n, x in tensors.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"vocab_size": 9} | config))
    keys = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
    (path / "generation_config.json").write_text(json.dumps(dict.fromkeys(keys, 1)))
    tokens = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "<|es|>"}]}
    (path / "tokenizer.json").write_text(json.dumps(tokens))
    return path


@pytest.fixture
def base() -> dict[str, torch.Tensor]:
    return state(0)


@pytest.fixture
def experts(base) -> list[dict[str, torch.Tensor]]:
    return [state(1, base), state(2, base)]


@pytest.fixture
def folders(base, experts, tmp_path):
    return [folder(tmp_path / name, x) for name, x in zip(("base", "one", "two"), (base, *experts), strict=True)]


def merge(base, experts, method="task_arithmetic", **params):
    return speechmerge.merge_state_dicts(method, base, experts, **params)


def test_1_another_shape_than_the_base(base, experts):
    experts[1][TABLE] = torch.zeros(10, 4)
    with pytest.raises(CheckpointError, match=r"expert 1.*embed_tokens.*\[10, 4\].*\[9, 4\].*vocabulary"):
        merge(base, experts)


def test_2_missing_and_extra_tensors_and_prefixes(base, experts):
    wrapped = [{f"module.{n}": x for n, x in experts[0].items()}, {f"_orig_mod.{n}": x for n, x in experts[1].items()}]
    found, expected = merge(base, wrapped), merge(base, experts)
    assert all(torch.equal(found[n], expected[n]) for n in base)
    experts[0]["model.encoder.layers.0.fc1.wieght"] = experts[0].pop(FC1)
    with pytest.raises(
        CheckpointError, match=r"lacks 1 tensor \(.*fc1\.weight\) of the base.*has 1 tensor .*Did you mean"
    ):
        merge(base, experts)
    with pytest.raises(CheckpointError, match="with and without"):
        merge(base, [experts[1] | {f"module.{FC1}": experts[1][FC1]}])


def test_3_a_tied_head_present_absent_or_untied(base, experts):
    expected = merge(base, experts)
    experts[0]["proj_out.weight"] = experts[0][TABLE].clone()
    found = merge(base, experts)
    assert list(found) == list(base)
    assert torch.equal(found[TABLE], expected[TABLE])
    experts[0]["proj_out.weight"][0, 0] += 1
    with pytest.raises(CheckpointError, match=r"expert 0: 'proj_out\.weight' differs.*tied"):
        merge(base, experts)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_4_not_a_number_in_an_input_is_located(value, base, experts, folders, tmp_path):
    experts[1][FC1][3, 2] = value
    with pytest.raises(CheckpointError, match=rf"expert 1.*fc1\.weight.*{value}.*\[3, 2\]"):
        merge(base, experts)
    bad = folder(tmp_path / "bad", experts[1])
    with pytest.raises(CheckpointError, match=r"bad: tensor.*\[3, 2\]"):
        engine.merge_folders("task_arithmetic", folders[0], [folders[1], bad], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_5_a_rule_that_overflows_writes_nothing(base, experts, folders, tmp_path):
    with pytest.raises(MethodError, match=r"NaN or infinity in.*nothing was written"):
        merge(base, [{n: 3e38 * torch.ones_like(x) for n, x in base.items()}] * 2)
    weights = [100.0, 100.0]
    huge = [folder(tmp_path / f"huge{i}", {n: x * (3e37 + i) for n, x in base.items()}) for i in (0, 1e36)]
    with pytest.raises(MethodError, match="nothing was written"):
        engine.merge_folders(
            "task_arithmetic", folders[0], huge, tmp_path / "out", weights=weights, max_update=1e39, progress=False
        )
    assert [x.name for x in tmp_path.iterdir() if "out" in x.name] == []


def test_6_an_expert_equal_to_the_base_or_to_another(base, experts, folders, tmp_path):
    copy = folder(tmp_path / "copy", experts[0])
    with pytest.raises(CheckpointError, match=r"copy holds the same weights as .*one"):
        engine.merged("task_arithmetic", folders[0], [folders[1], copy])
    same = folder(tmp_path / "same", base)
    with pytest.raises(CheckpointError, match=r"same holds the same weights as .*base"):
        engine.merged("task_arithmetic", folders[0], [folders[1], same])
    found = engine.merged("task_arithmetic", folders[0], [folders[1], same], strict=False)  # defined: it adds nothing
    assert torch.equal(found[FC1], merge(base, experts[:1])[FC1])


def test_7_a_wrong_base_is_refused_with_norm_ratio_and_fingerprints(base, folders, tmp_path):
    stranger = state(99)
    other = folder(tmp_path / "other", stranger)
    with pytest.raises(CheckpointError, match="no fine-tune of") as caught:
        engine.merged("lors", folders[0], [folders[1], other])
    said = str(caught.value)
    assert checkpoints.fingerprint(base)[:16] in said
    assert checkpoints.fingerprint(stranger)[:16] in said
    ratio = ((stranger[FC1] - base[FC1]).norm() / base[FC1].norm()).item()
    assert f"{ratio:.3g}" in said
    assert engine.merged("lors", folders[0], [folders[1], other], max_update=10.0)


def test_8_mixed_dtypes_and_integer_tensors(base, experts):
    mixed = [{n: x.half() for n, x in experts[0].items()}, {n: x.bfloat16() for n, x in experts[1].items()}]
    found = merge(base, mixed)
    expected = {n: base[n] + sum(x[n].float() - base[n] for x in mixed) for n in base}
    assert all(torch.allclose(found[n], expected[n], atol=1e-6) and found[n].dtype == torch.float32 for n in base)
    counted = [x | {"steps": torch.tensor([7])} for x in (base, *experts)]
    assert torch.equal(merge(counted[0], counted[1:])["steps"], torch.tensor([7]))
    counted[2]["steps"] = torch.tensor([8])
    with pytest.raises(CheckpointError, match=r"'steps' differs from the base's and is torch\.int64"):
        merge(counted[0], counted[1:])


def test_9_another_tokenizer(experts, folders, tmp_path):
    english = folder(tmp_path / "english", experts[1], vocab_size=8)
    with pytest.raises(CheckpointError, match=r"vocab_size is 8, the base .* has 9.*English-only"):
        engine.merged("task_arithmetic", folders[0], [folders[1], english])
    other = folder(tmp_path / "other", experts[1])
    (other / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"b": 0, "a": 1}}}))
    with pytest.raises(CheckpointError, match=r"token 0 of its tokenizer is 'b', the base .* has 'a'"):
        engine.merged("task_arithmetic", folders[0], [folders[1], other])


def test_10_a_generation_config_that_cannot_generate(folders, tmp_path):
    (folders[0] / "generation_config.json").write_text(json.dumps({"is_multilingual": True, "lang_to_id": {}}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json lacks decoder_start_token_id.*task_to_id"):
        engine.merge_folders("task_arithmetic", folders[0], folders[1:], tmp_path / "out")


@pytest.mark.parametrize("keep", [3, 60, -5])
def test_11_a_truncated_file(keep, folders):
    file = folders[1] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"one/model\.safetensors.*(truncated|damaged).*copy"):
        engine.merged("task_arithmetic", folders[0], folders[1:])


def test_11_a_missing_shard_and_a_damaged_index(folders):
    index = folders[1] / "model.safetensors.index.json"
    (folders[1] / "model.safetensors").unlink()
    index.write_text(json.dumps({"weight_map": {FC1: "model-00001-of-00002.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors, missing"):
        engine.merged("task_arithmetic", folders[0], folders[1:])
    index.write_text("{")
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        engine.merged("task_arithmetic", folders[0], folders[1:])


def test_11_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        checkpoints.open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        checkpoints.open_checkpoint(tmp_path)


def test_12_pickles_are_refused_unopened(folders):
    (folders[1] / "model.safetensors").rename(folders[1] / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, a pickle.*save_pretrained"):
        engine.merged("task_arithmetic", folders[0], folders[1:])


def test_13_killed_while_writing_leaves_the_old_folder_intact(folders, tmp_path):
    out = engine.merge_folders("task_arithmetic", folders[0], folders[1:], tmp_path / "out", progress=False)
    before = checkpoints.fingerprint(out)
    code = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from speechmerge.merging import engine
        from speechmerge.merging.run import Run
        plain = Run.tensor
        def slow(self, name):
            if name != next(iter(self.merge.base.shapes)):
                print("one tensor is written", flush=True)
                time.sleep(60)
            return plain(self, name)
        Run.tensor = slow
        base, *experts = map(Path, sys.argv[2:])
        engine.merge_folders("lors", base, experts, Path(sys.argv[1]), overwrite=True, progress=False)
        """
    )
    command = [sys.executable, "-c", code, str(out), *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert checkpoints.fingerprint(out) == before
    assert json.loads((out / "merge_recipe.json").read_text())["recipe"]["merge_method"] == "task_arithmetic"
    fresh = tmp_path / "fresh"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(fresh), *map(str, folders)],
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert not fresh.exists()


def test_13_an_existing_folder_is_only_replaced_when_asked(folders, tmp_path):
    out = engine.merge_folders("task_arithmetic", folders[0], folders[1:], tmp_path / "out", progress=False)
    with pytest.raises(SpeechMergeError, match="already exists"):
        engine.merge_folders("lors", folders[0], folders[1:], out, progress=False)
    engine.merge_folders("lors", folders[0], folders[1:], out, overwrite=True, progress=False)
    assert json.loads((out / "merge_recipe.json").read_text())["recipe"]["merge_method"] == "lors"


def test_15_a_full_or_read_only_disk_is_found_beforehand(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(SpeechMergeError, match="make room"):
        engine.merge_folders("task_arithmetic", folders[0], folders[1:], tmp_path / "out", progress=False)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(SpeechMergeError, match="not writable"):
        engine.merge_folders("task_arithmetic", folders[0], folders[1:], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_16_too_little_memory_is_found_beforehand(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 50 kB\n")
    validation.check_memory(50 * 1024)
    with pytest.raises(SpeechMergeError, match="GB are free"):
        validation.check_memory(50 * 1024 + 1)


def test_17_a_misspelt_method_or_parameter_names_the_nearest(base, experts):
    with pytest.raises(MethodError, match="Did you mean 'lors'"):
        merge(base, experts, "lros")
    with pytest.raises(MethodError, match="Did you mean 'rank_ratio'"):
        merge(base, experts, "lors", rank_ration=0.1)
    with pytest.raises(MethodError, match=r"outside \[0, 1\]"):
        merge(base, experts, "lors", rank_ratio=2)


def test_18_no_expert(base):
    with pytest.raises(CheckpointError, match="at least one"):
        merge(base, [])


@pytest.mark.parametrize("method", ["mp", "svp", "lors"])
def test_18_rank_zero_one_element_and_one_expert(method, base, experts):
    off = {name: 0.0 for name in ("density", "rank_ratio") if name in registry()[method].parameters}
    found = merge(base, experts, method, **off)
    assert torch.equal(found[FC1], base[FC1])
    single = merge({"w": torch.ones(1, 1)}, [{"w": torch.full((1, 1), 1.5)}], method)
    assert torch.allclose(single["w"], torch.tensor([[1.5]]))
