"""Makes ``cases.json`` and ``vectors.safetensors`` beside it: what mergekit makes of recipes, tensor by tensor.

Run once, in an environment that has mergekit 0.1.5 (made with torch 2.x on a CPU)::

    python tests/golden/recipes/make.py

mergekit reads each recipe itself: its configuration class, its resolution of parameters, its methods. Only its planner
is left out, whose table of Whisper's tensors lacks a dot in 0.1.5; what it does to a list of models, adding a base that
is not listed, is done here.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from mergekit import merge_methods
from mergekit.config import ConfigReader, InputSliceDefinition, MergeConfiguration, OutputSliceDefinition
from mergekit.merge_methods import TensorEntry, TensorGroup
from mergekit.parameter_resolver import resolve_parameters
from mergekit.sparsify import della_magprune
from safetensors.torch import save_file

HERE = Path(__file__).parent
GRID = 2.0**23  # numbers are multiples of 1/GRID, so that differences of weights are exact in fp32


def numbers(seed: int, *shape: int, size: float) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (drawn * size * GRID).round() / GRID


def tensors() -> dict[str, dict[str, torch.Tensor]]:
    """Return base and three experts; each tensor's name says how the experts changed it."""
    shapes = {"matrix": (6, 5), "vector": (7,), "filter": (4, 3, 3), "one": (1,), "row": (1, 6)}
    shapes |= dict.fromkeys(("unchanged", "lone", "opposite", "parallel", "faint"), (4, 6))
    shapes |= {"from_zero": (9,), "lone_from_zero": (9,)}
    models = {name: {} for name in ("base", "e0", "e1", "e2")}
    for place, (name, shape) in enumerate(shapes.items()):
        base = numbers(place, *shape, size=0.0 if "zero" in name else 0.3)
        updates = [numbers(100 * (t + 1) + place, *shape, size=0.02) for t in range(3)]
        if name == "unchanged":
            updates = [torch.zeros_like(base)] * 3
        if "lone" in name:
            updates[1:] = [torch.zeros_like(base)] * 2
        if name == "opposite":
            updates[1:] = [-updates[0], torch.zeros_like(base)]
        if name == "parallel":
            updates[1:] = [2 * updates[0], 4 * updates[0]]
        if name == "faint":
            updates = [(u / 64 * GRID).round() / GRID for u in updates]
        models["base"][name] = base
        for t, update in enumerate(updates):
            models[f"e{t}"][name] = base + update
    return models


def of(*weights: float, **parameters: list) -> list[dict]:
    """Return models with their own weights and other parameters."""
    given = [{"weight": w} for w in weights]
    for key, values in parameters.items():
        given = [own | {key: value} for own, value in zip(given, values, strict=True)]
    return [{"model": f"e{t}", "parameters": own} for t, own in enumerate(given)]


def recipe(method: str, models: list, base: str | None = "base", **shared: object) -> dict:
    found = {"merge_method": method, "models": models} | ({"base_model": base} if base else {})
    return found | ({"parameters": shared} if shared else {})


TWO, THREE = ["e0", "e1"], ["e0", "e1", "e2"]
BASE_TOO = {"model": "base", "parameters": {"weight": 2.0}}
RECIPES = {
    "linear, no base": recipe("linear", of(1.0, 0.5), None),
    "linear, three of them": recipe("linear", of(1, 2, 0.25), None, normalize=True),
    "linear, base not listed": recipe("linear", TWO, weight=1.0),
    "linear, base listed": recipe("linear", [*of(1.0, 0.5), BASE_TOO]),
    "linear, negative": recipe("linear", of(1.5, -0.5), None),
    "linear, not normalised": recipe("linear", of(0.75, 0.25), None, normalize=False),
    "linear, as task arithmetic": recipe(
        "linear", [*of(1.0, 0.5), {"model": "base", "parameters": {"weight": -0.5}}], normalize=False
    ),
    "slerp": recipe("slerp", ["e0"], t=0.25),
    "slerp, base listed last": recipe("slerp", ["e0", "base"], t=0.5),
    "slerp, beyond": recipe("slerp", ["base", "e0"], t=1.25),
    "nuslerp": recipe("nuslerp", of(1.0, 0.5)),
    "nuslerp, base listed": recipe("nuslerp", ["base", *of(1.0, 1.0)]),
    "nuslerp, no base": recipe("nuslerp", of(1.0, 3.0), None),
    "nuslerp, negative": recipe("nuslerp", of(1.5, -0.5)),
    "nuslerp, rows of what is flat": recipe("nuslerp", TWO, weight=1, nuslerp_row_wise=True),
    "multislerp": recipe("multislerp", of(1.0, 0.5)),
    "multislerp, one": recipe("multislerp", of(1.0)),
    "multislerp, three": recipe("multislerp", of(1.0, 0.5, 2.0), normalize_weights=True, eps=1e-8),
    "multislerp, no base": recipe("multislerp", of(1.0, 0.5, 2.0), None),
    "multislerp, base listed": recipe("multislerp", ["base", *of(1.0, 1.0)]),
    "multislerp, weights as they are": recipe("multislerp", of(1.0, 0.5), normalize_weights=False),
    "karcher, no base": recipe("karcher", TWO, None),
    "karcher, three": recipe("karcher", THREE, None, max_iter=20, tol=1e-6),
    "karcher, base not listed": recipe("karcher", TWO),
    "karcher, base listed": recipe("karcher", ["base", *TWO]),
    "model_stock": recipe("model_stock", TWO),
    "model_stock, three": recipe("model_stock", ["base", *THREE]),
    "model_stock, rows": recipe("model_stock", THREE, filter_wise=True),
    "task_arithmetic": recipe("task_arithmetic", of(1.0, -0.5), **{"lambda": 0.5}),
    "task_arithmetic, normalised": recipe("task_arithmetic", of(1.0, 0.5, 2.0), normalize=True, int8_mask=True),
    "ties": recipe("ties", of(1.0, 0.5, 2.0, density=[0.5, 0.25, 1.0]), **{"lambda": 0.75}),
    "ties, summed": recipe("ties", THREE, weight=0.5, density=0.5, normalize=False, int8_mask=True),
    "breadcrumbs": recipe("breadcrumbs", of(1.0, 0.5, density=[0.5, 0.75]), gamma=0.125),
    "breadcrumbs, normalised": recipe("breadcrumbs", of(1.0, 0.5), density=0.5, normalize=True),
    "breadcrumbs_ties": recipe("breadcrumbs_ties", THREE, weight=1, density=0.75, gamma=0.0625),
    "breadcrumbs_ties, normalised": recipe("breadcrumbs_ties", of(1, 0.5, 2), density=0.75, normalize=True),
    "dare_linear, all kept": recipe("dare_linear", of(1.0, 0.5), **{"lambda": 2}),
    "dare_linear, normalised": recipe("dare_linear", of(1.0, 0.5), normalize=True),
    "dare_ties, all kept": recipe("dare_ties", of(1.0, 0.5, 2.0)),
    "dare_ties, normalised": recipe("dare_ties", of(1.0, 0.5, 2.0), normalize=True),
    "della, all kept": recipe("della", of(1.0, 0.5, 2.0), rescale=False),
    "della_linear, normalised": recipe("della_linear", of(1.0, 0.5), normalize=True, epsilon=0.1),
    "sce": recipe("sce", THREE, select_topk=0.5),
    "sce, all": recipe("sce", TWO, int8_mask=True),
    "ram": recipe("ram", THREE),
    "ram, far": recipe("ram", ["base", *THREE], epsilon=0.01),
    "ramplus_tl": recipe("ramplus_tl", THREE, epsilon=0.01),
    "ramplus_tl, strong": recipe("ramplus_tl", TWO, r=0.5, alpha=2.0, epsilon=0.015),
    "nearswap": recipe("nearswap", ["e0"], t=0.01),
    "nearswap, base listed": recipe("nearswap", ["base", "e1"], t=0.0001),
    "nearswap, under the guard": recipe("nearswap", ["e2"], t=5e-7),
    "arcee_fusion": recipe("arcee_fusion", ["e0"]),
    "arcee_fusion, base listed": recipe("arcee_fusion", ["e1", "base"]),
}


def merged(content: dict, models: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return every tensor that mergekit merges as the recipe says; those it refuses are left out."""
    listed = [m if isinstance(m, dict) else {"model": m} for m in content["models"]]
    config = MergeConfiguration.model_validate(content | {"models": listed})
    method, base, sources = merge_methods.get(config.merge_method), config.base_model, list(config.models)
    whole = [InputSliceDefinition(model=m.model, layer_range=(0, 1), parameters=m.parameters) for m in sources]
    if base and base not in [m.model for m in sources]:
        whole.append(InputSliceDefinition(model=base, layer_range=(0, 1)))
    reader = ConfigReader(config=config, slice_out=OutputSliceDefinition(sources=whole), t=0)
    found = {}
    for name in models["base"]:
        shared, own = resolve_parameters(
            method.spec,
            tensor_name=name,
            inputs={source.model: name for source in whole},
            sources=reader.parameter_sources,
            base_model=base,
        )
        given = {
            p.name: {model: values[p.name] for model, values in own.items() if p.name in values}
            for p in method.spec.input_parameters
        }
        entries = [TensorEntry(s.model, models[str(s.model)][name].clone(), s.model == base) for s in whole]
        try:
            [found[name]] = method([TensorGroup(entries)], parameters=shared | given)
        except ValueError:
            continue
    return found


def kept_by_della(update: torch.Tensor, runs: int = 4000) -> torch.Tensor:
    """Return how often each entry of a filter is kept."""
    torch.manual_seed(0)
    return sum((della_magprune(update, 0.5, 0.3) != 0).float() for _ in range(runs)) / runs


def main() -> None:
    models = tensors()
    vectors = {f"{model}/{name}": x for model, state in models.items() for name, x in state.items()}
    for number, content in enumerate(RECIPES.values()):
        vectors |= {f"{number}/{name}": x.contiguous() for name, x in merged(content, models).items()}
    vectors["della/update"] = numbers(7, 3, 5, 3, size=0.02)
    vectors["della/kept"] = kept_by_della(vectors["della/update"])
    save_file(vectors, HERE / "vectors.safetensors")
    methods = {
        m.spec.name: sorted(p.name for p in m.spec.parameters) for m in merge_methods.registry.registered_methods()
    }
    about = {"made with": {name: version(name) for name in ("mergekit", "torch")}, "methods": methods}
    (HERE / "cases.json").write_text(json.dumps(about | {"recipes": RECIPES}, indent=1) + "\n")


if __name__ == "__main__":
    main()
