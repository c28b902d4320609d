"""The universal laws of merge rules (the U-tests of the specification) over the whole registry."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import T, make, measures, statistics

import speechmerge
from speechmerge.errors import MethodError
from speechmerge.merging import engine, fitting, together
from speechmerge.merging.merge import open_merge
from speechmerge.merging.methods import STATISTICS, registry
from speechmerge.merging.rules import primitives

SAME = 1e-9  # of ‖merged - base‖, in fp64


@dataclasses.dataclass(frozen=True)
class Law:
    """What is expected of a method: the parameters at which each law is tried, ``None`` where it does not hold."""

    permuted: dict | None = dataclasses.field(default_factory=dict)
    copies: dict | None = dataclasses.field(default_factory=dict)  # T copies return the copy, with these parameters
    scaled: dict | None = dataclasses.field(default_factory=dict)
    shifted: dict | None = dataclasses.field(default_factory=dict)


MEAN = {"scaling": 1 / T}  # sum-type rules return the copy at λ = 1/T
RANDOM = {
    "density": 1.0
}  # every entry is kept, so that nothing is drawn; the laws in expectation have tests of their own
LAWS = {
    "weight_average": Law(),
    "task_arithmetic": Law(copies=MEAN),
    "lines": Law(copies={"beta": 0.0}),
    "slerp": Law(permuted={"t": 0.5}, scaled=None, shifted=None),
    "multi_slerp": Law(scaled=None, shifted=None),
    "karcher": Law(permuted={"tolerance": 1e-12, "iterations": 50}, scaled=None, shifted=None),
    "model_stock": Law(),
    "ties": Law(copies={"density": 1.0}),
    "breadcrumbs": Law(copies=MEAN | {"density": 1.0}),
    "breadcrumbs_ties": Law(copies=MEAN | {"density": 1.0}),
    "dare": Law(permuted=RANDOM, copies=MEAN | RANDOM),
    "dare_ties": Law(permuted=RANDOM, copies=RANDOM),
    "della": Law(permuted=RANDOM, copies=RANDOM),
    "della_linear": Law(permuted=RANDOM, copies=MEAN | RANDOM),
    "consensus": Law(copies=MEAN | {"strictness": 0.3}),
    "localize_and_stitch": Law(copies={"density": 1.0}),
    "pcb": Law(copies=None, scaled=None),
    "sce": Law(copies={"density": 1.0}),
    "magmax": Law(),
    "ram": Law(copies={"epsilon": 0.0}, scaled={"epsilon": 0.0}),
    "ramplus_tl": Law(copies={"epsilon": 0.0}, scaled={"epsilon": 0.0}),
    "nearswap": Law(permuted=None, copies={"t": 10.0}, scaled=None),
    "arcee_fusion": Law(permuted=None, copies=None, scaled=None, shifted=None),
    "mp": Law(copies=MEAN | {"density": 1.0}),
    "svp": Law(copies=MEAN | {"rank_ratio": 1.0}),
    "lors": Law(copies=MEAN | {"density": 1.0}),
    "tsvm": Law(copies=None),
    "boosted_tsvm": Law(copies=None),
    "iso_c": Law(copies=None),
    "iso_cts": Law(copies=None),
    "subspace_boosting": Law(copies=MEAN | {"boost": 1.0}),
    "wudi": Law(copies=MEAN | {"steps": 0, "policy": dict.fromkeys(("EMB", "CONV", "VEC"), "sum")}),
    "optmerge": Law(copies=None),
    "singular_projection": Law(copies=None, shifted=None),
    "doge_ta": Law(copies=None, scaled=None),
    "fisher": Law(),
    "regmean": Law(copies={"ridge": 0.0}),
    "regmean_pp": Law(copies={"ridge": 0.0}),
    "greedy_soup": Law(scaled=None, shifted=None),  # what is measured stays where it was
    "learned_average": Law(scaled=None, shifted=None),
    "learned_arithmetic": Law(copies={"steps": 0, "initial": 1 / T}, scaled=None, shifted=None),
    "frank_wolfe": Law(permuted={"rate": 0.5}, copies={"steps": 0, "initial": 1 / T}, scaled=None, shifted=None),
    "adamerging": Law(copies={"steps": 0, "initial": 1 / T}, scaled=None, shifted=None),
    "evolved_average": Law(permuted=None, scaled={"evaluations": 0}, shifted=None),
    "evolved_arithmetic": Law(permuted=None, copies={"evaluations": 0, "initial": 1 / T}, scaled=None, shifted=None),
    "evo_merging": Law(
        permuted=None,
        copies={"denoising": 0, "evaluations": 0},
        scaled={"denoising": 0, "evaluations": 0},
        shifted=None,
    ),
    "emr": Law(permuted=None),
    "tall_mask": Law(permuted=None, copies=MEAN | {"strictness": 0.3}),
}


SLOW = ("wudi", "optmerge", "doge_ta", "learned_average", "learned_arithmetic", "adamerging")
LIGHT = {name: {"steps": 10} for name in SLOW}  # for speed only
LIGHT |= {name: {"evaluations": 12, "population": 4} for name in ("evolved_average", "evolved_arithmetic")}
LIGHT["evo_merging"] = {"denoising": 6, "evaluations": 6, "population": 4}
LIGHT["nearswap"] = {"t": 0.01}  # updates of 1e-4 drown in the rounding of weights of about one in fp32


def having(law: str) -> list:
    return [pytest.param(name, getattr(about, law), id=name) for name, about in LAWS.items()]


def merge(method: str, base: dict, experts: list[dict], extras: dict, by=speechmerge.merge_state_dicts, **params):
    about = registry()[method]
    experts = experts[: about.experts]  # some take exactly one or two
    needed = {key: extras[key][: len(experts)] for need, key in STATISTICS.items() if need in about.needs}
    if about.measure:
        needed[about.measure] = extras[about.measure]
    return by(method, base, experts, extras=needed or None, **LIGHT.get(method, {}) | params)


def gap(one: dict, other: dict, base: dict) -> float:
    """‖one - other‖ relative to ‖other - base‖ over the whole model."""
    size = sum((other[n] - base[n]).square().sum() for n in base).sqrt()
    return (sum((one[n] - other[n]).square().sum() for n in base).sqrt() / max(size, 1e-30)).item()


def test_every_method_has_its_laws_stated():
    assert list(LAWS) == list(registry())


@pytest.mark.parametrize(("method", "params"), having("permuted"))
def test_u1_the_order_of_experts_does_not_matter(method, params, models, extras):
    base, experts = models
    if params is None:
        pytest.skip("a model for one of the tasks, or of one expert, or a search of random proposals")
    order = [2, 0, 3, 1] if registry()[method].experts is None else [1, 0, 2, 3]
    mixed = extras | {key: [extras[key][i] for i in order] for key in STATISTICS.values()}
    found = merge(method, base, [experts[i] for i in order], mixed, **params)
    assert gap(found, merge(method, base, experts, extras, **params), base) < SAME


@pytest.mark.parametrize(("method", "params"), having("copies"))
def test_u2_copies_of_one_expert_return_it(method, params, models, extras):
    base, experts = models
    copies = [experts[1]] * T
    found = merge(method, base, copies, extras, **(params or {}))
    if params is None:
        assert gap(found, experts[1], base) > 1e-3  # the specification says it does not hold; know it if it changes
    else:
        assert gap(found, experts[1], base) < SAME


@pytest.mark.parametrize("method", LAWS)
def test_u3_zero_scaling_returns_the_base_bit_by_bit(method, models, extras):
    base, experts = models
    found = merge(method, base, experts, extras, scaling=0.0)
    assert all(torch.equal(found[n], base[n]) for n in base)


@pytest.mark.parametrize("method", LAWS)
def test_one_merge_serves_every_scaling_bit_by_bit(method, models, extras):
    base, experts = models
    at = merge(method, base, experts, extras, by=engine.line, strict=False)
    for scaling in (0.3, 1.0, 0.3):
        found, expected = at(scaling), merge(method, base, experts, extras, scaling=scaling)
        assert list(found) == list(expected) and all(torch.equal(found[n], expected[n]) for n in base)


@pytest.mark.parametrize("method", LAWS)
def test_merges_made_together_are_those_made_alone_bit_by_bit(method, models, extras):
    """They share the task vectors they are given, so no rule may write to them."""
    base, experts = models
    experts = experts[: registry()[method].experts]
    others = ("task_arithmetic", 0.3), (method, 1.5), ("iso_c", 1.0), ("sce", 1.0), ("task_arithmetic", 1.0)
    made, alone = [], []
    for name, scaling in ((method, 0.5), *others):
        inputs = made[0].inputs if made else None
        made.append(merge(name, base, experts, extras, by=open_merge, scaling=scaling, inputs=inputs))
        alone.append(merge(name, base, experts, extras, scaling=scaling))
    found = [{} for _ in made]
    for i, name, tensor in together.stream([fitting.begin(one) for one in made]):
        found[i][name] = tensor
    for one, expected in zip(found, alone, strict=True):
        assert one.keys() == expected.keys() and all(torch.equal(one[n], expected[n]) for n in one)


@pytest.mark.parametrize(
    ("method", "flavour"),
    [(name, flavour) for name, about in registry().items() for flavour in ("paper", *about.flavours)],
)
def test_pieces_that_fit_a_cache_give_what_whole_tensors_give_bit_by_bit(method, flavour, models, extras, monkeypatch):
    base, experts = models
    flavour = {"flavour": flavour} if flavour in registry()[method].flavours else {}
    expected = merge(method, base, experts, extras, **flavour)
    monkeypatch.setattr(primitives, "CHUNK", 50)
    found = merge(method, base, experts, extras, **flavour)
    assert all(torch.equal(found[n], expected[n]) for n in base)


@pytest.mark.parametrize(("method", "params"), having("scaled"))
def test_u4_scaled_task_vectors_scale_the_merged_one(method, params, models, extras):
    base, experts = models
    far = [{n: base[n] + 3 * (x[n] - base[n]) for n in base} for x in experts]
    one = merge(method, base, experts, extras, **(params or {}))
    expected = {n: base[n] + 3 * (one[n] - base[n]) for n in base}
    found = gap(merge(method, base, far, extras, **(params or {})), expected, base)
    assert found < SAME if params is not None else found > 1e-6


@pytest.mark.parametrize(("method", "params"), having("shifted"))
def test_u5_a_constant_added_to_base_and_experts_is_added_to_the_result(method, params, models, extras):
    base, experts = models
    shift = {n: torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape) for n, x in base.items()}
    moved = [{n: x[n] + shift[n] for n in base} for x in (base, *experts)]
    expected = {n: x + shift[n] for n, x in merge(method, base, experts, extras, **(params or {})).items()}
    found = gap(merge(method, moved[0], moved[1:], extras, **(params or {})), expected, moved[0])
    assert found < 1e-7 if params is not None else found > 1e-6


@pytest.mark.parametrize("method", LAWS)
def test_inputs_are_not_changed_and_names_shapes_order_are_kept(method, models, extras):
    base, experts = models
    before = [{n: x.clone() for n, x in model.items()} for model in (base, *experts)]
    found = merge(method, base, experts, extras)
    assert list(found) == list(base)
    assert all(found[n].shape == base[n].shape and found[n].dtype == base[n].dtype for n in base)
    for model, copy in zip((base, *experts), before, strict=True):
        assert all(torch.equal(model[n], copy[n]) for n in model)
    for n in base:
        found[n].zero_()  # the result shares no memory with an input
    assert all(torch.equal(base[n], before[0][n]) for n in base)


@pytest.mark.parametrize("method", LAWS)
def test_experts_equal_to_the_base_return_it(method, models, extras):
    base, _ = models
    found = merge(method, base, [dict(base)] * T, extras)
    assert all(torch.allclose(found[n], base[n], rtol=1e-12, atol=0) for n in base)


@pytest.mark.parametrize("method", LAWS)
@pytest.mark.parametrize("experts", [2, 3])
def test_any_number_of_experts_gives_finite_tensors(method, experts, models, extras):
    if registry()[method].experts not in (None, experts):
        pytest.skip("takes one expert or two")
    base, all_experts = models
    found = merge(method, base, all_experts[:experts], extras)
    assert all(torch.isfinite(x).all() for x in found.values())


@pytest.mark.parametrize("method", LAWS)
def test_one_expert(method, models, extras):
    base, experts = models
    if registry()[method].experts == 2:
        with pytest.raises(MethodError, match="exactly 2 experts, got 1"):
            merge(method, base, experts[:1], extras)
        return
    found = merge(method, base, experts[:1], extras)
    assert all(torch.isfinite(x).all() for x in found.values())


@pytest.mark.parametrize("method", LAWS)
def test_degenerate_shapes(method):
    shapes = {"scale": (), "one": (1,), "row.weight": (1, 5), "column.weight": (5, 1), "small.weight": (2, 3)}
    shapes |= {"dot.weight": (1, 1), "empty.weight": (0, 4)}
    generator = torch.Generator().manual_seed(0)
    base, *experts = [{n: torch.randn(s, generator=generator) for n, s in shapes.items()} for _ in range(6)]
    grams = [{n.removesuffix(".weight"): torch.eye(s[1]) for n, s in shapes.items() if len(s) == 2}] * 5
    extras = {"grams": grams, "fishers": [{n: torch.ones(s) for n, s in shapes.items()}] * 5, **measures(experts[0])}
    found = merge(method, base, experts, extras)  # T = 5 experts of matrices of rank 1 to 2
    assert all(found[n].shape == base[n].shape and torch.isfinite(found[n]).all() for n in base)


@pytest.mark.parametrize("method", LAWS)
def test_fp32_agrees_with_fp64(method, models, extras):
    base, experts = models
    single = [{n: x.float() for n, x in model.items()} for model in (base, *experts)]
    double = [{n: x.double() for n, x in model.items()} for model in single]
    found = merge(method, single[0], single[1:], extras)
    expected = merge(method, double[0], double[1:], extras)
    assert all(x.dtype == torch.float32 for x in found.values())
    assert gap({n: x.double() for n, x in found.items()}, expected, double[0]) < 1e-4


@pytest.mark.parametrize("method", LAWS)
def test_the_order_of_tensors_does_not_matter(method, models, extras):
    base, experts = models
    turned = [dict(reversed(model.items())) for model in (base, *experts)]
    found = merge(method, turned[0], turned[1:], extras)
    expected = merge(method, base, experts, extras)
    assert gap(found, expected, base) < SAME


def all_fingerprints() -> str:
    """One line for each method; run in a process of its own by the test below."""
    base, experts = make()
    extras = statistics() | measures(experts[1])
    return "\n".join(
        f"{method} {speechmerge.whisper.checkpoints.fingerprint(merge(method, base, experts, extras))}"
        for method in registry()
    )


def test_results_do_not_depend_on_the_hash_seed():
    code = "import test_laws, speechmerge.whisper.checkpoints; print(test_laws.all_fingerprints())"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "77")
    ]
    assert runs[0] == runs[1]
    assert len(runs[0].splitlines()) == len(LAWS)
