"""Makes the files beside it: what mergekit 0.1.5 and FusionBench 0.2.33 make of small models in fp64.

Run once for each, in an environment that has it (made with torch 2.x on a CPU)::

    python tests/golden/peers/make.py mergekit
    python tests/golden/peers/make.py fusion_bench

The peers' own functions are called, on fp64 tensors, so that nothing but the formulas is compared. What is made here is
only what they are called with: models whose linear maps lie where FusionBench looks for them, a loss for Frank-Wolfe
steps, and a device for the optimiser. Each case is a list of three: our method, our options, the experts.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
SHAPES = {  # of the modules, as linear maps
    "model.encoder.layers.0.self_attn.q_proj": (12, 12),
    "model.encoder.layers.0.fc1": (20, 12),
    "model.encoder.layers.0.fc2": (12, 20),
    "model.encoder.layers.1.fc1": (20, 12),
}
MORE = {  # of what mergekit merges as well
    "model.encoder.conv1.weight": (6, 5, 3),
    "model.encoder.layer_norm.weight": (12,),
    "model.decoder.embed_tokens.weight": (40, 12),
    "column.weight": (9, 1),
}
FAINT = "model.encoder.layers.1.fc1.weight"  # its updates are a hundredth of the others'


def numbers(seed: int, *shape: int, size: float) -> torch.Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def models() -> dict[str, dict[str, torch.Tensor]]:
    """Return base and three experts, which have a part of their updates in common."""
    shapes = {f"{name}.weight": shape for name, shape in SHAPES.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in SHAPES.items()} | MORE
    found = {name: {} for name in ("base", "e0", "e1", "e2")}
    for place, (name, shape) in enumerate(shapes.items()):
        size = 2e-5 if name == FAINT else 2e-3
        found["base"][name] = numbers(place, *shape, size=0.3)
        for t in range(3):
            update = numbers(100 * (t + 1) + place, *shape, size=size) + numbers(900 + place, *shape, size=size / 2)
            found[f"e{t}"][name] = found["base"][name] + update
    return found


ONE, TWO, THREE = ["e0"], ["e0", "e1"], ["e0", "e1", "e2"]
MERGEKIT = {
    "ram": ["ram", {"epsilon": 0.001}, THREE],
    "ram, two": ["ram", {}, TWO],
    "ramplus_tl": ["ramplus_tl", {"epsilon": 0.002}, THREE],
    "ramplus_tl, strong": ["ramplus_tl", {"r": 0.5, "alpha": 3.0, "epsilon": 0.001}, THREE],
    "nearswap": ["nearswap", {"t": 0.001}, ONE],
    "nearswap, under the guard": ["nearswap", {"t": 4e-7, "flavour": "mergekit"}, ["e1"]],
    "arcee_fusion": ["arcee_fusion", {}, ONE],
    "arcee_fusion, another": ["arcee_fusion", {}, ["e2"]],
}
LINEAR = "model.encoder.layers.0.fc1.weight"  # what Frank-Wolfe steps are taken on
FUSION_BENCH = {
    "magmax": ["magmax", {"scaling": 0.5}, THREE],
    "magmax, two": ["magmax", {}, TWO],
    "doge": ["doge_ta", {"flavour": "fusion_bench"}, THREE],
    "doge, two": ["doge_ta", {"flavour": "fusion_bench", "strength": 0.03, "density": 0.5, "subspace": 0.25}, TWO],
    "singular_projection": ["singular_projection", {"directions": 5}, ONE],
    "singular_projection, half": ["singular_projection", {}, ONE],
    "singular_projection, high": ["singular_projection", {"part": "high", "directions": 3}, ["e1"]],
    "singular_projection, all that is high": [
        "singular_projection",
        {"part": "high", "directions": 3, "null_space": True},
        ["e1"],
    ],
    "frank_wolfe": ["frank_wolfe", {"rate": 0.3, "steps": 5}, THREE],
}


def by_mergekit(states: dict) -> dict[str, dict[str, torch.Tensor]]:
    from mergekit import merge_methods
    from mergekit.common import ModelReference
    from mergekit.merge_methods import TensorEntry, TensorGroup

    found = {}
    for case, (name, options, experts) in MERGEKIT.items():
        method = merge_methods.get(name)
        options = {key: value for key, value in options.items() if key != "flavour"}
        found[case] = {}
        for tensor in states["base"]:
            entries = [
                TensorEntry(ModelReference.parse(model), states[model][tensor].clone(), model == "base")
                for model in ("base", *experts)
            ]
            [found[case][tensor]] = method([TensorGroup(entries)], parameters=options)
    return found


def module(state: dict[str, torch.Tensor]) -> nn.Module:
    """Return a model of nested modules that holds the linear maps of a state."""
    root = nn.Module()
    for name, (rows, columns) in SHAPES.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.add_module(last, nn.Linear(columns, rows, dtype=torch.float64))
    root.load_state_dict({n: x for n, x in state.items() if n not in MORE})
    return root


def by_fusion_bench(states: dict) -> dict[str, dict[str, torch.Tensor]]:
    import lightning
    from fusion_bench.method.doge_ta.doge_ta import DOGE_TA_Algorithm
    from fusion_bench.method.magmax.magmax import magmax_merge
    from fusion_bench.method.smile_upscaling.singular_projection_merging import SingularProjectionMergingAlgorithm
    from omegaconf import OmegaConf

    found = {}
    for case, (name, options, experts) in FUSION_BENCH.items():
        base, tuned = module(states["base"]), [module(states[expert]) for expert in experts]
        if name == "magmax":
            merged = magmax_merge(base, tuned, scaling_factor=options.get("scaling", 1.0)).state_dict()
        elif name == "doge_ta":
            share = round(1 / options.get("subspace", 1 / 6))
            kept = round(100 * options.get("density", 0.3))
            algorithm = DOGE_TA_Algorithm(subspace=share, K=kept, lamda=options.get("strength", 0.07))
            algorithm.fabric = lightning.Fabric(accelerator="cpu", devices=1)
            pool = {"_pretrained_": base} | dict(zip(experts, tuned, strict=True))
            merged = algorithm.run(pool).state_dict()
        elif name == "singular_projection":
            config = {"k": options.get("directions", -1), "rank": options.get("part", "low"), "device": "cpu"}
            config |= {"full_matrices": options.get("null_space", False), "model_path": None}
            algorithm = SingularProjectionMergingAlgorithm(OmegaConf.create(config))
            merged = algorithm.merge(base, tuned[0]).state_dict()
        else:
            merged = frank_wolfe(states, experts, **options)
        found[case] = {n: x.detach().clone() for n, x in merged.items()}
    return found


class OneMap(nn.Module):
    """A model of one linear map, which FusionBench 0.2.33 cannot add to where it is a parameter."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())


def target(states: dict) -> torch.Tensor:
    """Return where the loss ½‖θ - target‖² is least: nearer to the first expert, and off the experts' hull."""
    mixed = sum(w * (states[e][LINEAR] - states["base"][LINEAR]) for w, e in zip((0.6, 0.3, -0.2), THREE, strict=True))
    return states["base"][LINEAR] + mixed


def frank_wolfe(states: dict, experts: list[str], *, rate: float, steps: int) -> dict[str, torch.Tensor]:
    """Take FusionBench's own choices and merges; only the gradient, of a loss known in closed form, is made here."""
    from fusion_bench.method.fw_merging.fw_hard import FrankWolfeHardAlgorithm, task_arithmetic_merge

    pool = {expert: OneMap(states[expert][LINEAR]) for expert in experts}
    merged = task_arithmetic_merge(OneMap(states["base"][LINEAR]), list(pool.values()), 0.3)
    pool["initial"] = OneMap(merged.weight)
    for step in range(steps):
        gradients = {"weight": merged.weight - target(states)}
        chosen, name, *_ = FrankWolfeHardAlgorithm.frank_wolfe_selection(None, gradients, pool, [], type="task")
        print(step, name)
        merged = task_arithmetic_merge(merged, [OneMap(chosen["weight"])], 2 / (step + 2) * rate)
    return {LINEAR: merged.weight}


def main(peer: str) -> None:
    states, cases = models(), {"mergekit": MERGEKIT, "fusion_bench": FUSION_BENCH}[peer]
    made = {"mergekit": by_mergekit, "fusion_bench": by_fusion_bench}[peer](states)
    vectors = {f"{case}/{n}": x.contiguous() for case, tensors in made.items() for n, x in tensors.items()}
    vectors |= {f"{model}/{n}": x for model, state in states.items() for n, x in state.items()}
    if peer == "fusion_bench":
        vectors["target"] = target(states)
    about = {"made with": {name: version(name) for name in (peer.replace("_", "-"), "torch")}, "cases": cases}
    save_file(vectors, HERE / f"{peer}.safetensors")
    (HERE / f"{peer}.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
