"""LoRA experts as peft writes them, read as task vectors."""

import json

import pytest
import torch
from safetensors.torch import save_file

from speechmerge.errors import CheckpointError
from speechmerge.merging import engine

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


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        ({}, {"peft_type": "IA3"}, "a IA3 adapter"),
        ({}, {"use_dora": True}, "a DoRA adapter"),
        ({"model.x.lora_A.weight": torch.zeros(2, 4)}, {}, "changes 'model.x.weight'"),
        ({f"{Q.removesuffix('.weight')}.lora_A.weight": torch.zeros(2, 4)}, {}, "expected lora_A and lora_B"),
        (
            {
                f"{Q.removesuffix('.weight')}.lora_A.weight": torch.zeros(2, 5),
                f"{Q.removesuffix('.weight')}.lora_B.weight": torch.zeros(6, 2),
            },
            {},
            r"shape \[6, 5\], the base's tensor \[6, 4\]",
        ),
        (
            {
                f"{Q.removesuffix('.weight')}.lora_A.weight": torch.zeros(2, 4),
                f"{Q.removesuffix('.weight')}.lora_B.weight": torch.zeros(6, 3),
            },
            {},
            r"have shapes \[2, 4\] and \[6, 3\]; expected \[rank, n\] and \[m, rank\]",
        ),
        (pair(Q), {"lora_alpha": None}, "lora_alpha is None, expected a number"),
    ],
)
def test_what_is_refused(tensors, config, words, base, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        engine.merged("task_arithmetic", base, [adapter(tmp_path / "lora", tensors, **config)])
