"""Models stored in few digits: what rounding alone changed is no training, and the rounding that is left is said."""

import itertools
import json
import logging

import pytest
import torch
from safetensors.torch import save_file

import speechmerge
from speechmerge.errors import CheckpointError
from speechmerge.merging import engine, precision, task_vectors
from speechmerge.merging import merge as merging
from speechmerge.merging.merge import open_merge
from speechmerge.whisper import checkpoints

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
SINUSOID, TABLE = "model.encoder.embed_positions.weight", "model.decoder.embed_tokens.weight"
MAP, TRAINED = "model.encoder.layers.0.fc1.weight", "model.encoder.layers.0.fc2.weight"
BIAS = "model.encoder.layers.0.fc1.bias"
SHAPES = {SINUSOID: (30, 16), MAP: (48, 32), TRAINED: (48, 32), BIAS: (48,), TABLE: (40, 32)}
ROW = 5  # of the token table, the only one that is trained


def state(dtype=F32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: (0.05 * torch.randn(s, generator=generator, dtype=F64)).to(dtype) for n, s in SHAPES.items()}


def tuned(seed: int, start: dict, size: float = 1e-3) -> dict[str, torch.Tensor]:
    """Train one map and one row of the table, save their first scalars."""
    generator = torch.Generator().manual_seed(seed)
    found = {n: x.clone() for n, x in start.items()}
    for part in (found[TRAINED][1:], found[TABLE][ROW, 16:]):
        part += (size * torch.randn(part.shape, generator=generator)).to(part.dtype)
    return found


def stored(tensors: dict, *dtypes: torch.dtype) -> dict[str, torch.Tensor]:
    """Save in one format, then load and save in the next."""
    for dtype in dtypes:
        tensors = {n: x.to(dtype) for n, x in tensors.items()}
    return tensors


def folder(path, tensors):
    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text("{}")
    wanted = ("decoder_start_token_id", "no_timestamps_token_id", "lang_to_id", "task_to_id")
    (path / "generation_config.json").write_text(json.dumps(dict.fromkeys(wanted, 1)))
    return path


def assert_untrained_is_the_base(found, base):
    rows = [row for row in range(SHAPES[TABLE][0]) if row != ROW]
    assert all(torch.equal(found[n].to(F64), base[n].to(F64)) for n in (SINUSOID, MAP, BIAS))
    assert torch.equal(found[TABLE][rows].to(F64), base[TABLE][rows].to(F64))


FORMATS = list(itertools.product([(F64,), (F32,), (F16,), (BF16,), (F16, F32), (BF16, F32)], repeat=2))
FORMATS += [((F32,), (BF16, F16)), ((F32,), (F16, BF16)), ((F16,), (BF16, F32)), ((F16,), (BF16, F16))]


@pytest.mark.parametrize("original", [F32, F64])
@pytest.mark.parametrize(("given", "kept"), FORMATS, ids=str)
def test_what_nobody_trained_stays_the_base_and_what_was_trained_is_the_experts(given, kept, original):
    base = stored(state(original), *given)
    experts = [stored(tuned(seed, state(original)), *kept) for seed in range(1, 11)]
    found = engine.merged("task_arithmetic", base, experts, dtype=F64)
    assert_untrained_is_the_base(found, base)
    [alone] = [engine.merged("task_arithmetic", base, experts[:1], dtype=F64)]
    assert torch.allclose(alone[TRAINED], experts[0][TRAINED].to(F64), rtol=0, atol=1e-8)
    assert torch.allclose(alone[TABLE][ROW], experts[0][TABLE][ROW].to(F64), rtol=0, atol=1e-8)
    update = sum(x[TRAINED].to(F64) - base[TRAINED].to(F64) for x in experts)
    assert torch.allclose(found[TRAINED] - base[TRAINED], update, rtol=0, atol=1e-7)


def test_experts_of_several_formats_merge_together():
    base, moved = state(), [tuned(seed, state()) for seed in range(4)]
    partly = {n: x if n in (BIAS, SINUSOID) else x.to(F16) for n, x in moved[3].items()}
    experts = [stored(moved[0], BF16), stored(moved[1], F16), moved[2], partly]
    found = engine.merged("task_arithmetic", base, experts)
    assert_untrained_is_the_base(found, base)
    step = sum(torch.finfo(dtype).eps for dtype in (BF16, F16, F16)) * base[TRAINED].abs().max()
    update = sum(x[TRAINED] - base[TRAINED] for x in moved)
    assert torch.allclose(found[TRAINED] - base[TRAINED], update, rtol=0, atol=step.item())


@pytest.mark.parametrize("given", [F16, BF16])
@pytest.mark.parametrize("size", [1e-3, 1e-7])
def test_experts_that_started_from_the_rounded_base_changed_it_by_all_they_differ(given, size):
    base = stored(state(), given)
    experts = [tuned(seed, stored(base, F32), size) for seed in (1, 2)]
    for expert in experts:
        expert[BIAS] += size
    found = engine.merged("task_arithmetic", base, experts, dtype=F64)
    for n, x in base.items():
        assert torch.allclose(found[n], x.to(F64) + sum(e[n].to(F64) - x.to(F64) for e in experts), rtol=0, atol=2e-8)
    assert open_merge("task_arithmetic", base, experts).inputs.rounding == [None, None]


def test_without_a_sinusoid_maps_and_tables_show_a_rounded_base_and_vectors_count():
    whole = state()
    base = stored({n: whole[n] for n in (MAP, BIAS)}, F16)
    experts = [{n: whole[n].clone() for n in (MAP, BIAS)} for _ in range(10)]
    found = speechmerge.merge_state_dicts("task_arithmetic", base, experts, dtype=F64)
    assert torch.equal(found[MAP], base[MAP].to(F64))
    assert torch.allclose(found[BIAS] - base[BIAS], 10 * (whole[BIAS] - base[BIAS]).to(F64), atol=1e-9)
    reverse = speechmerge.merge_state_dicts("task_arithmetic", experts[0], [base] * 10)
    assert all(torch.equal(reverse[n], x) for n, x in experts[0].items())


def test_blocks_decide_as_whole_tensors_do(monkeypatch):
    base, experts = state(), [stored(tuned(seed, state()), BF16) for seed in (1, 2)]
    expected = engine.merged("task_arithmetic", base, experts)
    for module in (merging, precision, checkpoints):
        monkeypatch.setattr(module, "BLOCK", 7)
    found = engine.merged("task_arithmetic", base, experts)
    assert all(torch.equal(found[n], expected[n]) for n in base)


def test_models_of_one_format_are_read_as_they_are():
    base, expert = (checkpoints.open_checkpoint(x) for x in (state(), tuned(1, state())))
    assert precision.unrounded(base, expert) is expert


@pytest.mark.parametrize("method", ["ties", "lors", "tsvm", "slerp", "weight_average", "dare"])
def test_every_method_and_the_line_leave_the_base_where_nobody_trained(method):
    base, experts = state(), [stored(tuned(seed, state()), BF16) for seed in (1, 2)]
    found = engine.merged(method, base, experts)
    at = engine.line(method, base, experts)
    assert all(torch.equal(x, found[n]) for n, x in at(1.0).items())
    assert all(torch.allclose(found[n], base[n], rtol=0, atol=1e-7) for n in (SINUSOID, MAP, BIAS))


@pytest.mark.parametrize("kinds", [(BF16,), (F16,), (BF16, F16), (BF16, F32)], ids=str)
def test_an_expert_that_is_the_base_but_for_rounding_is_refused(kinds):
    with pytest.raises(CheckpointError, match=r"expert 1 holds the same weights as base but for the rounding"):
        engine.merged("task_arithmetic", state(), [tuned(1, state()), stored(state(), *kinds)])


@pytest.mark.parametrize("kinds", [(F32, BF16), (F16, BF16), (F16, F32)], ids=str)
def test_two_experts_that_are_one_but_for_rounding_are_refused(kinds):
    experts = [stored(tuned(1, state()), kind) for kind in kinds]
    with pytest.raises(CheckpointError, match=r"expert 1 holds the same weights as expert 0 but for the rounding"):
        engine.merged("task_arithmetic", state(), experts)


def test_a_sinusoid_that_differs_by_more_than_rounding_is_another_base():
    other = tuned(2, state())
    other[SINUSOID] += 0.01
    with pytest.raises(CheckpointError, match=r"in expert 1 it differs from the base's by more than rounding"):
        engine.merged("task_arithmetic", state(), [stored(tuned(1, state()), BF16), stored(other, BF16)])


def test_numbers_outside_fp16_are_located_and_those_below_it_are_unchanged():
    base, expert = state(), tuned(1, state())
    base[MAP][0, 0] = expert[MAP][0, 0] = 1e-9
    assert torch.equal(engine.merged("task_arithmetic", base, [stored(expert, F16)])[MAP], base[MAP])
    base[MAP][0, 0] = expert[MAP][0, 0] = 1e5
    with pytest.raises(CheckpointError, match=r"expert 0: tensor .*fc1\.weight.*\(inf\) at index \[0, 0\]"):
        engine.merged("task_arithmetic", base, [stored(expert, F16)])


def test_formats_that_cannot_be_merged_are_named():
    expert = tuned(1, state()) | {MAP: state()[MAP].to(torch.float8_e4m3fn)}
    with pytest.raises(CheckpointError, match=r"expert 0: .*fc1\.weight' is torch\.float8_e4m3fn.*use torch\.float32"):
        engine.merged("task_arithmetic", state(), [expert])


@pytest.mark.parametrize(
    ("given", "kept", "rounded", "kind"),
    [
        (F32, (BF16,), "expert", "bfloat16"),
        (F32, (BF16, F32), "expert", "bfloat16"),
        (BF16, (F32,), "base", "bfloat16"),
    ],
)
def test_the_rounding_that_is_left_is_measured_warned_of_and_recorded(given, kept, rounded, kind, tmp_path, caplog):
    whole, expert = state(), tuned(1, state())
    places = [folder(tmp_path / name, x) for name, x in (("base", stored(whole, given)), ("es", stored(expert, *kept)))]
    with caplog.at_level(logging.WARNING):
        out = engine.merge_folders("task_arithmetic", places[0], places[1:], tmp_path / "out", progress=False)
    [about] = json.loads((out / "merge_recipe.json").read_text())["rounding"]
    maps = torch.cat([whole[n].flatten() for n in (MAP, TRAINED)]).norm()
    lost = (expert[TRAINED].to(BF16).float() - expert[TRAINED]).norm() / maps
    assert (about["expert"], about["rounded"], about["precision"]) == ("es", rounded, kind)
    assert about["rounding"] == pytest.approx(lost.item(), rel=0.1)
    assert about["update"] == pytest.approx(((expert[TRAINED] - whole[TRAINED]).norm() / maps).item(), rel=0.1)
    [said] = [record.getMessage() for record in caplog.records]
    assert f"rounded to {kind}" in said and f"{about['rounding']:.2%}" in said
    card = (out / "README.md").read_text()
    assert "## Precision" in card and "rounded to bfloat16" in card and str(tmp_path) not in card


def test_nothing_is_said_of_rounding_where_there_is_none(tmp_path, caplog):
    places = [folder(tmp_path / name, x) for name, x in (("base", state()), ("es", tuned(1, state())))]
    with caplog.at_level(logging.WARNING):  # the command line, tested before, may have asked for more
        out = engine.merge_folders("task_arithmetic", places[0], places[1:], tmp_path / "out", progress=False)
    assert "rounding" not in json.loads((out / "merge_recipe.json").read_text())
    assert "Precision" not in (out / "README.md").read_text() and not caplog.records


def test_fingerprints_in_the_record_are_those_of_the_files(tmp_path):
    places = [folder(tmp_path / name, x) for name, x in (("base", state()), ("es", stored(tuned(1, state()), BF16)))]
    out = engine.merge_folders("task_arithmetic", places[0], places[1:], tmp_path / "out", progress=False)
    marks = json.loads((out / "merge_recipe.json").read_text())["fingerprints"]
    assert marks["experts"] == [checkpoints.fingerprint(places[1])]


def test_task_vectors_are_zero_where_rounding_alone_changed_the_expert():
    rows = task_vectors.describe(state(), {"a": stored(tuned(1, state()), F16), "b": stored(tuned(2, state()), BF16)})
    norms = {(row["expert"], row["tensor"]): row["norm"] for row in rows if row["kind"] == "norm"}
    assert all(norms[expert, name] == 0 for expert in "ab" for name in (SINUSOID, MAP, BIAS))
    assert all(norms[expert, name] > 0 for expert in "ab" for name in (TRAINED, TABLE))
