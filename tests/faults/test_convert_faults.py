"""What cannot be converted is refused by a sentence before anything is written, and nothing half-written is left."""

import json
import pickle
import shutil
import struct
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from converted import changed, state, write_whisper

from speechmerge import files
from speechmerge.errors import SpeechMergeError
from speechmerge.formats import converting, ctranslate2, model, openai, reading, vocabulary
from speechmerge.formats.converting import convert
from speechmerge.whisper import models

TABLE = "model.decoder.embed_tokens.weight"
BIAS = "model.encoder.conv1.bias"
KINDS = ("ctranslate2", "ggml", "openai")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return write_whisper(tmp_path_factory.mktemp("models") / "whisper")


@pytest.fixture(scope="module")
def smoke():
    return models.base_model("smoke")


@pytest.fixture(scope="module")
def written(whisper, tmp_path_factory):
    """The model in every other format, in 16 bits."""
    place = tmp_path_factory.mktemp("written")
    for kind in KINDS:
        convert(whisper, place / kind, kind, dtype="float16")
    return place


def refused(tmp_path: Path, source: object, told: str, to: str = "hf", **options: object) -> None:
    """Expect one sentence, and no output."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SpeechMergeError, match=told):
        convert(source, tmp_path / "out", to, **options)
    assert sorted(tmp_path.rglob("*")) == before


def weights(folder: Path, kind: str) -> Path:
    return folder / "model.bin" if kind == "ctranslate2" else folder


def copied(written: Path, tmp_path: Path, kind: str) -> Path:
    copy = tmp_path / "copy"
    (shutil.copytree if kind == "ctranslate2" else shutil.copyfile)(written / kind, copy)
    return copy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.99])
def test_truncated_files_are_refused(written, tmp_path, kind, share):
    file = weights(copied(written, tmp_path, kind), kind)
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    refused(tmp_path, tmp_path / "copy", "truncated|damaged", "openai" if kind == "ggml" else "ggml")


@pytest.mark.parametrize("kind", ["ctranslate2", "ggml"])
def test_numbers_that_are_not_finite_are_found_wherever_they_lie(written, whisper, tmp_path, kind):
    file = weights(copied(written, tmp_path, kind), kind)
    wanted = state(whisper)["model.decoder.layers.1.fc1.weight"].half().numpy().tobytes()
    data = file.read_bytes()
    assert data.count(wanted) == 1
    file.write_bytes(data.replace(wanted, np.float16("nan").tobytes() + wanted[2:]))
    refused(tmp_path, tmp_path / "copy", r"layers\.1\.fc1\.weight' holds values that are not finite")


class Evil:
    ran = False

    def __reduce__(self):
        return (setattr, (Evil, "ran", True))


def test_pickles_are_never_executed(tmp_path):
    torch.save({"dims": {}, "model_state_dict": {}, "more": Evil()}, tmp_path / "evil.pt")
    refused(tmp_path, tmp_path / "evil.pt", "can run code when opened, and is refused")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"dims": Evil()}))
    refused(tmp_path, tmp_path / "old.pt", "bare pickle")
    assert not Evil.ran


DIMS = dict.fromkeys(openai.DIMS, 4)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"model_state_dict": {"a": torch.zeros(2)}}, "no dims with a model_state_dict"),
        ([1, 2], "no dims with a model_state_dict"),
        ({"dims": {"n_mels": 80}, "model_state_dict": {}}, "dims lack n_audio_ctx"),
        ({"dims": DIMS, "model_state_dict": {}}, r"no decoder\.token_embedding"),
        ({"dims": DIMS, "model_state_dict": {"a": torch.zeros(4, 2).T}}, "no tensor in row order"),
        ({"dims": DIMS, "model_state_dict": {"a": torch.zeros(2, dtype=torch.complex64)}}, "complex64"),
        ({"dims": DIMS, "model_state_dict": {"decoder.token_embedding.weight": torch.zeros(4, 4)}}, "has 1 tensors"),
    ],
)
def test_other_archives_of_torch_are_refused(tmp_path, content, told):
    torch.save(content, tmp_path / "other.pt")
    refused(tmp_path, tmp_path / "other.pt", told)


def test_a_plain_archive_is_no_model(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("a", "b")
    refused(tmp_path, tmp_path / "other.pt", "truncated or damaged")


@pytest.mark.parametrize(
    ("start", "told"), [(b"GGUF\3", "is a GGUF file"), (b"abc", "begins like none"), (b"", "begins like none")]
)
def test_unknown_files_are_named_for_what_they_are(tmp_path, start, told):
    (tmp_path / "ggml-tiny.bin").write_bytes(start)
    refused(tmp_path, tmp_path / "ggml-tiny.bin", told)


def test_quantised_ggml_is_refused(written, tmp_path):
    file = copied(written, tmp_path, "ggml")
    name = b"decoder.token_embedding.weight"
    data = file.read_bytes()
    at = data.index(name) - 12
    assert struct.unpack("<i", data[at : at + 4]) == (1,)
    file.write_bytes(data[:at] + struct.pack("<i", 8) + data[at + 4 :])
    refused(tmp_path, file, "ggml type 8, a quantised one")


def test_files_of_a_folder_and_folders_of_a_file_are_told_apart(whisper, written, tmp_path):
    refused(tmp_path, whisper / "model.safetensors", "give the folder", "ggml")
    refused(tmp_path, written / "ctranslate2" / "model.bin", "give the folder", "ggml")
    shutil.copyfile(written / "ggml", tmp_path / "ggml-model.bin")
    refused(tmp_path, tmp_path, r"give the file in it, .*ggml-model\.bin")
    (tmp_path / "empty").mkdir()
    refused(tmp_path, tmp_path / "empty", "holds no model.safetensors")
    refused(tmp_path, "whisper-tinny", "Did you mean 'whisper-tiny'")


def test_a_folder_with_two_models_is_refused(whisper, written, tmp_path):
    both = Path(shutil.copytree(whisper, tmp_path / "both"))
    shutil.copyfile(written / "ctranslate2" / "model.bin", both / "model.bin")
    refused(tmp_path, both, "holds two models", "ggml")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_format_is_said_to_be_the_same(written, tmp_path, kind, whisper):
    refused(tmp_path, written / kind, "in float16 already", kind, tokenizer=whisper)
    refused(tmp_path, whisper, "in float32 already", "hf")


def test_number_formats_that_a_format_has_not_got(whisper, tmp_path):
    refused(tmp_path, whisper, "ggml is not written in float32; known: float16", "ggml", dtype="float32")
    refused(tmp_path, whisper, "hf is not written in int8", "hf", dtype="int8")
    refused(tmp_path, whisper, "Did you mean 'ggml'", "gglm")


@pytest.mark.parametrize("to", KINDS)
def test_numbers_too_large_for_16_bits(whisper, tmp_path, to):
    table = state(whisper)[TABLE].numpy().copy()
    table[5, 3] = 1e6
    large = changed(whisper, tmp_path / "large", **{TABLE: table})
    refused(tmp_path, large, r"embed.* holds numbers up to 1e\+06, more than float16", to, dtype="float16")


def test_vocabularies_and_widths_that_programs_do_not_expect(whisper, smoke, tmp_path):
    refused(tmp_path, smoke, r"<\|endoftext\|> the id 256, and whisper.cpp takes it for 50257", "ggml")
    refused(tmp_path, smoke, "openai/whisper takes it for", "openai", dtype="float16")
    tokenizer = models.load_tokenizer(whisper)
    vocabulary.check_order(tokenizer, 51_865, "here", "whisper.cpp")
    with pytest.raises(SpeechMergeError, match=r"51866 tokens, 1 more than an OpenAI Whisper of 99 languages"):
        vocabulary.check_order(tokenizer, 51_866, "here", "whisper.cpp")
    first = {name: x.numpy() for name, x in state(whisper).items()}
    fewer = {n: x[:16] for n, x in first.items() if n.endswith(("fc1.weight", "fc1.bias"))}
    fewer |= {n: x[:, :16] for n, x in first.items() if n.endswith("fc2.weight")}
    thin = changed(whisper, tmp_path / "thin", config={"encoder_ffn_dim": 16, "decoder_ffn_dim": 16}, **fewer)
    refused(tmp_path, thin, "encoder_ffn_dim is 16, and whisper.cpp takes it for four times", "ggml")


def test_a_wrong_tokenizer_is_refused(written, whisper, smoke, tmp_path):
    refused(tmp_path, written / "openai", "tokenizer has 1864 tokens and the model 51865", tokenizer=smoke)
    refused(tmp_path, whisper, "decoder_start_token_id the id 50258, the tokenizer 257", "ggml", tokenizer=smoke)
    refused(tmp_path, whisper, "no adapter, so --base has no meaning", "ggml", base="smoke")


def test_a_damaged_vocabulary_is_refused(written, tmp_path):
    copy = copied(written, tmp_path, "ctranslate2")
    (copy / "tokenizer.json").unlink()
    (copy / "vocabulary.json").write_text('["a", "b"]')
    refused(tmp_path, copy, "is no vocabulary of a Whisper")
    (copy / "vocabulary.json").write_text(json.dumps(["a", "<|endoftext|>"]))
    refused(tmp_path, copy, "leaves 50355 for languages")
    (copy / "vocabulary.json").unlink()
    refused(tmp_path, copy, "holds neither tokenizer.json nor a vocabulary; give --tokenizer")


def test_an_adapter_without_its_base(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody-here"}')
    refused(tmp_path, tmp_path / "adapter", "'nobody-here', was not found .* Give --base")
    refused(tmp_path, tmp_path / "adapter", "--base elsewhere was not found", base="elsewhere")
    refused(tmp_path, tmp_path / "adapter", "leave out --tokenizer", tokenizer=tmp_path)
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    refused(tmp_path, tmp_path / "adapter", "names no base; give --base")


def test_outputs_that_may_not_be_written(whisper, written, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for name, to, told in (("file", "ggml", "already exists"), ("file", "hf", "is a file, and hf is a folder"),
                           ("folder", "openai", "is a folder, and openai is a file")):  # fmt: skip
        with pytest.raises(SpeechMergeError, match=told):
            convert(whisper, tmp_path / name, to, dtype="float16")
    assert (tmp_path / "file").read_text() == "kept"
    copy = copied(written, tmp_path, "ctranslate2")
    for output in (copy, tmp_path):
        with pytest.raises(SpeechMergeError, match="is what is to be converted, or holds it"):
            convert(copy, output, "hf", overwrite=True)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(10, 9, 1000))
    for to in (*KINDS, "hf"):
        refused(tmp_path, whisper, "GB free; make room", to, dtype="float16")


@pytest.mark.parametrize("to", [*KINDS, "hf"])
def test_a_failure_while_writing_leaves_the_old_output(whisper, tmp_path, monkeypatch, to):
    convert(whisper, tmp_path / "out", to, dtype="float16")
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fails(self, name, values, dtype):
        if name.endswith(("fc2.weight", "linear_1/weight")):
            raise OSError("the disk went away")
        return values.to(dtype).contiguous()

    monkeypatch.setattr(model.Model, "narrowed", fails)
    with pytest.raises(OSError, match="went away"):
        convert(whisper, tmp_path / "out", to, dtype="float16", overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_formats_and_the_command_line_agree():
    from speechmerge.cli import convert as command

    assert set(command.FORMATS) == set(converting.WRITES) == set(reading.KINDS) - {"adapter"}
    assert set(command.DTYPES) == {dtype for known in converting.WRITES.values() for dtype in known}
    assert set(converting.BYTES) == set(command.DTYPES) and ctranslate2.REVISION == 3
