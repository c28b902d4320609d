"""Statistics of speech: what is heard counts, padding does not, and a folder belongs to its expert and its speech."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmerge import corpora
from speechmerge.errors import CheckpointError, MethodError
from speechmerge.evaluation import resampling, scoring
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.finetuning.packing import Window, collate
from speechmerge.merging import calibration, engine, listening, measuring
from speechmerge.merging.rules.calibrated import regmean
from speechmerge.whisper import models
from speechmerge.whisper.checkpoints import Checkpoint, open_checkpoint

LANGUAGES = ("es", "it")
ENCODER, DECODER = "model.encoder.layers.1", "model.decoder.layers.1"
HEARD = [f"{ENCODER}.self_attn.k_proj", f"{ENCODER}.self_attn.out_proj", f"{ENCODER}.fc2"]
HEARD += [f"{DECODER}.encoder_attn.{name}_proj" for name in "qkv"]
SPOKEN = [f"{DECODER}.self_attn.v_proj", f"{DECODER}.encoder_attn.out_proj", f"{DECODER}.fc1", f"{DECODER}.fc2"]


@pytest.fixture(scope="module")
def base():
    return models.base_model("smoke")


@pytest.fixture(scope="module")
def experts(base, tmp_path_factory):
    """Two models near the base, alike in all that lies outside the blocks."""
    found = []
    for seed, language in enumerate(LANGUAGES):
        folder = tmp_path_factory.mktemp("experts") / language
        shutil.copytree(base, folder)
        generator = torch.Generator().manual_seed(seed)
        weights = load_file(folder / "model.safetensors")
        for name in sorted(weights):
            if ".layers." in name:
                weights[name] += 0.02 * torch.randn(weights[name].shape, generator=generator)
        save_file(weights, folder / "model.safetensors")
        found.append(folder)
    return found


@pytest.fixture(scope="module")
def windows():
    """Two windows of unlike length for each expert."""
    clips = [corpora.load("tones", language, "train") for language in LANGUAGES]
    return [
        [Window(tuple(own[:2]), language, "asr"), Window(tuple(own[2:7]), language, "asr")]
        for own, language in zip(clips, LANGUAGES, strict=True)
    ]


@pytest.fixture(scope="module")
def grams(experts, windows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grams")
    pairs = zip(experts, windows, strict=True)
    return [calibration.collect("grams", e, w, folder / e.name, progress=False) for e, w in pairs]


@pytest.fixture(scope="module")
def layered(base, experts, windows, tmp_path_factory):
    return calibration.collect_layered(base, experts, windows, tmp_path_factory.mktemp("l") / "out", progress=False)


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).norm() <= 1e-4 * b.norm())


def padded(folder, windows):
    return collate(windows, models.load_tokenizer(folder), models.load_feature_extractor(folder))


def test_positions_end_with_the_speech(make_clip):
    one, two = make_clip("a", seconds=1.0), make_clip("b", seconds=0.99)
    assert listening.positions(Window((one,), "es", "asr")) == 50
    assert listening.positions(Window((one, two), "es", "asr")) == 115  # 1.0 s + 0.3 s pause + 0.99 s, begun ones count
    assert listening.positions(Window((make_clip("c", seconds=28.0),) * 2, "es", "asr")) == 1500


def test_grams_are_those_of_real_positions_in_the_whole_model(experts, windows, grams):
    """A second way: the model as it is, both windows in one padded batch, what is padded cut away by hand."""
    heard = {}
    whisper = models.load_model(experts[0])
    for name in HEARD + SPOKEN:
        whisper.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: heard.update({name: args[0]}))
    batch = padded(experts[0], windows[0])
    with torch.inference_mode():
        whisper(**batch)
    tokens = [int((row != -100).nonzero()[-1]) + 1 for row in batch["labels"]]
    assert tokens[0] < tokens[1]  # so there was padding to cut away
    for name in HEARD + SPOKEN:
        query = name.endswith("encoder_attn.q_proj")
        ends = tokens if query or name in SPOKEN else [listening.positions(w) for w in windows[0]]
        rows = torch.cat([x[:end] for x, end in zip(heard[name], ends, strict=True)]).double()
        assert near(grams[0][name], rows.T @ rows / len(rows)), name
        everything = heard[name].flatten(0, 1)
        assert not near(grams[0][name], everything.T @ everything / len(everything)), name


def test_filters_see_unfolded_frames(experts, windows, grams):
    """The Gram of a filter belongs to its weights as a matrix: the mean square of its outputs follows from it."""
    whisper = models.load_model(experts[0])
    front = whisper.model.encoder
    mel = padded(experts[0], windows[0])["input_features"]
    frames = [2 * listening.positions(w) for w in windows[0]]
    with torch.inference_mode():
        bare = front.conv1(mel) - front.conv1.bias[:, None]
        outputs = torch.cat([x[:, :n] for x, n in zip(bare, frames, strict=True)], 1)
        weight = front.conv1.weight.flatten(1)
        found = torch.einsum("oi,ij,oj->o", weight, grams[0]["model.encoder.conv1"], weight)
    assert near(found, outputs.square().mean(1))


def test_garbage_after_the_end_is_not_heard(experts, windows, grams, monkeypatch):
    def noisy(own, *args):
        batch = collate(own, *args)
        end = 2 * listening.positions(own[0]) + 2
        batch["input_features"][0, :, end:] = torch.randn(80, 3000 - end)
        return batch

    monkeypatch.setattr(listening, "collate", noisy)
    stage, found = next(listening.grams(experts[0], windows[0], False))
    assert stage == "encoder"
    assert torch.equal(found["model.encoder.conv1"], grams[0]["model.encoder.conv1"])


def test_every_map_has_a_symmetric_semidefinite_gram(experts, grams):
    model = open_checkpoint(experts[0])
    maps = [n.removesuffix(".weight") for n, s in model.shapes.items() if len(s) > 1 and "embed" not in n]
    assert sorted(grams[0]) == sorted(maps) and len(grams[0]) == len(maps)
    for name in maps:
        values = torch.linalg.eigvalsh(grams[0][name].double())
        assert torch.equal(grams[0][name], grams[0][name].T) and values[0] > -1e-6 * values[-1]
    assert grams[0].record["shared"][f"{DECODER}.encoder_attn.v_proj"] == f"{DECODER}.encoder_attn.k_proj"


def test_fishers_are_mean_squares_of_each_windows_gradient(experts, windows, tmp_path):
    found = calibration.collect("fishers", experts[0], windows[0], tmp_path / "out", progress=False)
    whisper = models.load_model(experts[0])
    names = ["model.encoder.conv1.bias", f"{ENCODER}.fc1.weight", "model.decoder.embed_tokens.weight"]
    weights = [whisper.get_parameter(name) for name in names]
    squares, total = [], 0
    for window in windows[0]:
        batch = padded(experts[0], [window])
        slopes = torch.autograd.grad(whisper(**batch).loss * (batch["labels"] != -100).sum(), weights)
        squares.append([slope.square() for slope in slopes])
        total = [t + s for t, s in zip(total or [0, 0, 0], slopes, strict=True)]
    for name, first, second, crossed in zip(names, *squares, total, strict=True):
        assert near(found[name], (first + second) / 2)
        assert not near(found[name], crossed.square() / 2)
    assert sorted(found) == sorted(open_checkpoint(experts[0]).shapes)


def test_merges_of_copies_are_the_copy(base, experts, grams):
    expert = load_file(experts[0] / "model.safetensors")
    merged = engine.merge_state_dicts(
        "regmean", load_file(base / "model.safetensors"), [expert] * 2, extras={"grams": grams}
    )
    assert all(torch.allclose(merged[name], expert[name], atol=1e-5) for name in expert)


def test_a_merge_with_grams_is_nearer_to_the_experts_outputs_than_the_mean(base, experts, grams):
    models_ = [open_checkpoint(expert) for expert in experts]
    name = f"{ENCODER}.fc2"

    def error(state):
        steps = [state[f"{name}.weight"] - m.read(f"{name}.weight") for m in models_]
        return sum(torch.einsum("oi,ij,oj->", s, g[name], s).item() for s, g in zip(steps, grams, strict=True))

    merged = engine.merged("regmean", base, experts, extras={"grams": grams}, alpha=1.0)
    assert error(merged) < 0.99 * error(engine.merged("weight_average", base, experts))


def test_rounding_does_not_stand_in_for_frames_that_were_not_heard():
    """Whole Grams of few frames, kept in fp32: along directions never heard their eigenvalues are rounding alone."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 20, 256, generator=generator).abs() + 3
    deltas = torch.randn(2, 8, 256, generator=generator)
    merged = regmean(deltas, alpha=1.0, gram=inputs.mT @ inputs / 20)
    new = torch.randn(500, 256, generator=generator).abs() + 3
    assert (new @ merged.T).norm() < 2 * (new @ deltas.mean(0).T).norm()


def test_layered_grams_have_passed_the_merged_blocks_below(base, experts, windows, grams, layered):
    merged = engine.merged("regmean_pp", base, experts, extras={"grams": layered})
    own = load_file(experts[1] / "model.safetensors")
    for block, name in ((ENCODER, f"{ENCODER}.fc2"), (DECODER, f"{DECODER}.fc1")):
        below = merged | {n: w for n, w in own.items() if n.startswith(block)}
        whisper = models.load_model(base)
        whisper.load_state_dict(below, strict=False)
        stages = listening._stages(whisper.model)
        passages = listening._passages(base, windows[1], torch.device("cpu"))
        for stage in stages[: stages.index(block.removeprefix("model.")) + 1]:
            passages, found = listening._through(whisper.model, stage, passages)
        assert near(layered[1][name], found[name])
        assert not near(layered[1][name], grams[1][name])
    first = "model.encoder.layers.0.fc2"  # the front ends are alike, so the first block hears what RegMean's hears
    assert near(layered[1][first], grams[1][first])


def test_layered_merge_of_one_expert_is_the_expert(base, experts, windows, tmp_path):
    found = calibration.collect_layered(base, experts[:1], windows[:1], tmp_path / "out", progress=False)
    merged = engine.merged("regmean_pp", base, experts[:1], extras={"grams": found})
    expert = load_file(experts[0] / "model.safetensors")
    assert all(torch.allclose(merged[name], expert[name], atol=1e-5) for name in expert)


def test_statistics_belong_to_their_expert_and_speech(experts, windows, grams, layered, base, monkeypatch):
    monkeypatch.setitem(calibration.KINDS, "grams", None)  # nothing is collected again
    folder = grams[0].folder
    assert calibration.collect("grams", experts[0], windows[0], folder).record == grams[0].record
    assert grams[0].record["windows"] == 2
    for refused in (
        lambda: calibration.collect("grams", experts[1], windows[0], folder),
        lambda: calibration.collect("grams", experts[0], windows[0][:1], folder),
        lambda: calibration.collect("fishers", experts[0], windows[0], folder),
        lambda: calibration.collect_layered(base, experts, windows, layered[0].folder.parent, alpha=0.5),
    ):
        with pytest.raises(CheckpointError, match="statistics of another"):
            refused()


def test_two_tensors_that_are_merged_at_a_time_are_read_once_each(grams, monkeypatch):
    read, names = [], (SPOKEN[0], SPOKEN[2])
    monkeypatch.setattr(Checkpoint, "read", lambda _, name: read.append(name))
    statistics = calibration.Statistics(grams[0].folder)
    for name in (*names, *names):
        statistics[name]
    assert sorted(read) == sorted(statistics.record["shared"].get(name, name) for name in names)


def test_nothing_is_collected_from_nothing(experts, tmp_path):
    with pytest.raises(MethodError, match="no speech"):
        calibration.collect("grams", experts[0], [], tmp_path / "out")
    with pytest.raises(MethodError, match="Did you mean 'fishers'"):
        calibration.collect("fisher", experts[0], [], tmp_path / "out")


def test_draws_are_of_single_clips_or_full_windows():
    clips = corpora.load("tones", "es", "train")
    assert [len(w.clips) for w in calibration.draw(clips, "es", "asr", 3, packed=False)] == [1, 1, 1]
    packed = calibration.draw(clips, "es", "asr", 2)
    assert len(packed) == 2 and all(len(w.clips) > 5 for w in packed)
    assert packed == calibration.draw(clips, "es", "asr", 2) != calibration.draw(clips, "es", "asr", 2, seed=1)


def test_gradients_are_those_of_the_loss(base, experts, windows):
    gradient = measuring.differentiator(base, [w for own in windows for w in own], precision="fp32", size=3)
    state = {n: w.clone() for n, w in load_file(experts[0] / "model.safetensors").items()}
    loss, slopes = gradient(state)
    name = f"{DECODER}.fc2.weight"
    direction = slopes[name] / slopes[name].norm()
    up, down = (gradient(state | {name: state[name] + step * direction})[0] for step in (1e-2, -1e-2))
    assert (up - down) / 2e-2 == pytest.approx(slopes[name].norm().item(), rel=0.02)
    assert set(slopes) == set(state) and down < loss < up


def test_learned_weights_lower_the_loss(base, experts, windows):
    gradient = measuring.differentiator(base, windows[0], precision="fp32")
    even = gradient(engine.merged("weight_average", base, experts))[0]
    learnt = engine.merged("learned_average", base, experts, extras={"gradient": gradient}, steps=6, rate=0.5)
    assert gradient(learnt)[0] < even


def test_scores_are_pooled_word_error_rates(base, experts):
    speech = [(corpora.load("tones", language, "dev")[:2], language, "asr") for language in LANGUAGES]
    settings = Decoding(precision="fp32", tokens_per_second=0.01)
    state = load_file(experts[1] / "model.safetensors")
    decoder = Decoder(experts[1], settings)
    counts = [scoring.count(decoder.decode(c, x, "asr", progress=False), c, x) for c, x, _ in speech]
    score = measuring.scorer(base, speech, settings)
    assert score(state) == resampling.pooled(counts)


@pytest.mark.parametrize(
    "method",
    ["regmean", "regmean_pp", "fisher", "learned_average", "greedy_soup", "ties", "adamerging", "evolved_average"],
)
def test_one_call_gives_what_a_method_needs(base, experts, method):
    """And the second call collects nothing anew."""
    speech = [[(corpora.load("tones", language, "dev")[:2], language, "asr")] for language in LANGUAGES]
    settings = Decoding(precision="fp32", tokens_per_second=0.01)
    params = {"steps": 1} if method in ("learned_average", "adamerging") else {}
    params |= {"evaluations": 5, "population": 4} if method == "evolved_average" else {}
    first, again = (
        measuring.extras(method, base, experts, speech, params, windows=2, settings=settings) for _ in range(2)
    )
    merged = engine.merged(method, base, experts, extras=first, **params)
    assert merged.keys() == load_file(base / "model.safetensors").keys()
    for key in first.keys() & {"grams", "fishers"}:
        assert [one.folder for one in first[key]] == [one.folder for one in again[key]]
