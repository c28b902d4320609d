"""LoRA experts as peft writes them, read as task vectors."""

import json

import pytest
import torch
from safetensors.torch import save_file

from speechmerge.errors import CheckpointError
from speechmerge.merging import engine
from speechmerge.merging.adapter_config import EMPTY, FIELDS

Q, BIAS, TABLE = (
    "model.encoder.layers.0.self_attn.q_proj.weight",
    "model.encoder.layers.0.fc1.bias",
    "model.decoder.embed_tokens.weight",
)
SHAPES = {Q: (6, 4), BIAS: (6,), TABLE: (9, 4)}


@pytest.fixture
def base() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}


def adapter(path, tensors, **config):
    path.mkdir()
    save_file({f"base_model.model.{n}": x.contiguous() for n, x in tensors.items()}, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8} | config))
    return path


def pair(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    stem, (rows, columns) = name.removesuffix(".weight"), SHAPES[name]
    return {
        f"{stem}.lora_A.weight": torch.randn(2, columns, generator=generator),
        f"{stem}.lora_B.weight": torch.randn(rows, 2, generator=generator),
    }


@pytest.mark.parametrize(
    ("config", "scale"),
    [({}, 4.0), ({"use_rslora": True}, 8 / 2**0.5), ({"alpha_pattern": {"self_attn.q_proj": 2}}, 1.0)],
)
def test_the_update_is_scaled_ba(config, scale, base, tmp_path):
    parts = pair(Q)
    a, b = parts.values()
    found = engine.merged("task_arithmetic", base, [adapter(tmp_path / "lora", parts, **config)], max_update=100.0)
    assert torch.allclose(found[Q], base[Q] + scale * b @ a, atol=1e-5)
    assert torch.equal(found[BIAS], base[BIAS])


def test_tables_turned_maps_and_tensors_saved_whole(base, tmp_path):
    a, b = torch.randn(2, 9), torch.randn(4, 2)
    stem = TABLE.removesuffix(".weight")
    tensors = {f"{stem}.lora_embedding_A": a, f"{stem}.lora_embedding_B": b, BIAS: base[BIAS] + 1}
    found = engine.merged("task_arithmetic", base, [adapter(tmp_path / "lora", tensors)], strict=False)
    assert torch.allclose(found[TABLE], base[TABLE] + 4 * (b @ a).T, atol=1e-5)
    assert torch.allclose(found[BIAS], base[BIAS] + 1)


def test_an_adapter_and_a_model_merge_together(base, tmp_path):
    other = {n: x + 0.01 for n, x in base.items()}
    parts = pair(Q)
    a, b = parts.values()
    lora = adapter(tmp_path / "lora", parts, lora_alpha=0.02)
    found = engine.merged("weight_average", base, [lora, other])
    assert torch.allclose(found[Q], base[Q] + (0.01 * b @ a + 0.01) / 2, atol=1e-6)


HEAD, MAP = "proj_out.weight", Q.removesuffix(".weight")
FIRST, SECOND = f"{MAP}.lora_A.weight", f"{MAP}.lora_B.weight"
TOKENS = TABLE.removesuffix(".weight")
ROWS = f"{TOKENS}.token_adapter.trainable_tokens_delta"
HEAD_ROWS = ROWS.replace(TOKENS, "proj_out")


def renamed(tensors: dict, old: str, new: str) -> dict:
    return {name.replace(old, new): x for name, x in tensors.items()}


@pytest.mark.parametrize("new", [".lora_A.default.weight", ".lora_A.es", ".lora_A"])
def test_keys_may_carry_the_adapters_name(new, base, tmp_path):
    parts = pair(Q)
    plain = adapter(tmp_path / "plain", parts)
    named = adapter(tmp_path / "named", renamed(parts, ".lora_A.weight", new))
    found = [engine.merged("task_arithmetic", base, [folder], max_update=100.0)[Q] for folder in (plain, named)]
    assert torch.equal(*found) and not torch.equal(found[0], base[Q])


@pytest.mark.parametrize(
    "name", [BIAS, BIAS.replace(".bias", ".base_layer.bias"), BIAS.replace("fc1.", "fc1.modules_to_save.default.")]
)
def test_tensors_saved_whole_by_any_of_their_names(name, base, tmp_path):
    folder = adapter(tmp_path / "lora", {f"_orig_mod.{name}": base[BIAS] + 1}, modules_to_save=["fc1"])
    assert torch.equal(engine.merged("task_arithmetic", base, [folder])[BIAS], base[BIAS] + 1)


@pytest.mark.parametrize("saved", [[HEAD], [HEAD, TABLE]])
def test_a_head_that_is_the_table_is_read_as_the_table(saved, base, tmp_path):
    table = base[TABLE] + 0.1
    folder = adapter(tmp_path / "lora", {name: table.clone() for name in saved})
    assert torch.allclose(engine.merged("task_arithmetic", base, [folder])[TABLE], table)


def test_a_copy_of_the_head_that_did_not_move_is_no_change(base, tmp_path):
    tensors = pair(Q) | {HEAD: base[TABLE].half()}
    folder = adapter(tmp_path / "lora", tensors, modules_to_save=["proj_out"])
    assert torch.equal(engine.merged("task_arithmetic", base, [folder], max_update=100.0)[TABLE], base[TABLE])


@pytest.mark.parametrize("field", [name for name, field in FIELDS.items() if field.accepted == EMPTY] + ["new_field"])
def test_a_statement_that_may_change_numbers_is_refused_by_its_name(field, base, tmp_path):
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: {field} is \[3\]: "):
        engine.merged("task_arithmetic", base, [adapter(tmp_path / "lora", pair(Q), **{field: [3]})])
    engine.merged("task_arithmetic", base, [adapter(tmp_path / "empty", pair(Q), **{field: None})], max_update=100.0)


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        ({}, {"peft_type": "IA3"}, r"method IA3; .*give that folder: python -c .*merge_and_unload\(\)"),
        ({}, {"peft_type": "PREFIX_TUNING"}, "method PREFIX_TUNING; .*No full model computes the same"),
        ({}, {"peft_type": "NEW"}, "method NEW; .*merge_and_unload"),
        ({"model.x.lora_A.weight": torch.zeros(2, 4)}, {}, "changes 'model.x', which the base"),
        ({f"{MAP}.lora_magic": torch.zeros(2, 4)}, {}, "a kind of tensor that is not read"),
        ({FIRST: torch.zeros(2, 4)}, {}, "has lora_A; expected lora_A and lora_B"),
        ({FIRST: torch.zeros(2, 5), SECOND: torch.zeros(6, 2)}, {}, r"shape \[6, 5\], the base's tensor is \[6, 4\]"),
        ({FIRST: torch.zeros(2, 4), SECOND: torch.zeros(6, 3)}, {}, r"shapes \[2, 4\] and \[6, 3\]"),
        ({FIRST: torch.zeros(0, 4), SECOND: torch.zeros(6, 0)}, {"r": 0}, r"shapes \[0, 4\] and \[6, 0\]"),
        ({FIRST: torch.zeros(2), SECOND: torch.zeros(6)}, {}, r"shapes \[2\] and \[6\]"),
        (pair(Q), {"lora_alpha": None}, "lora_alpha is None, expected a number"),
        (pair(Q), {"lora_alpha": float("nan")}, "lora_alpha is nan, expected a number"),
        (pair(Q), {"r": 8}, "r or rank_pattern says rank 8 .* have rank 2"),
        (pair(Q), {"rank_pattern": {"q_proj": 4}}, "r or rank_pattern says rank 4 .* have rank 2"),
        (pair(Q), {"alpha_pattern": ["q_proj"]}, "alpha_pattern is .*expected a mapping"),
        (pair(Q), {"alpha_pattern": {"(q_proj": 4}}, "no regular expression"),
        (pair(Q), {"target_modules": ["v_proj"]}, "peft would leave them out"),
        (pair(Q), {"target_modules": r".*decoder.*"}, "peft would leave them out"),
        (pair(Q), {"target_modules": "all-linear", "exclude_modules": ["q_proj"]}, "peft would leave them out"),
        (pair(Q), {"target_modules": ["q_proj"], "layers_to_transform": 1}, "peft would leave them out"),
        (pair(Q), {"modules_to_save": ["self_attn"]}, "nothing of it is stored"),
        (pair(Q) | {Q: torch.zeros(6, 4)}, {"modules_to_save": ["q_proj"]}, "stands beside A and B"),
        (pair(Q), {"use_dora": True}, "expected lora_A and lora_B, and lora_magnitude_vector"),
        (pair(Q) | {f"{MAP}.lora_magnitude_vector": torch.ones(6)}, {}, "has lora_A, lora_B, lora_magnitude_vector"),
        (pair(Q) | {f"{MAP}.lora_magnitude_vector": torch.ones(5)}, {"use_dora": True}, "5 norms, expected 6"),
        (pair(Q) | {f"{MAP}.lora_B.bias": torch.ones(6)}, {}, "lora_bias is False"),
        (pair(Q) | {f"{MAP}.lora_B.bias": torch.ones(6)}, {"lora_bias": True}, "bias in the base has shape None"),
        (pair(Q) | {f"{MAP}.lora_A.es.weight": torch.ones(2, 4)}, {}, "holds several adapters"),
        ({f"{MAP}.lora_A.es": torch.ones(2, 4), f"{MAP}.lora_B.it": torch.ones(6, 2)}, {}, "holds several adapters"),
        ({f"{MAP}.base_layer.weight": torch.zeros(12, dtype=torch.uint8)} | pair(Q), {}, "a quantised one"),
        ({ROWS: torch.zeros(2, 4)}, {}, "trainable_token_indices is None"),
        ({ROWS: torch.zeros(2, 4)}, {"trainable_token_indices": [1]}, r"rows of shape \[2, 4\]"),
        ({ROWS: torch.zeros(2, 4)}, {"trainable_token_indices": {"embed_tokens": [1, 9]}}, "none twice"),
        (pair(Q), {"trainable_token_indices": [1]}, "no rows are stored"),
        ({HEAD: torch.zeros(9, 4)}, {"modules_to_save": ["proj_out"]}, "head 'proj_out.weight' was trained apart"),
        ({HEAD: torch.ones(9, 4), TABLE: torch.zeros(9, 4)}, {}, "was trained apart"),
        ({TABLE: torch.zeros(9, 4)}, {"modules_to_save": ["embed_tokens"]}, "'proj_out.weight' left as the base's"),
        (
            {FIRST.replace(MAP, "proj_out"): torch.zeros(2, 4)},
            {},
            "update of the output head 'proj_out.weight' is stored",
        ),
        ({TABLE: torch.zeros(11, 4), HEAD: torch.zeros(11, 4)}, {}, r"\[11, 4\].*the table was resized before"),
        ({TABLE: torch.zeros(11, 4)}, {"modules_to_save": ["embed_tokens"]}, "the table was resized before"),
        ({HEAD_ROWS: torch.zeros(2, 4)}, {"trainable_token_indices": {"proj_out": [1, 2]}}, "in trainable_token_ind"),
        (pair(Q), {"peft_type": "LORA", "base_model_name_or_path": "openai/whisper-tiny"}, "is another Whisper"),
    ],
)
def test_what_is_refused(tensors, config, words, base, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        engine.merged("task_arithmetic", base, [adapter(tmp_path / "lora", tensors, **config)])


def test_a_bias_stored_under_two_names_is_one(base, tmp_path):
    """As peft stores it where ``bias="all"`` stands beside ``modules_to_save``."""
    module, bias = BIAS.removesuffix(".bias"), base[BIAS] + 1
    tensors = {BIAS: bias, f"{module}.modules_to_save.bias": bias.clone(), f"{module}.original_module.bias": bias - 1}
    settings = {"bias": "all", "modules_to_save": ["fc1"]}
    found = engine.merged("task_arithmetic", base, [adapter(tmp_path / "lora", tensors, **settings)])
    assert torch.equal(found[BIAS], bias)
    tensors[BIAS] = bias + 1
    with pytest.raises(CheckpointError, match="are for the same place"):
        engine.merged("task_arithmetic", base, [adapter(tmp_path / "two", tensors, **settings)])


def test_an_adapter_of_the_model_without_its_head(base, tmp_path):
    parts = {name.removeprefix("model."): x for name, x in pair(Q).items()}
    folders = [adapter(tmp_path / "whole", pair(Q)), adapter(tmp_path / "bare", parts, target_modules=["q_proj"])]
    one, other = (engine.merged("task_arithmetic", base, [folder], max_update=100.0) for folder in folders)
    assert torch.equal(one[Q], other[Q])
    bare = {name.removeprefix("model."): x for name, x in base.items()}
    found = engine.merged("task_arithmetic", bare, [folders[1]], max_update=100.0)
    assert torch.equal(found[Q.removeprefix("model.")], one[Q])


@pytest.mark.parametrize("kinds", [("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "bfloat16")])
def test_head_and_table_of_two_precisions_are_one(kinds, base, tmp_path):
    values = [base[TABLE].to(getattr(torch, kind)) for kind in kinds]
    folder = adapter(tmp_path / "lora", pair(Q) | dict(zip((HEAD, TABLE), values, strict=True)))
    assert torch.equal(engine.merged("task_arithmetic", base, [folder], max_update=100.0)[TABLE], base[TABLE])


def test_a_head_left_behind_is_told_from_one_trained_apart(base, tmp_path):
    tensors = {TABLE: base[TABLE] + 1, HEAD: base[TABLE].clone()}
    folder = adapter(tmp_path / "lora", tensors, modules_to_save=["embed_tokens", "proj_out"])
    with pytest.raises(CheckpointError, match=r"was trained and the output head 'proj_out.weight' left as the base's"):
        engine.merged("task_arithmetic", base, [folder])


def test_a_folder_of_named_adapters_names_them(base, tmp_path):
    for name in ("it", "es"):
        adapter(tmp_path / name, pair(Q))
    with pytest.raises(CheckpointError, match=r"2 adapter folders: es, it; give one of them, such as .*/es\."):
        engine.merged("task_arithmetic", base, [tmp_path])


@pytest.mark.parametrize("content", ["[]", "{}"])
def test_a_configuration_that_says_nothing_is_refused(content, base, tmp_path):
    folder = adapter(tmp_path / "lora", pair(Q))
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"does not say its peft_type|holds a list"):
        engine.merged("task_arithmetic", base, [folder])


@pytest.mark.parametrize(
    ("field", "value"),
    [("target_modules", 1), ("exclude_modules", [2]), ("modules_to_save", {}), ("layers_to_transform", "first")],
)
def test_a_field_of_another_type_is_named(field, value, base, tmp_path):
    folder = adapter(tmp_path / "lora", pair(Q), **{field: value})
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: {field} is .*; expected n"):
        engine.merged("task_arithmetic", base, [folder])
