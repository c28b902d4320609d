"""Frozen upstreams: any speech encoder of Hugging Face on random weights, and those with front ends of their own."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    MoonshineConfig,
    MoonshineModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from speechmerge.fusion import distillmos, encoders, filter_bank, resemblyzer, upstreams
from speechmerge.whisper import models

KINDS = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "hubert": (HubertConfig, HubertModel),
    "wavlm": (WavLMConfig, WavLMModel),
    "data2vec": (Data2VecAudioConfig, Data2VecAudioModel),
}
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=round(16_000 * seconds)).astype(np.float32) * 0.1


@pytest.fixture(scope="module")
def small_whisper():
    return encoders.whisper("smoke")


@pytest.mark.parametrize("kind", KINDS)
def test_encoders_of_the_waveform_give_every_layer(kind, tmp_path):
    torch.manual_seed(0)
    config, make = KINDS[kind]
    model = make(config(**SIZES)).eval()
    model.save_pretrained(tmp_path)
    found = upstreams.load(str(tmp_path))
    wave = noise(1.0)
    states = found.states(wave)
    assert (found.layers, found.width, found.rate) == (4, 16, 50.0)
    assert states.shape == (4, 49, 16) and states.dtype == torch.float32
    with torch.no_grad():
        wanted = model(torch.from_numpy(wave)[None]).last_hidden_state[0]
    torch.testing.assert_close(states[-1], wanted, atol=1e-5, rtol=1e-4)
    assert not any(p.requires_grad for p in found.model.parameters()) and not found.model.training


def test_a_card_that_asks_for_it_gets_a_normalised_waveform(tmp_path):
    model = Wav2Vec2Model(Wav2Vec2Config(**SIZES))
    plain, normal = encoders.WaveEncoder(model), encoders.WaveEncoder(model, normalise=True)
    wave = noise(0.5)
    torch.testing.assert_close(normal.states(5 * wave + 1), normal.states(wave), atol=1e-4, rtol=1e-3)
    assert (plain.states(5 * wave + 1) - plain.states(wave)).abs().max() > 1e-3


def test_moonshine_hears_one_clip_at_a_time():
    config = MoonshineConfig(hidden_size=16, encoder_num_hidden_layers=2, encoder_num_attention_heads=2,
                             decoder_num_hidden_layers=1, decoder_num_attention_heads=2, intermediate_size=24,
                             encoder_num_key_value_heads=2, decoder_num_key_value_heads=2)  # fmt: skip
    found = encoders.WaveEncoder(MoonshineModel(config))
    assert (found.layers, found.width) == (3, 16) and found.rate == pytest.approx(16_000 / 384)
    wave = noise(1.0)
    alone = found.states(wave)
    assert abs(alone.shape[1] - 41.67) < 2.5
    padded = found.states(np.concatenate([wave, np.zeros(8_000, np.float32)]))[:, : alone.shape[1]]
    assert not torch.allclose(padded, alone, atol=1e-3), "its norm over time sees padding, so clips are never padded"
    torch.testing.assert_close(found.states(wave), alone)


def test_whisper_gives_the_clip_alone(small_whisper):
    wave = noise(1.01)
    states = small_whisper.states(wave)
    assert states.shape == (small_whisper.layers, 51, small_whisper.width)
    mel = small_whisper.extractor(wave, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        wanted = small_whisper.encoder(mel).last_hidden_state[0, :51]
    torch.testing.assert_close(states[-1], wanted)


def test_a_cut_window_is_the_whole_one_where_it_is_as_long(small_whisper):
    cut = encoders.WhisperEncoder(small_whisper.encoder, small_whisper.extractor, "clip")
    wave = noise(29.5)
    torch.testing.assert_close(cut.states(wave), small_whisper.states(wave), atol=1e-4, rtol=1e-3)
    assert cut.states(noise(0.5)).shape == small_whisper.states(noise(0.5)).shape


def test_a_whisper_folder_is_an_upstream(small_whisper):
    found = upstreams.load(str(models.base_model("smoke")))
    assert found.fingerprint == small_whisper.fingerprint


@pytest.mark.parametrize("samples", [16_000, 16_001, 16_319, 16_320, 123_000])
def test_frames_of_the_others_cover_the_clip(samples):
    wave, frames = noise(1)[:0], -(-samples // 320)
    wave = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    torch.manual_seed(0)
    voice = resemblyzer.Resemblyzer().eval()
    assert voice.states(wave).shape == (4, frames, 256)
    assert filter_bank.FilterBank().states(wave).shape == (1, frames, 240)
    if samples in (16_001, 123_000):
        rater = distillmos.DistillMos().eval()
        assert rater.states(wave).shape == (8, frames, 200)


def test_quiet_speech_is_raised_and_loud_speech_left():
    voice, wave = resemblyzer.Resemblyzer().eval(), noise(0.5)
    torch.testing.assert_close(voice.states(wave * 1e-2), voice.states(wave * 1e-3), atol=1e-4, rtol=1e-3)
    assert (voice.states(wave) - voice.states(wave * 3)).abs().max() > 1e-4


def test_slopes_of_a_line_are_its_slope():
    line = torch.arange(12.0)[:, None] * torch.tensor([[2.0, -1.0]])
    torch.testing.assert_close(filter_bank.slopes(line)[2:-2], torch.tensor([[2.0, -1.0]]).expand(8, 2))


def test_weights_tell_upstreams_apart():
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    assert upstreams.weights_of(one) != upstreams.weights_of(two)
    two.load_state_dict(one.state_dict())
    assert upstreams.weights_of(one) == upstreams.weights_of(two)


def test_known_upstreams_say_what_they_are():
    for name, declared in upstreams.UPSTREAMS.items():
        assert declared.name == name and declared.layers >= 1 and declared.licence and declared.trained_for
        assert declared.cost([3.0, 9.0]) > 0
    whisper = upstreams.UPSTREAMS["whisper-tiny"]
    assert whisper.cost([3.0]) == pytest.approx(30 * whisper.seconds)
    assert whisper.cost([3.0], "clip") == pytest.approx(4 * whisper.seconds)
    assert upstreams.UPSTREAMS["distillmos"].cost([8.0]) == pytest.approx(2 * 7.68 * 0.023)
    assert upstreams.plain("whisper-tiny#2") == "whisper-tiny"
