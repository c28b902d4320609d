"""Converted folders beside those of CTranslate2's own converter, and in its engine."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from speechmerge.evaluation import greedy
from speechmerge.formats.converting import convert
from speechmerge.whisper import models

ctranslate2 = pytest.importorskip("ctranslate2", reason="the package ctranslate2 is not installed")
DTYPES = ("float32", "float16", "bfloat16", "int8", "int8_float16")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke base with no two arrays alike, and some alike."""
    from converted import changed

    base = models.base_model("smoke")
    generator = np.random.default_rng(0)
    moved = {}
    for name, values in load_file(base / WEIGHTS).items():
        if "layers.1" not in name and "encoder.embed_positions" not in name:
            moved[name] = values + 0.1 * generator.standard_normal(values.shape).astype(np.float32)
    moved["model.encoder.layers.1.fc1.bias"] = np.full(128, -0.0, np.float32)  # equals other biases of zeros
    return changed(base, tmp_path_factory.mktemp("model") / "moved", **moved)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_files_are_those_of_the_packages_converter(smoke, tmp_path, dtype):
    from ctranslate2.converters import TransformersConverter

    with models.without_bars():
        TransformersConverter(str(smoke)).convert(str(tmp_path / "theirs"), quantization=dtype)
    convert(smoke, tmp_path / "ours", "ctranslate2", dtype=dtype)
    assert (tmp_path / "ours" / "model.bin").read_bytes() == (tmp_path / "theirs" / "model.bin").read_bytes()
    for name in ("config.json", "vocabulary.json"):
        ours, theirs = (json.loads((tmp_path / who / name).read_text()) for who in ("ours", "theirs"))
        assert ours == theirs, name


def test_the_engine_spells_what_the_model_spells(smoke, tmp_path):
    convert(smoke, tmp_path / "ct2", "ctranslate2", dtype="float32")
    engine = ctranslate2.models.Whisper(str(tmp_path / "ct2"), device="cpu", compute_type="float32", intra_threads=1)
    model, frames = models.load_model(smoke), torch.randn(2, 80, 3000, generator=torch.Generator().manual_seed(0))
    known = models.load_tokenizer(smoke).get_vocab()
    prompt = [known[f"<|{name}|>"] for name in ("startoftranscript", "es", "transcribe", "notimestamps")]
    settings = model.generation_config
    found = greedy.search(model, frames, torch.tensor([prompt] * 2), [20, 20], settings.suppress_tokens)
    theirs = engine.generate(
        ctranslate2.StorageView.from_array(frames.numpy()),
        [prompt] * 2,
        beam_size=1,
        max_length=40,
        suppress_tokens=[-1],
    )
    assert [row.sequences_ids[0][:20] for row in theirs] == [row[:20] for row in found]
    assert len(found[0]) == 20
