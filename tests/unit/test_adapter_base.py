"""Which Whisper an adapter names, and whether it is the base."""

import json

import pytest
import torch

from speechmerge.errors import CheckpointError
from speechmerge.merging.adapter_base import check_base, published, sizes
from speechmerge.whisper.checkpoints import Checkpoint


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("openai/whisper-tiny.en", "whisper-tiny.en"),
        ("whisper-large-v1", "whisper-large"),
        ("/models/Whisper-Large-v3-turbo/", "whisper-large-v3-turbo"),
        (r"C:\\models\\whisper-small", "whisper-small"),
        ("/x/models--openai--whisper-base/snapshots/e37978b9", "whisper-base"),
        ("/cache/openai--whisper-medium.en", "whisper-medium.en"),
        ("distil-whisper/distil-large-v3.5", "distil-large-v3.5"),
        ("someone/whisper-small-hi", None),
        ("./checkpoint-500", None),
        ("", None),
    ],
)
def test_published_names(name, known):
    assert published(name) == known


def base(name: str, folder=None, tokens: int | None = None) -> Checkpoint:
    """A base that is known by its shapes only."""
    about = sizes(name)
    shapes = {
        "model.decoder.embed_tokens.weight": (tokens or about["vocab_size"], about["d_model"]),
        "model.encoder.conv1.weight": (about["d_model"], about["num_mel_bins"], 3),
    }
    for stack in ("encoder", "decoder"):
        shapes[f"model.{stack}.layers.{about[f'{stack}_layers'] - 1}.fc1.bias"] = (4 * about["d_model"],)
    return Checkpoint("base", folder, shapes, dict.fromkeys(shapes, torch.float32), None, lambda *_: None)


@pytest.mark.parametrize(
    ("name", "of", "found"),
    [
        ("openai/whisper-tiny.en", "whisper-tiny", "vocab_size 51864 and not 51865"),
        ("openai/whisper-base", "whisper-tiny", "d_model 512 and not 384"),
        ("openai/whisper-large-v2", "whisper-large-v3", "num_mel_bins 80 and not 128"),
        ("openai/whisper-large-v3-turbo", "whisper-large-v3", "decoder_layers 4 and not 32"),
        ("distil-whisper/distil-small.en", "whisper-small.en", "decoder_layers 4 and not 12"),
    ],
)
def test_another_whisper_is_refused(name, of, found, tmp_path):
    with pytest.raises(CheckpointError, match=f"is '{name}', which is another Whisper than the base.*{found}"):
        check_base(tmp_path, name, base(of))


@pytest.mark.parametrize("name", ["openai/whisper-tiny", "someone/whisper-tiny-de", "/gone/expert", None, "", 3])
def test_the_base_itself_and_names_that_tell_nothing_pass(name, tmp_path):
    check_base(tmp_path, name, base("whisper-tiny"))
    check_base(tmp_path, name, base("whisper-tiny", tokens=51904))  # padded to a multiple of 64


@pytest.mark.parametrize("file", ["speechmerge.json", "config.json", "its path"])
def test_two_models_of_the_same_sizes_are_told_apart_by_the_bases_own_name(file, tmp_path):
    folder = tmp_path / ("whisper-large-v2" if file == "its path" else "base")
    folder.mkdir()
    if file != "its path":
        key = "source" if file == "speechmerge.json" else "_name_or_path"
        (folder / file).write_text(json.dumps({key: "hub, openai/whisper-large-v2"}))
    check_base(tmp_path, "openai/whisper-large-v2", base("whisper-large-v2", folder))
    with pytest.raises(CheckpointError, match="the base is whisper-large-v2"):
        check_base(tmp_path, "openai/whisper-large", base("whisper-large-v2", folder))


def test_a_padded_english_base_is_told_by_its_folder(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"is_multilingual": false}')
    with pytest.raises(CheckpointError, match="is_multilingual True and not False"):
        check_base(tmp_path, "openai/whisper-tiny", base("whisper-tiny.en", tmp_path, 51904))


def test_a_named_folder_that_is_here_speaks_for_itself(tmp_path):
    named = tmp_path / "whisper-base"  # as some name the folder of whatever they start from
    named.mkdir()
    (named / "config.json").write_text(json.dumps({"model_type": "whisper", "d_model": 384, "encoder_layers": 4}))
    check_base(tmp_path, str(named), base("whisper-tiny"))
    with pytest.raises(CheckpointError, match="d_model 384 and not 512"):
        check_base(tmp_path, str(named), base("whisper-base"))
