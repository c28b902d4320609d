"""Laws of the fusion of frozen upstreams: shapes, sizes, what changes nothing, what must equal a slower second way."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from speechmerge.errors import MethodError
from speechmerge.fusion import alignment, interfaces, likeness, scoring
from speechmerge.fusion.convolution import HierarchicalConvolution, LayerConvolution, depth
from speechmerge.fusion.fusing import temperature
from speechmerge.fusion.heads import Characters, Classes, Verification, needed_frames, pooled
from speechmerge.fusion.interfaces import INTERFACES, build, parameters

PAIR = [(5, 384), (7, 288)]
SMALL = [(5, 12), (4, 8)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def states(shapes, frames=6):
    return [torch.randn(frames, *shape) for shape in shapes]


def made(name, shapes, width=None):
    """A module in evaluation, whose zero logits are moved, so that its layers differ."""
    module = build(name, shapes, width).eval()
    for key, values in module.named_parameters():
        if "logits" in key:
            nn.init.normal_(values)
    return module


@pytest.mark.parametrize("layers", [3, 4, 5, 7, 8, 9, 13, 25, 27])
@pytest.mark.parametrize("width", [8, 10, 384])
def test_hconv_gives_its_width_or_a_little_more(layers, width):
    module = HierarchicalConvolution(layers, width)
    found = module(torch.randn(2, layers, width))
    assert found.shape == (2, module.out)
    left = layers
    for _ in range(depth(layers)):
        left = -(-left // 3)
    assert left < 6 and width <= module.out < width + left


def test_depth_is_counted_in_whole_numbers():
    assert [depth(n) for n in (1, 2, 3, 8, 9, 26, 27, 81, 242, 243, 729)] == [0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 6]


@pytest.mark.parametrize("layers", [1, 2])
def test_hconv_refuses_short_stacks(layers):
    with pytest.raises(MethodError, match=f"at least 3 layers, found {layers}"):
        build("hconv", [(layers, 8)])


COUNTS = [
    ("hconv", [(5, 384)], None, 368_832, 384),
    ("hconv", [(13, 768)], None, 4_424_832, 768),
    ("hconv", [(25, 1024)], None, 6_995_286, 1026),
    ("hconv", [(7, 512)], None, 437_931, 513),
    ("hconv", [(7, 288)], None, 138_336, 288),
    ("hconv", [(8, 200)], None, 67_067, 201),
    ("hconv", [(4, 256)], None, 163_968, 256),
    ("hlinear", [(5, 384)], None, 368_832, 384),
    ("chconv_wide", [(13, 768)] * 2, None, 17_697_024, 1536),
    ("layer:2", [(5, 384)], None, 0, 384),
    ("last", [(5, 384)], None, 0, 384),
    ("ws", [(5, 384)], None, 5, 384),
    ("gumd", [(5, 384)], None, 1_920, 384),
    ("concat", [(5, 384)], None, 737_664, 384),
    ("mlp", [(5, 384)], None, 369_509, 384),
    ("ws", PAIR, 192, 129_228, 192),
    ("gumd", PAIR, 192, 131_712, 192),
    ("concat", PAIR, 192, 755_904, 192),
    ("hconv_add", PAIR, 192, 190_912, 192),
    ("chconv", PAIR, 192, 252_352, 192),
    ("mlp", PAIR, 192, 253_544, 672),
]


@pytest.mark.parametrize(("name", "shapes", "width", "count", "out"), COUNTS)
def test_parameters_are_as_many_as_computed(name, shapes, width, count, out):
    module = build(name, shapes, width)
    assert parameters(module) == count and module.out == out
    assert module(states(shapes, 2)).shape == (2, out)


@pytest.mark.parametrize("shapes", [[(5, 384)], PAIR, [(4, 256), (8, 200), (5, 384)]])
def test_the_control_has_the_parameters_of_its_partner(shapes):
    partner = parameters(build("chconv", shapes))
    assert abs(parameters(build("mlp", shapes)) - partner) <= 0.01 * partner


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5, 6, 7, 13, 25])
def test_layer_convolution_is_conv1d(layers):
    own = LayerConvolution(10, 6)
    other = nn.Conv1d(10, 6, 5, stride=3, padding=2)
    other.load_state_dict(own.state_dict())
    x = torch.randn(4, layers, 10)
    torch.testing.assert_close(own(x).transpose(1, 2), other(x.transpose(1, 2)), atol=1e-5, rtol=0)


def test_gradients_of_the_layer_convolution_are_those_of_conv1d():
    own, x = LayerConvolution(6, 4), torch.randn(3, 5, 6, requires_grad=True)
    other, y = nn.Conv1d(6, 4, 5, stride=3, padding=2), x.detach().clone().requires_grad_()
    other.load_state_dict(own.state_dict())
    own(x).square().sum().backward()
    other(y.transpose(1, 2)).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own.weight.grad, other.weight.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*(n for n in INTERFACES if n not in ("layer", "last", "hconv")), "layer:1", "hconv"])
def test_frames_do_not_see_each_other(name):
    shapes = SMALL[:1] if name in ("layer:1", "hconv") else SMALL
    module, x = made(name, shapes), states(shapes, 7)
    order = torch.randperm(7)
    with torch.no_grad():
        whole = module(x)
        torch.testing.assert_close(module([one[order] for one in x]), whole[order], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(module([one[:1] for one in x]), whole[:1], atol=1e-6, rtol=1e-5)


def test_weighted_sum_starts_as_the_mean_and_can_be_one_layer():
    module, x = build("ws", [(5, 8)]), states([(5, 8)])
    torch.testing.assert_close(module(x), x[0].mean(1))
    module.logits[0].data[3] = 50.0
    torch.testing.assert_close(module(x), x[0][:, 3])
    assert sum(module.weights()[0]) == pytest.approx(1)


@pytest.mark.parametrize("target", [1, 2, 3, 5, 7, 13])
@pytest.mark.parametrize("source", [1, 2, 4, 5, 8])
def test_rows_of_the_layer_matrix_sum_to_one(source, target):
    matrix = alignment.layer_matrix(source, target)
    torch.testing.assert_close(matrix.sum(1), torch.ones(target))
    if source == target:
        assert torch.equal(matrix, torch.eye(source))
    if source > 1 and target > 1:
        assert matrix[0, 0] == 1 and matrix[-1, -1] == 1


def test_layers_five_to_seven():
    found = alignment.layer_matrix(5, 7) @ torch.arange(5.0)
    torch.testing.assert_close(found, torch.arange(7.0) * 4 / 6)


@pytest.mark.parametrize(("source", "target"), [(7, 7), (10, 12), (83, 100), (5, 50), (50, 5), (1, 4), (6, 1)])
def test_frames_are_interpolated_as_torch_does(source, target):
    x = np.random.default_rng(0).normal(size=(source, 3, 4)).astype(np.float32)
    flat = torch.from_numpy(x).reshape(1, source, 12).transpose(1, 2)
    wanted = functional.interpolate(flat, size=target, mode="linear").transpose(1, 2).reshape(target, 3, 4)
    found = alignment.resampled(x, target)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    rows = np.array([target - 1, 0, target // 2])
    assert torch.equal(alignment.resampled(x, target, rows), found[rows])
    if source == target:
        assert torch.equal(found, torch.from_numpy(x))


def test_constants_stay_constant_in_time():
    x = np.full((9, 2, 3), 1.25, np.float16)
    assert torch.equal(alignment.resampled(x, 31), torch.full((31, 2, 3), 1.25))


def test_chconv_of_one_upstream_is_hconv():
    one, two = build("chconv", [(5, 12)]), build("hconv", [(5, 12)])
    two.load_state_dict(one.state_dict())
    x = states([(5, 12)])
    assert torch.equal(one(x), two(x))


def test_adding_nothing_changes_nothing():
    both, alone = build("hconv_add", [(5, 12), (5, 12)]), build("hconv", [(5, 12)])
    both.hconv.load_state_dict(alone.hconv.state_dict())
    x = states([(5, 12)])
    torch.testing.assert_close(both([*x, torch.zeros_like(x[0])]), alone(x))


def test_order_of_upstreams_that_are_added_does_not_matter():
    one, x = build("hconv_add", [(5, 12), (4, 12)]), states([(5, 12), (4, 12)])
    other = build("hconv_add", [(4, 12), (5, 12)])
    other.hconv.load_state_dict(one.hconv.state_dict())
    torch.testing.assert_close(one(x), other(x[::-1]))


def test_order_of_upstreams_side_by_side_permutes_input_channels():
    one, x = build("chconv", [(5, 12), (5, 12)]), states([(5, 12), (5, 12)])
    other = build("chconv", [(5, 12), (5, 12)])
    other.load_state_dict(one.state_dict())
    weight = other.hconv.steps[0].weight
    weight.data = torch.cat([weight.data[:, 12:], weight.data[:, :12]], 1)
    torch.testing.assert_close(one(x), other(x[::-1]))


def test_hlinear_is_linear_and_hconv_is_not():
    x, y = states([(5, 12)]), states([(5, 12)])
    for name, linear in (("hlinear", True), ("hconv", False)):
        module = build(name, [(5, 12)])
        zero = module([torch.zeros(6, 5, 12)])
        found = module([x[0] + y[0]]) - zero
        same = torch.allclose(found, module(x) + module(y) - 2 * zero, atol=1e-5)
        assert same is linear


def test_gumbel_selects_in_evaluation_and_learns_in_training():
    module, x = build("gumd", [(3, 6), (2, 6)]), states([(3, 6), (2, 6)])
    nn.init.normal_(module.logits)
    module.eval()
    candidates, found = torch.cat(x, 1), module(x)
    assert (found[:, None] == candidates).any(1).all()
    assert torch.equal(found, module(x))
    module.train()
    module.temperature = 0.7
    drawn = module(x)
    assert (drawn[:, None] - candidates).abs().min(1).values.max() < 1e-5
    drawn.square().sum().backward()
    assert module.logits.grad.abs().max() > 0
    assert [temperature(s) for s in (0, 0.4, 0.8, 1)] == pytest.approx([1, 0.55, 0.1, 0.1])


def test_pooling_does_not_see_the_order_and_knows_one_frame():
    x = torch.randn(9, 4)
    torch.testing.assert_close(pooled(x, [9]), pooled(x[torch.randperm(9)], [9]))
    torch.testing.assert_close(pooled(x, [9])[0], torch.cat([x.mean(0), x.std(0, correction=0)]))
    one = x[:1].clone().requires_grad_()
    found = pooled(one, [1])
    torch.testing.assert_close(found[0, :4], x[0])
    assert found[0, 4:].max() < 1e-5
    found.sum().backward()
    assert one.grad.isfinite().all()


def test_pooling_splits_clips():
    x = torch.randn(9, 4)
    torch.testing.assert_close(pooled(x, [2, 7]), torch.cat([pooled(x[:2], [2]), pooled(x[2:], [7])]))


def test_the_mean_of_drawn_frames_is_unbiased():
    x, draw = torch.randn(60, 3), np.random.default_rng(0)
    drawn = [pooled(x[draw.choice(60, 24, replace=False)], [24])[0, :3] for _ in range(1000)]
    error = torch.stack(drawn).std(0) / 1000**0.5
    assert ((torch.stack(drawn).mean(0) - x.mean(0)).abs() < 4 * error).all()


def test_margin_softmax_without_margin_is_cross_entropy_of_cosines(monkeypatch):
    head = Verification(4, 3)
    x, counts, target = torch.randn(10, 4), [4, 6], [2, 0]
    hard = head.loss(x, counts, target)
    monkeypatch.setattr("speechmerge.fusion.heads.MARGIN", 0.0)
    plain = head.loss(x, counts, target)
    cosines = head(x, counts) @ functional.normalize(head.voices, dim=1).T
    torch.testing.assert_close(plain, functional.cross_entropy(30 * cosines, torch.tensor(target)))
    assert hard > plain
    torch.testing.assert_close(head(x, counts).norm(dim=1), torch.ones(2))


def test_classes_answer_with_probabilities():
    head = Classes(4, 3)
    torch.testing.assert_close(head(torch.randn(5, 4), [2, 3]).exp().sum(1), torch.ones(2))


@pytest.mark.parametrize("text", ["hello all", "aa", "", "bookkeeper", "a b"])
def test_characters_decode_what_they_encode(text):
    head = Characters(3, "".join(sorted(set("hello all bookkeeper"))))
    path = [n for number in head.number(text) for n in (number, number, 0)]
    assert head.spell(path) == text
    assert needed_frames(text) <= len(path)


def test_double_letters_need_a_blank():
    head = Characters(3, "ab")
    assert head.spell([1, 1, 2]) == "ab" and head.spell([1, 0, 1]) == "aa" and head.spell([0, 0]) == ""
    assert needed_frames("aab") == 4


@pytest.mark.parametrize("kind", ["linear", "context"])
def test_a_recogniser_does_not_see_its_batch(kind):
    head = Characters(6, "abc", kind).eval()
    x, y = torch.randn(14, 6), torch.randn(25, 6)
    with torch.no_grad():
        both, kept = head.scores(torch.cat([x, y]), [14, 25])
        alone, own = head.scores(x, [14])
    assert kept[0] == own[0] == head.left(14)
    torch.testing.assert_close(both[0, : own[0]], alone[0], atol=1e-5, rtol=1e-4)


def test_a_recogniser_learns_a_sentence():
    head = Characters(4, "ab")
    x = torch.zeros(9, 4)
    x[[0, 3, 6]] = torch.tensor([[5.0, 0, 0, 0], [5, 0, 0, 0], [0, 5, 0, 0]])
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(150):
        optimiser.zero_grad()
        head.loss(x, [9], ["aab"]).backward()
        optimiser.step()
    assert head(x, [9]) == ["aab"]


def slow_eer(scores, same):
    """Both rates at every threshold, and where the line between two neighbours crosses."""
    points = []
    for at in [*sorted(set(scores)), np.inf]:
        points.append((np.mean(scores[same] < at), np.mean(scores[~same] >= at)))
    for (a, b), (c, d) in itertools.pairwise(points):
        if c >= d:
            share = (b - a) / ((b - a) + (c - d))
            return a + share * (c - a)
    raise AssertionError


def test_eer_of_gaussians_is_known():
    draw = np.random.default_rng(0)
    scores = np.concatenate([draw.normal(2, 1, 20_000), draw.normal(0, 1, 20_000)])
    same = np.arange(40_000) < 20_000
    assert scoring.eer(scores, same) == pytest.approx(0.1587, abs=0.005)


@pytest.mark.parametrize("seed", range(6))
def test_eer_agrees_with_a_slower_way_and_with_any_monotone_map(seed):
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=80).round(1 if seed % 2 else 6)  # with and without ties
    same = draw.random(80) < 0.3
    found = scoring.eer(scores, same)
    assert found == pytest.approx(slow_eer(scores, same), abs=1e-9)
    assert scoring.eer(np.exp(scores) * 3 - 5, same) == pytest.approx(found)


def test_eer_of_perfect_and_of_reversed_scores():
    same = np.array([True, True, False, False, False])
    assert scoring.eer(np.array([5.0, 4, 3, 2, 1]), same) == 0
    assert scoring.eer(np.array([1.0, 2, 3, 4, 5]), same) == 1


def test_cka_knows_rotation_and_scale_and_chance():
    x, y = torch.randn(400, 6), torch.randn(400, 9)
    turn = torch.linalg.qr(torch.randn(6, 6))[0]
    assert likeness.linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1)
    assert likeness.linear_cka(x, y) == pytest.approx(likeness.linear_cka(y, x))
    assert likeness.linear_cka(x, y) < 0.1


def test_kappa_is_agreement_beyond_chance():
    assert likeness.kappa([1, 0, 1, 0], [1, 0, 1, 0]) == 1
    assert likeness.kappa([1, 1, 0, 0], [1, 0, 1, 0]) == 0
    assert likeness.kappa([1, 0], [0, 1]) == -1
    assert likeness.kappa([0, 0], [0, 0]) == 1


# A second way of each formula, in numpy, frame by frame.


def array(values):
    return values.detach().numpy()


def mapped(one, project):
    """A linear map, or none where the width is right."""
    return one @ array(project.weight).T + array(project.bias) if hasattr(project, "weight") else one


def reference(name, module, x):
    if name == "ws":
        weights = [np.exp(array(w)) for w in module.logits]
        sums = [np.einsum("l,nld->nd", w / w.sum(), one) for w, one in zip(weights, x, strict=True)]
        return mapped(np.concatenate(sums, 1), module.project)
    if name == "gumd":
        flat = np.concatenate([mapped(one, m) for one, m in zip(x, module.project.maps, strict=True)], 1)
        best = array(module.logits).argmax(0)
        return np.stack([flat[:, place, d] for d, place in enumerate(best)], 1)
    lifted = []
    for one, project in zip(x, module.aligned.project.maps, strict=True):
        one, wanted = mapped(one, project), module.aligned.layers
        places = np.arange(wanted) * (one.shape[1] - 1) / (wanted - 1)
        lifted.append(np.stack([_between(one, at) for at in places], 1))
    joined = sum(lifted) if name == "hconv_add" else np.concatenate(lifted, -1)
    for step in module.hconv.steps[::2]:
        joined = np.maximum(_convolved(joined, array(step.weight), array(step.bias)), 0)
    return joined.transpose(0, 2, 1).reshape(len(joined), -1)


def _between(one, at):
    low = min(int(at), one.shape[1] - 2)
    return one[:, low] * (1 - (at - low)) + one[:, low + 1] * (at - low)


def _convolved(x, weight, bias):
    padded = np.pad(x, ((0, 0), (2, 2), (0, 0)))
    starts = range(0, x.shape[1], 3)
    return np.stack([np.einsum("nkd,odk->no", padded[:, s : s + 5], weight) + bias for s in starts], 1)


@pytest.mark.parametrize("name", ["ws", "gumd", "hconv_add", "chconv"])
@pytest.mark.parametrize("shapes", [SMALL, [(13, 6), (4, 9)]])
def test_interfaces_agree_with_their_formulas(name, shapes):
    module, x = made(name, shapes), states(shapes)
    with torch.no_grad():
        found = module(x).numpy()
    np.testing.assert_allclose(found, reference(name, module, [one.numpy() for one in x]), atol=2e-5)


def test_every_interface_is_described():
    for declared in interfaces.INTERFACES.values():
        assert declared.title and declared.equation.startswith(("y", "as")) and 1e-4 < declared.rate < 1e-1
