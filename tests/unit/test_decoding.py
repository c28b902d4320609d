"""Hypotheses come in order, do not depend on the batch, and are kept byte for byte."""

import dataclasses

import pytest
import torch
from transformers import EncoderDecoderCache, SuppressTokensLogitsProcessor

from speechmerge import corpora
from speechmerge.errors import CheckpointError, ScoringError
from speechmerge.evaluation import decoding, greedy
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import MAX_TOKENS, STOPS, Decoding
from speechmerge.evaluation.predictions import Prediction, read_predictions, write_predictions
from speechmerge.merging import engine
from speechmerge.whisper import models

SHORT = Decoding(precision="fp32", tokens_per_second=0.01)  # 20 tokens for every clip


@pytest.fixture(scope="module")
def clips():
    return corpora.load("tones", "es", "test")[:6]


@pytest.fixture(scope="module")
def listening():
    """Weights of the smoke base whose decoder attends sharply, so that what it writes depends on what it hears."""
    gain = {"encoder_attn.out_proj.weight": 20, "encoder_attn.q_proj.weight": 5, "encoder_attn.k_proj.weight": 5}
    gain |= {"conv1.weight": 3, "conv2.weight": 3}
    state = dict(models.load_model(models.base_model("smoke")).state_dict())
    del state["proj_out.weight"]  # tied, and left out by a merge
    return {name: w * next((g for end, g in gain.items() if name.endswith(end)), 1) for name, w in state.items()}


@pytest.fixture(scope="module")
def decoder(listening):
    return Decoder(models.base_model("smoke"), SHORT, state=listening)


@pytest.fixture(scope="module")
def said(decoder, clips):
    return decoder.decode(clips, "es", "asr", progress=False)


def test_predictions_stand_in_the_order_of_the_clips(said, clips, decoder):
    assert [p.id for p in said] == [c.id for c in clips]
    assert len({c.seconds for c in clips}) > 1  # so that sorting by length moved them
    turned = decoder.decode(clips[::-1], "es", "asr", progress=False)
    assert turned == said[::-1]
    assert len({p.text for p in said}) == len(clips)  # each is its own


@pytest.mark.parametrize("batch", [1, 4])
def test_the_batch_does_not_change_hypotheses(said, clips, decoder, batch, monkeypatch):
    monkeypatch.setattr(decoder, "batch", batch)
    assert decoder.decode(clips, "es", "asr", progress=False) == said


def test_clips_of_several_languages_go_through_together(said, clips, decoder):
    italian = decoder.decode(clips, "it", "asr", progress=False)
    found = decoder.decode([*clips, *clips], ["es"] * len(clips) + ["it"] * len(clips), "asr", progress=False)
    assert found == said + italian and said != italian


def test_clips_are_turned_into_frames_once(said, clips, decoder, listening, monkeypatch):
    monkeypatch.setattr(decoder, "extractor", lambda *_, **__: pytest.fail("frames were computed again"))
    assert decoder.decode(clips, "es", "asr", progress=False) == said
    state = {name: 0.5 * w if name.endswith("conv1.weight") else w for name, w in listening.items()}
    decoder.use(state)
    other = decoder.decode(clips, "es", "asr", progress=False)
    decoder.use(listening)
    assert [p.id for p in other] == [p.id for p in said] and other != said


def test_no_clips_give_no_predictions(decoder):
    assert decoder.decode([], "es", "asr", progress=False) == []


def test_greedy_search_finds_what_transformers_finds(decoder, clips, monkeypatch):
    """Rows of several languages that end at different steps, at a token that is made the end, or at their limits."""
    features = torch.stack([decoder.frames(clip) for clip in clips])
    languages, limits = ["es", "it", "fr", "de", "es", "it"], [20, 3, 20, 20, 20, 1]
    free = decoder.generated(features, languages, "st", 0.0, 20)
    steps = {token: [row.index(token) for row in free if token in row] for row in free for token in row[2:]}
    end = max(steps, key=lambda token: len({step for step in steps[token] if step}))
    monkeypatch.setattr(decoder.model.generation_config, "eos_token_id", [end])
    select, left = EncoderDecoderCache.batch_select_indices, []
    monkeypatch.setattr(
        EncoderDecoderCache, "batch_select_indices", lambda s, kept: (left.append(kept), select(s, kept))
    )
    prompts = torch.tensor([decoder.prompt(language, "st") for language in languages])
    found = greedy.search(decoder.model, features, prompts, limits, decoder.forbidden)
    ended = [row[: row.index(end) + 1] if end in row else row for row in free]
    assert found == [row[:limit] for row, limit in zip(ended, limits, strict=True)]
    assert len(left) > 1 and len({len(row) for row in found}) > 3


def test_an_english_only_model_is_told_neither_language_nor_task(decoder, monkeypatch):
    told = decoder.prompt("it", "st")
    assert decoder.tokenizer.convert_ids_to_tokens(told) == [
        "<|startoftranscript|>",
        "<|it|>",
        "<|translate|>",
        "<|notimestamps|>",
    ]
    monkeypatch.setattr(decoder, "multilingual", False)
    assert decoder.prompt("en", "asr") == [told[0], told[-1]]


def test_the_token_limit_marks_what_it_cuts(said, decoder, clips, monkeypatch):
    assert all(p.cut for p in said)  # a model that has learnt nothing never ends
    end = decoder.tokenizer.eos_token_id
    monkeypatch.setattr(greedy, "search", lambda *_: [[65] * 5 + [end], [65] * 20, [65] * 19 + [end]])
    found = decoder.decode([dataclasses.replace(clips[0], seconds=9.0), *clips[1:3]], "es", "asr", progress=False)
    assert sorted(p.cut for p in found) == [False, False, True]


def test_longer_clips_may_give_more_tokens_up_to_whispers_limit(decoder, clips, monkeypatch):
    asked = []
    monkeypatch.setattr(
        greedy, "search", lambda model, features, prompts, limits, forbidden: asked.append(limits) or [[]]
    )
    monkeypatch.setattr(decoder, "settings", Decoding(precision="fp32"))
    for seconds in (1.0, 5.0, 20.0):
        decoder.decode([dataclasses.replace(clips[0], seconds=seconds)], "es", "asr", progress=False)
    assert asked == [[40], [120], [MAX_TOKENS]]


@pytest.mark.parametrize("stop", STOPS)
def test_beam_search(said, clips, listening, stop):
    beams = Decoder(models.base_model("smoke"), dataclasses.replace(SHORT, beams=3, stop=stop), state=listening)
    found = beams.decode(clips[:2], "es", "asr", progress=False)
    assert [p.id for p in found] == [c.id for c in clips[:2]] and all(p.text for p in found)
    assert [p.text for p in found] != [p.text for p in said[:2]]


def test_merged_weights_replace_the_folders(said, clips, listening):
    base = models.base_model("smoke")
    untouched = Decoder(base, SHORT).decode(clips[:2], "es", "asr", progress=False)
    assert said[:2] != untouched
    merged = engine.merge_state_dicts("weight_average", listening, [listening, listening])
    decoder = Decoder(base, SHORT, state=merged)
    assert torch.equal(decoder.model.proj_out.weight, merged["model.decoder.embed_tokens.weight"])
    assert decoder.decode(clips[:2], "es", "asr", progress=False) == said[:2]


def test_what_whisper_must_not_say_is_forbidden_as_transformers_forbids_it(decoder):
    [ours] = decoder.processors
    scores = torch.randn(3, decoder.model.config.vocab_size, generator=torch.Generator().manual_seed(0))
    theirs = SuppressTokensLogitsProcessor(models.load_model(decoder.folder).generation_config.suppress_tokens)
    expected = theirs(None, scores)
    assert expected.isinf().any() and torch.equal(ours(None, scores.clone()), expected)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_weights_of_another_model_are_refused(change):
    state = dict(models.load_model(models.base_model("smoke")).state_dict())
    values = state.pop("model.encoder.conv1.weight")
    if change == "unknown":
        state["model.encoder.conv1.weights"] = values
    with pytest.raises(CheckpointError, match=r"do not fit the model in .*tensors are missing or unknown"):
        Decoder(models.base_model("smoke"), SHORT, state=state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp16"}, r"precision is 'fp16'\. Did you mean 'bf16'\?"),
        ({"stop": "finish"}, r"stop is 'finish'\. Did you mean 'finished'\?"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(ScoringError, match=message):
        Decoding(**settings)


ODD = [Prediction("a", "¿qué\u2028hora\x85es?"), Prediction("b", ""), Prediction("c", 'él "dijo"\n\tno', cut=True)]


@pytest.mark.parametrize("name", ["p.jsonl.gz", "deep/p.jsonl.gz"])
def test_predictions_come_back_as_they_were_written(tmp_path, name):
    write_predictions(ODD, tmp_path / name)
    assert read_predictions(tmp_path / name) == ODD


def test_the_same_predictions_are_the_same_bytes(tmp_path, monkeypatch):
    write_predictions(ODD, tmp_path / "a.jsonl.gz")
    monkeypatch.setattr("time.time", lambda: 0.0)
    write_predictions(ODD, tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_plain_predictions_are_read_too(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": "a", "text": "uno"}\n{"id": "b", "text": "dos", "cut": true}\n')
    assert read_predictions(tmp_path / "p.jsonl") == [Prediction("a", "uno"), Prediction("b", "dos", cut=True)]


LOOP = "te " * 60


def test_what_ran_away_is_sampled_again_until_it_ends(decoder, clips, monkeypatch):
    asked = []

    def batch(part, languages, task, temperature=0.0):
        asked.append(([c.id for c in part], temperature))
        loops = temperature < 0.6
        return [Prediction(c.id, LOOP if loops and c is clips[1] else "fine", False, temperature) for c in part]

    monkeypatch.setattr(decoder, "settings", dataclasses.replace(SHORT, guard=True))
    monkeypatch.setattr(decoder, "_batch", batch)
    found = decoder.decode(clips[:3], "es", "asr", progress=False)
    assert [p.temperature for p in found] == [0.0, 0.6, 0.0] and not any(p.runaway for p in found)
    assert asked[1:] == [([clips[1].id], temperature) for temperature in (0.2, 0.4, 0.6)]
    monkeypatch.setattr(decoder, "_batch", lambda part, *_: [Prediction(c.id, "cut", True) for c in part])
    assert all(
        p.runaway for p in decoder.decode(clips[:1], "es", "asr", progress=False)
    )  # the last is kept, and counted


def test_sampling_is_the_clips_own_whatever_is_decoded_with_it(decoder, clips, monkeypatch):
    monkeypatch.setattr(decoder, "settings", dataclasses.replace(SHORT, guard=True))  # 20 tokens cut every hypothesis
    before = torch.random.get_rng_state()
    together = decoder.decode(clips[:3], "es", "asr", progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [decoder.decode([c], "es", "asr", progress=False)[0] for c in clips[:3]] == together
    assert all(p.temperature == decoding.TEMPERATURES[-1] for p in together)


def test_the_temperature_is_kept_where_there_was_one(tmp_path):
    path = tmp_path / "kept.jsonl"
    plain, sampled = Prediction("a", "text"), Prediction("b", "text", False, 0.4)
    write_predictions([plain, sampled], path.with_suffix(".jsonl.gz"))
    assert read_predictions(path.with_suffix(".jsonl.gz")) == [plain, sampled]
