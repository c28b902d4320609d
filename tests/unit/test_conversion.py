"""The ggml reader on a file written here, byte by byte, and the ONNX de-quantiser on a graph built here."""

import struct
import sys

import numpy as np
import pytest

from speechmerge.errors import SourceError
from speechmerge.whisper.conversion import openai_to_hf, read_ggml, read_onnx

ATTENTION = {
    "query.weight": "q_proj.weight",
    "query.bias": "q_proj.bias",
    "key.weight": "k_proj.weight",
    "value.weight": "v_proj.weight",
    "value.bias": "v_proj.bias",
    "out.weight": "out_proj.weight",
    "out.bias": "out_proj.bias",
}
REST = {"mlp.0": "fc1", "mlp.2": "fc2", "mlp_ln": "final_layer_norm", "attn_ln": "self_attn_layer_norm"}
TOP = {
    "encoder.positional_embedding": "encoder.embed_positions.weight",
    "encoder.conv1.weight": "encoder.conv1.weight",
    "encoder.conv2.bias": "encoder.conv2.bias",
    "encoder.ln_post.weight": "encoder.layer_norm.weight",
    "decoder.positional_embedding": "decoder.embed_positions.weight",
    "decoder.token_embedding.weight": "decoder.embed_tokens.weight",
    "decoder.ln.bias": "decoder.layer_norm.bias",
}


def openai_names() -> dict[str, str]:
    """Names of openai/whisper with the Hugging Face name each must become, for layer 3 of both halves."""
    names = {name: f"model.{hf}" for name, hf in TOP.items()}
    for part in ("encoder", "decoder"):
        old, new = f"{part}.blocks.3", f"model.{part}.layers.3"
        names |= {f"{old}.attn.{a}": f"{new}.self_attn.{b}" for a, b in ATTENTION.items()}
        names |= {f"{old}.{a}.{end}": f"{new}.{b}.{end}" for a, b in REST.items() for end in ("weight", "bias")}
    old, new = "decoder.blocks.3", "model.decoder.layers.3"
    names |= {f"{old}.cross_attn.{a}": f"{new}.encoder_attn.{b}" for a, b in ATTENTION.items()}
    names |= {f"{old}.cross_attn_ln.{end}": f"{new}.encoder_attn_layer_norm.{end}" for end in ("weight", "bias")}
    return names


def ggml_bytes(tensors: dict[str, tuple[np.ndarray, int]]) -> bytes:
    """Write whisper.cpp's format: header, one mel filter bank, two tokens, then ``(values, type)`` by name."""
    sizes = [1864, 1500, 4, 2, 1, 448, 4, 2, 1, 80, 1]
    out = [struct.pack("<I11i", 0x67676D6C, *sizes), struct.pack("<2i", 2, 3), bytes(4 * 6), struct.pack("<i", 2)]
    out += [struct.pack("<i", len(token)) + token for token in (b"a", b"\xc3\xa9")]
    for name, (values, kind) in tensors.items():
        letters = name.encode()
        out.append(struct.pack(f"<3i{values.ndim}i", values.ndim, len(letters), kind, *values.shape[::-1]) + letters)
        out.append(values.tobytes())
    return b"".join(out)


@pytest.fixture
def tensors() -> dict[str, tuple[np.ndarray, int]]:
    generator = np.random.default_rng(1)
    return {
        "encoder.conv1.bias": (generator.standard_normal((4, 1)).astype(np.float32), 0),
        "decoder.token_embedding.weight": (generator.standard_normal((6, 4)).astype(np.float16), 1),
        "encoder.conv1.weight": (generator.standard_normal((4, 3, 2)).astype(np.float16), 1),
    }


@pytest.mark.parametrize(("old", "new"), openai_names().items())
def test_names_become_those_of_hugging_face(old, new):
    assert openai_to_hf(old) == new


def test_ggml_values_shapes_and_sizes(tmp_path, tensors):
    path = tmp_path / "model.bin"
    path.write_bytes(ggml_bytes(tensors))
    sizes, read = read_ggml(path)
    assert sizes["vocab_size"] == 1864 and sizes["num_mel_bins"] == 80 and sizes["decoder_ffn_dim"] == 16
    assert "file_type" not in sizes
    assert {value.dtype for value in read.values()} == {np.dtype(np.float32)}
    assert read["model.encoder.conv1.bias"].shape == (4,)
    for name, (values, _) in tensors.items():
        np.testing.assert_array_equal(read[openai_to_hf(name)].reshape(values.shape), values.astype(np.float32))


def test_other_files_are_not_ggml(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(SourceError, match="magic number"):
        read_ggml(path)


def test_every_cut_inside_the_file_is_noticed(tmp_path, tensors):
    whole, path = ggml_bytes(tensors), tmp_path / "model.bin"
    ends = {len(ggml_bytes(dict(list(tensors.items())[:count]))) for count in range(len(tensors) + 1)}
    for length in range(4, len(whole), 7):
        if length in ends:  # a whole number of tensors: the missing ones are noticed when the model is written
            continue
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError, match="truncated"):
            read_ggml(path)


def test_quantised_ggml_is_refused_by_name(tmp_path, tensors):
    path = tmp_path / "model.bin"
    tensors["decoder.ln.weight"] = (np.zeros(32, np.uint8), 8)
    path.write_bytes(ggml_bytes(tensors))
    with pytest.raises(SourceError, match=r"decoder\.ln\.weight has ggml type 8, a quantised one"):
        read_ggml(path)


@pytest.fixture
def onnx_folder(tmp_path):
    """A package folder whose encoder holds a named, a nameless and a float weight, and whose decoder has a branch."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def stored(name, values):
        return numpy_helper.from_array(np.asarray(values), name)

    def quantised(name, integers, scale, zero):
        kind = integers.dtype
        zero = stored(f"{name}_zero_point", np.array(zero, kind))
        return [stored(f"{name}_quantized", integers), stored(f"{name}_scale", np.array(scale, np.float32)), zero]

    def product(scope, weight):
        return helper.make_node("MatMulInteger", ["x", f"{weight}_quantized"], ["y"], name=f"/{scope}/MatMul_quant")

    def graph(name, nodes, initialisers):
        y = helper.make_tensor_value_info("y", TensorProto.INT32, None)
        return helper.make_graph(nodes, name, [], [y], initialisers)

    weights = {
        "conv1": np.arange(12, dtype=np.uint8).reshape(2, 3, 2),
        "fc1": np.array([[1, -2], [3, 4], [-128, 127]], np.int8),
    }
    encoder = graph(
        "encoder",
        [product("layers.0/fc1", "onnx::MatMul_7")],
        [
            *quantised("conv1.weight", weights["conv1"], 0.5, 3),
            *quantised("onnx::MatMul_7", weights["fc1"], 0.25, 0),
            stored("layer_norm.bias", np.array([1.5, -2.5], np.float32)),
            stored("reshape_shape", np.array([1, 2, 3], np.int64)),
        ],
    )
    branch = graph("with_past", [product("model/decoder/layers.1/encoder_attn/q_proj", "onnx::MatMul_9_merged_0")], [])
    split = helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch)
    merged = quantised("onnx::MatMul_9_merged_0", weights["fc1"], 2.0, 1)
    table = quantised("model.decoder.embed_tokens.weight_merged_0", weights["fc1"], 1.0, -1)
    decoder = graph("decoder", [split], [*merged, *table])
    (tmp_path / "onnx").mkdir()
    (tmp_path / "config.json").write_text('{"d_model": 2}')
    for file, content in (("encoder_model", encoder), ("decoder_model_merged", decoder)):
        onnx.save(helper.make_model(content), tmp_path / "onnx" / f"{file}_quantized.onnx")
    return tmp_path, weights


def test_onnx_is_dequantised_named_and_transposed(onnx_folder):
    folder, weights = onnx_folder
    sizes, read = read_onnx(folder)
    expected = {
        "model.encoder.conv1.weight": (weights["conv1"].astype(np.float32) - 3) * 0.5,
        "model.encoder.layers.0.fc1.weight": weights["fc1"].astype(np.float32).T * 0.25,
        "model.encoder.layer_norm.bias": np.array([1.5, -2.5], np.float32),
        "model.decoder.layers.1.encoder_attn.q_proj.weight": (weights["fc1"].astype(np.float32).T - 1) * 2,
        "model.decoder.embed_tokens.weight": weights["fc1"].astype(np.float32) + 1,
    }
    assert sizes == {"d_model": 2}
    assert read.keys() == expected.keys()
    for name, values in expected.items():
        assert read[name].dtype == np.float32 and read[name].flags.c_contiguous
        np.testing.assert_array_equal(read[name], values)


def test_one_scale_for_each_channel_is_refused(onnx_folder):
    import onnx

    folder, _ = onnx_folder
    path = folder / "onnx" / "encoder_model_quantized.onnx"
    model = onnx.load(path)
    scale = next(t for t in model.graph.initializer if t.name == "conv1.weight_scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.ones(2, np.float32), scale.name))
    onnx.save(model, path)
    with pytest.raises(SourceError, match=r"conv1\.weight_quantized has 2 scales, expected one"):
        read_onnx(folder)


def test_truncated_onnx_is_refused(onnx_folder):
    folder, _ = onnx_folder
    path = folder / "onnx" / "decoder_model_merged_quantized.onnx"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"decoder_model_merged_quantized\.onnx is truncated"):
        read_onnx(folder)


def test_without_onnx_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SourceError, match="pip install onnx"):
        read_onnx(tmp_path)
