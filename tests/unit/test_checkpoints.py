"""Opening checkpoints, classes of tensors, fingerprints."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmerge.errors import CheckpointError, MethodError
from speechmerge.merging import output
from speechmerge.whisper import checkpoints
from speechmerge.whisper.parameter_classes import classify, depths, parts, select


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "model.decoder.embed_tokens.weight": torch.randn(9, 4, generator=generator),
        "model.encoder.layers.0.fc1.weight": torch.randn(6, 4, generator=generator).half(),
        "model.encoder.layers.0.fc1.bias": torch.randn(6, generator=generator).bfloat16(),
        "steps": torch.tensor([3, 4]),
        "scale": torch.tensor(0.5, dtype=torch.float64),
    }


def test_every_dtype_and_shape_is_read_as_written(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    model = checkpoints.open_checkpoint(tmp_path)
    assert model.shapes == {
        n: tuple(x.shape) for n, x in sorted(state.items(), key=lambda item: list(model.shapes).index(item[0]))
    }
    for name, tensor in state.items():
        assert model.dtypes[name] == tensor.dtype
        assert torch.equal(model.read(name), tensor)
    assert (
        model.block("model.encoder.layers.0.fc1.weight", 5, 9).tolist()
        == state["model.encoder.layers.0.fc1.weight"].flatten()[5:9].tolist()
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({3: torch.ones(2)}, "model has the key 3, a int; expected names of tensors"),
        ({"a": [1.0]}, "'a' is a list, expected a torch tensor"),
        ({"a": torch.eye(3).to_sparse()}, r"'a' is torch.sparse_coo; expected a dense tensor in memory"),
        ({"a": torch.ones(2, device="meta")}, "'a' is without numbers, on the meta device"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, r"'a' is torch.complex64, which cannot be merged"),
    ],
)
def test_what_is_no_named_tensor_of_numbers_is_refused(state, entry, words):
    with pytest.raises(CheckpointError, match=words):
        checkpoints.open_checkpoint(state | entry)


def test_shards_are_written_and_read_as_one_model(state, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "SHARD_BYTES", 150)
    base = checkpoints.open_checkpoint(state)
    plan = output.layout(base, torch.float32)
    assert len(plan) > 1
    turned = [(n, base.read(n).float() if base.dtypes[n].is_floating_point else base.read(n)) for n in reversed(state)]
    output.write_weights(tmp_path, turned, plan)
    for file in plan:
        load_file(tmp_path / file)  # the reference reader accepts every shard
    found = checkpoints.open_checkpoint(tmp_path)
    assert checkpoints.fingerprint(found) == checkpoints.fingerprint(state)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(state)


def test_the_fingerprint_is_sha256_over_sorted_names_and_fp32_bytes(state):
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].float().numpy().tobytes())
    assert checkpoints.fingerprint(state) == digest.hexdigest()
    assert checkpoints.fingerprint(dict(reversed(state.items()))) == digest.hexdigest()


def test_the_tied_head_is_left_out_and_wrapper_prefixes_are_stripped(state):
    head = state | {"proj_out.weight": state["model.decoder.embed_tokens.weight"].clone()}
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in head.items()}
    assert checkpoints.fingerprint(head) == checkpoints.fingerprint(state)
    assert checkpoints.fingerprint(wrapped) == checkpoints.fingerprint(state)


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("model.decoder.layers.3.encoder_attn.k_proj.weight", (4, 4), "MAT"),
        ("model.decoder.layers.3.encoder_attn.v_proj.bias", (4,), "VEC"),
        ("model.encoder.layers.0.fc2.weight", (4, 16), "MAT"),
        ("model.decoder.embed_tokens.weight", (9, 4), "EMB"),
        ("model.decoder.embed_positions.weight", (9, 4), "EMB"),
        ("model.encoder.embed_positions.weight", (9, 4), "FROZEN"),
        ("encoder.conv2.weight", (4, 4, 3), "CONV"),
        ("model.encoder.layers.0.final_layer_norm.weight", (4,), "VEC"),
        ("transformer.h.0.attn.weight", (4, 4), "MAT"),
        ("token_embedding.weight", (4, 4), "EMB"),
        ("features.0.weight", (4, 3, 5, 5), "CONV"),
        ("logit_scale", (), "VEC"),
    ],
)
def test_classes_of_tensors(name, shape, kind):
    assert classify(name, shape) == kind


def test_depth_runs_from_0_to_1_in_each_stack_or_through_both():
    names = [f"model.{stack}.layers.{i}.fc1.weight" for stack in ("encoder", "decoder") for i in (0, 1, 2)]
    assert list(depths([*names, "model.encoder.conv1.weight"]).values()) == [0, 0.5, 1] * 2
    assert list(depths(names, "continued").values()) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert depths(["model.encoder.layers.0.fc1.weight"]) == {"model.encoder.layers.0.fc1.weight": 0.0}


def test_parts_and_selection():
    shapes = {
        "model.encoder.layers.0.self_attn.q_proj.weight": (4, 4),
        "model.decoder.layers.0.encoder_attn.q_proj.weight": (4, 4),
        "model.decoder.layers.1.fc1.weight": (8, 4),
    }
    assert parts(next(iter(shapes)), (4, 4)) == ("encoder", "attention")
    assert select(shapes, "cross-attention") == [list(shapes)[1]]
    assert select(shapes, ["*layers.0.*", "decoder+mlp"]) == list(shapes)
    assert select(shapes, None) == list(shapes)
    with pytest.raises(MethodError, match="Did you mean 'decoder'"):
        select(shapes, "decodr")
