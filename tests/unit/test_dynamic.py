"""Models merged while they listen: which weights each clip gets, and that it is decoded as with those weights alone."""

import dataclasses
import shutil

import pytest
import torch
from cli_calls import Caller
from safetensors.torch import load_file, save_file

from speechmerge import corpora
from speechmerge.dynamic import choosing, guiding, states, systems, weights
from speechmerge.errors import CheckpointError, MethodError
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.evaluation.predictions import read_predictions
from speechmerge.merging import engine, recipe
from speechmerge.whisper import models

BASE = models.base_model("smoke")
SHORT = Decoding(precision="fp32", tokens_per_second=0.01)  # 20 tokens for every clip
GAIN = {"encoder_attn.out_proj.weight": 20, "encoder_attn.q_proj.weight": 5, "encoder_attn.k_proj.weight": 5}
GAIN |= {"conv1.weight": 3, "conv2.weight": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base that listens, and three experts of it that say other things."""
    place, found = tmp_path_factory.mktemp("dynamic"), []
    start = load_file(BASE / "model.safetensors")
    start = {n: w * next((g for end, g in GAIN.items() if n.endswith(end)), 1) for n, w in start.items()}
    for seed in range(4):
        folder = shutil.copytree(BASE, place / f"m{seed}")
        generator = torch.Generator().manual_seed(seed)
        noise = {n: torch.randn(w.shape, generator=generator) for n, w in start.items() if "embed_pos" not in n}
        own = {n: w + (0.02 * noise[n] if seed and n in noise else 0) for n, w in start.items()}
        save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
        found.append(folder)
    return found


@pytest.fixture(scope="module")
def clips():
    return corpora.load("tones", "es", "test")[:5]


def ready(folders, method="task_arithmetic", speech=(), **options):
    options = options or ({"scaling": 0.3} if method == "task_arithmetic" else {})
    return choosing.Models(folders[0], tuple(folders[1:]), method, options, speech)


def heard(decoder, clips):
    return decoder.decode(clips, "es", "asr", progress=False)


@pytest.fixture(scope="module")
def alone(folders, clips):
    """What each expert says."""
    return [heard(Decoder(folder, SHORT), clips) for folder in folders[1:]]


def test_weights_are_a_softmax_of_distances_in_their_own_scale():
    distances = torch.tensor([[1.0, 1.0, 1.0], [0.0, 50.0, 70.0], [3.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    found = weights.similarity(distances, 0.1)
    assert torch.allclose(found.sum(-1), torch.ones(4)) and torch.allclose(found[[0, 3]], torch.full((2, 3), 1 / 3))
    assert found[1, 0] > 0.999 and found[2].argsort().tolist() == [0, 2, 1]
    assert torch.allclose(weights.similarity(7 * distances, 0.1), found)
    order = [2, 0, 1]
    assert torch.allclose(weights.similarity(distances[:, order], 0.1), found[:, order])


def test_rounded_weights_keep_their_sum_and_equal_ones():
    exact = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.26, 0.37, 0.37]])
    found = weights.grained(exact, 6)
    assert found.tolist() == [[2, 2, 2], [3, 2, 1], [6, 0, 0], [2, 2, 2]]
    drawn = torch.rand(200, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
    found = weights.grained(drawn, 14)
    assert (found.sum(-1) == 14).all() and (found >= 0).all()
    assert ((found / 14 - drawn).abs() < 1 / 14 + 1e-6).all()
    assert weights.nearest(torch.tensor([[2.0, 1.0, 1.0], [0.0, 3.0, 0.0]])).tolist() == [1, 0]


def test_states_are_those_of_the_speech_alone_whatever_else_is_heard(folders, clips):
    decoder = Decoder(folders[0], SHORT)
    together = states.mean_states(decoder, clips)
    assert torch.equal(together[2:3], states.mean_states(decoder, clips[2:3]))
    assert together.shape == (5, 64) and states.mean_states(decoder, []).shape == (0, 64)
    first, last = states.mean_states(decoder, clips, 1), states.mean_states(decoder, clips, 2)
    assert torch.equal(last, together) and not torch.allclose(first, last)
    whole = dataclasses.replace(clips[0], seconds=30.0)  # then nothing is left out
    with torch.inference_mode():
        expected = decoder.model.model.encoder(decoder.frames(whole)[None]).last_hidden_state[0].mean(0)
    assert torch.allclose(states.mean_states(decoder, [whole])[0], expected, atol=1e-4)


def test_routing_decodes_each_clip_as_its_nearest_expert_does(folders, clips, alone):
    listening = systems.build(ready(folders), {"system": "routing"}, SHORT)
    found = heard(listening, clips)
    assert [p.text for p in found] == [alone[t][i].text for i, t in enumerate(listening.answers)]
    assert [p.id for p in found] == [c.id for c in clips]
    assert heard(listening, []) == []


def test_each_clip_goes_to_the_expert_whose_speech_it_is_like(folders, clips):
    speech = [[([clip], "es", "asr")] for clip in clips[:3]]
    listening = systems.build(ready(folders, speech=speech), {"system": "routing", "signal": "speech"}, SHORT)
    heard(listening, clips[:3])
    assert listening.answers == [0, 1, 2]


def test_clips_of_equal_weights_share_a_model_and_models_are_kept(folders, clips, monkeypatch):
    listening = systems.build(ready(folders), {"system": "routing"}, SHORT)
    made, used = [], []
    model, use = listening.chooser.model, listening.decoder.use
    listening.chooser.model = lambda answer: made.append(answer) or model(answer)
    listening.decoder.use = lambda state: used.append(1) or use(state)
    answers = [2, 0, 2, 0, 2]
    monkeypatch.setattr(listening.chooser, "choose", lambda decoder, own: answers)
    heard(listening, clips)
    heard(listening, clips)
    assert made == [2, 0] and len(used) == 4


def test_se_merging_is_the_merge_itself_at_equal_distances_and_else_what_its_weights_make(folders, clips, monkeypatch):
    listening = systems.build(ready(folders), {"system": "se_merging", "temperature": 0.05, "grain": 3}, SHORT)
    rows = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [1.0, 0.9, 0.7], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    monkeypatch.setattr(listening.chooser, "distances", lambda decoder, own: rows)
    found = heard(listening, clips)
    assert listening.answers[0] == (3, 3, 3) and listening.answers[1] == (9, 0, 0)
    experts = [load_file(folder / "model.safetensors") for folder in folders[1:]]
    base = load_file(folders[0] / "model.safetensors")
    for i in (0, 1, 2):
        told = [part / 3 for part in listening.answers[i]]
        state = engine.merge_state_dicts("task_arithmetic", base, experts, scaling=0.3, weights=told)
        assert found[i] == heard(Decoder(folders[0], SHORT, state=state), clips)[i]
        answer = listening.chooser.model(listening.answers[i])
        assert all(torch.allclose(answer[name], state[name], atol=1e-6) for name in state)


def test_distances_are_between_the_merged_model_and_each_expert(folders, clips):
    listening = systems.build(ready(folders), {"system": "se_merging"}, SHORT)
    found = listening.chooser.distances(listening.decoder, clips)
    state = engine.merged("task_arithmetic", folders[0], folders[1:], scaling=0.3)
    merged = states.mean_states(Decoder(folders[0], SHORT, state=state), clips)
    for t, folder in enumerate(folders[1:]):
        own = states.mean_states(Decoder(folder, SHORT), clips)
        assert torch.allclose(found[:, t], (own - merged).norm(dim=-1), atol=1e-4)
    listening.chooser.model((6, 0, 0))["model.encoder.conv1.bias"]  # other weights do not stay behind
    assert torch.equal(listening.chooser.distances(listening.decoder, clips), found)


@pytest.mark.parametrize("method", ["emr", "tall_mask"])
def test_a_predicted_task_gets_the_model_that_its_masks_make(folders, clips, method):
    speech = [[([clip], "es", "asr")] for clip in clips[:3]]
    listening = systems.build(ready(folders, method, speech), {"system": "predicted_task"}, SHORT)
    found = heard(listening, clips[:3])
    assert listening.answers == [0, 1, 2]
    state = engine.merged(method, folders[0], folders[1:], task=1)
    assert found[1] == heard(Decoder(folders[0], SHORT, state=state), clips[:3])[1]


def test_guided_decoding_without_guidance_is_the_merged_model(folders, clips):
    plain = systems.build(ready(folders), {"system": "guided", "beta": 0.0}, SHORT)
    state = engine.merged("task_arithmetic", folders[0], folders[1:], scaling=0.3)
    assert len(plain.guides) == 1
    assert heard(plain, clips) == heard(Decoder(folders[0], SHORT, state=state), clips)


def test_an_ensemble_of_one_is_the_expert_and_of_all_is_a_case_of_guided_decoding(folders, clips, alone):
    one = systems.build(ready(folders), {"system": "ensemble", "weights": [0.0, 2.0, 0.0]}, SHORT)
    assert heard(one, clips) == alone[1]
    every = systems.build(ready(folders), {"system": "ensemble"}, SHORT)
    base = ready(folders, scaling=0.0)  # merged is the base, and Σβ = 1
    guided = systems.build(base, {"system": "guided", "beta": [1 / 3, 1 / 3, 1 / 3]}, SHORT)
    assert [p.text for p in heard(every, clips)] == [p.text for p in heard(guided, clips)]
    assert guiding.guided([0.5, 0.5]) == [1.0, -1.0, 0.5, 0.5] and guiding.ensemble([1, 3]) == [0, 0, 0.25, 0.75]


def test_the_mixture_is_the_weighted_sum_of_log_probabilities_token_by_token(folders, clips):
    guided = systems.build(ready(folders), {"system": "guided", "beta": [0.5, 0.0, 0.8]}, SHORT)
    assert [c for _, c in guided.guides] == [1.0, -1.3, 0.5, 0.8]
    features = torch.stack([guided.frames(clip) for clip in clips[:2]])
    prompts = torch.tensor([guided.prompt("es", "asr")] * 2)
    found = guided.search(features, prompts, [6, 6])
    never = torch.tensor(guided.forbidden)
    for row, tokens in enumerate(found):
        given = torch.cat([prompts[row], torch.tensor(tokens[:-1])])[None]
        with torch.inference_mode():
            logs = [
                c * m(features[row : row + 1], decoder_input_ids=given).logits.log_softmax(-1) for m, c in guided.guides
            ]
        total = sum(logs)[0, prompts.shape[1] - 1 :].index_fill(-1, never, -torch.inf)
        assert total[1:].argmax(-1).tolist() == tokens[1:]


@pytest.mark.parametrize(
    ("dynamic", "method", "words"),
    [
        ({"system": "se_mergin"}, "task_arithmetic", "no dynamic system 'se_mergin'. Did you mean 'se_merging'"),
        ({"system": "routing", "grain": 2}, "task_arithmetic", "routing has no parameter 'grain'"),
        ({"system": "se_merging", "temperature": 0}, "task_arithmetic", "temperature is 0, outside"),
        ({"system": "guided", "beta": [1.0]}, "task_arithmetic", "beta has 1 values for 3 experts"),
        ({"system": "ensemble", "weights": 0.0}, "task_arithmetic", "the weights of an ensemble sum to 0"),
        ({"system": "se_merging"}, "weight_average", "weighs experts in a sum, which weight_average does not make"),
        ({"system": "se_merging"}, "learned_average", "learned_average needs data beside the models"),
        ({"system": "routing"}, "fisher", "fisher needs data beside the models; merge with it beforehand"),
        ({"system": "predicted_task"}, "task_arithmetic", "a model for each task, emr or tall_mask, not task_arith"),
        ({"system": "predicted_task", "signal": "merged"}, "emr", "emr makes no single merged model to compare with"),
        ({"system": "routing", "signal": "speech"}, "task_arithmetic", "3 experts, and speech of 0"),
    ],
)
def test_a_wrong_system_gets_a_sentence(folders, dynamic, method, words):
    with pytest.raises(MethodError) as caught:
        systems.build(ready(folders, method), dynamic, SHORT)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_system_does_not_do_is_said(folders, clips):
    speech = [[(clips[:1], "es", "asr")]] * 3
    with pytest.raises(MethodError, match="routing with these parameters hears no speech of the experts"):
        systems.build(ready(folders, speech=speech), {"system": "routing"}, SHORT)
    with pytest.raises(MethodError, match="guided decoding is greedy, but beams is 2; take 1"):
        systems.build(ready(folders), {"system": "guided"}, Decoding(beams=2))
    with pytest.raises(MethodError, match="finds the weights of the experts itself"):
        systems.build(ready(folders, weights=[1.0, 2.0, 1.0]), {"system": "se_merging"}, SHORT)
    with pytest.raises(CheckpointError, match="holds the same weights as"):
        systems.build(ready([folders[0], folders[1], folders[0]]), {"system": "routing"}, SHORT)


RECIPE = """
merge_method: task_arithmetic
base_model: {0}
models:
  - {{model: {1}, speech: tones:es}}
  - {{model: {2}, speech: tones:it}}
parameters: {{lambda: 0.3}}
"""


def test_a_recipe_is_decoded_from_the_command_line(folders, tmp_path, monkeypatch, capsys):
    run = Caller(monkeypatch, capsys)
    monkeypatch.setattr("speechmerge.evaluation.decoding_settings.MAX_TOKENS", 6)
    file, merge = tmp_path / "routing.yaml", tmp_path / "merge.yaml"
    merge.write_text(RECIPE.format(*folders))
    file.write_text(RECIPE.format(*folders) + "dynamic: {system: routing, signal: speech}\n")
    words = ("--corpus", "tones", "--language", "es", "--split", "dev")
    code, out, _ = run("decode", file, tmp_path / "es.jsonl.gz", *words)
    assert (code, out) == (0, f"{tmp_path / 'es.jsonl.gz'}: 12 hypotheses\n")
    listening = systems.from_recipe(recipe.read(file))
    found = listening.decode(corpora.load("tones", "es", "dev"), "es", "asr", progress=False)
    assert read_predictions(tmp_path / "es.jsonl.gz") == found
    for call, message in (
        (("decode", merge, tmp_path / "no.jsonl", *words), "the recipe describes a merge; merge it first"),
        (
            ("merge", file, tmp_path / "merged"),
            "its models are merged while they listen: give it to `speechmerge decode`",
        ),
        (("decode", file, tmp_path / "no.srt", "talk.wav"), "is a recipe: it decodes a test set"),
        (("decode", file, tmp_path / "no.jsonl", *words, "--base", "smoke"), "--base beside it says what the recipe"),
    ):
        code, _, err = run(*call)
        assert code != 0 and message in " ".join(err.split()) and "Traceback" not in err
    assert not list(tmp_path.glob("no.*")) and not (tmp_path / "merged").exists()


def test_the_guard_samples_from_the_sum_too(folders, clips):
    settings = dataclasses.replace(SHORT, guard=True)  # whatever a random model says is cut off, and so sampled
    guided = systems.build(ready(folders), {"system": "guided", "beta": 0.2}, settings)
    found = heard(guided, clips[:2])
    assert [p.temperature for p in found] == [1.0, 1.0] and found == heard(guided, clips[:2])
    assert found[1] == heard(guided, clips[1:2])[0]
