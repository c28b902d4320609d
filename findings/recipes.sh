#!/usr/bin/env bash
# Three things a recipe of mergekit does not show.
#
# mergekit 0.1.5 (torch 2.13.0, transformers 5.x), seen on 2026-11-29:
#
# 1. A base_model that is not listed among the models is added to them. For `karcher` and `linear` it then is one more
#    model in the mean: two experts get a third each, and the update is a third shorter.
# 2. Without a base_model, the model whose configuration and tokenizer the result gets is the first of a Python set, so
#    the same file takes another model's files from run to run (it depends on PYTHONHASHSEED).
# 3. A method's parameters are read by name and all others are passed over without a word: `weight` for `karcher`, or
#    `lambda` for `sce`, changes nothing.
# Exits with 1 if any of the three is no longer so.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet ${PIP_FLAGS:-} torch==2.13.0 mergekit==0.1.5

cat > "$place/seen.py" <<'PYTHON'
import sys

import torch
from mergekit import merge_methods
from mergekit.config import ConfigReader, InputSliceDefinition, MergeConfiguration, OutputSliceDefinition
from mergekit.merge_methods import TensorEntry, TensorGroup
from mergekit.parameter_resolver import resolve_parameters
from mergekit.plan import MergePlanner


class Layers:
    """Stands for an architecture of one module; the planner asks it for nothing else before it lists the inputs."""

    modules = {"default": type("Module", (), {"architecture": type("A", (), {"num_layers": lambda self, c: 1})()})}


def merged(recipe):
    """Let mergekit's planner list the inputs and its method merge one tensor of each."""
    config = MergeConfiguration.model_validate(recipe)
    planner = MergePlanner.__new__(MergePlanner)
    planner.config, planner.arch_info = config, Layers()
    planner.options = type("Options", (), {"trust_remote_code": False})
    planner._method = merge_methods.get(config.merge_method)
    from mergekit.common import ModelReference

    ModelReference.config = lambda self, trust_remote_code=False: None
    planner.normalize_config()
    [whole] = config.modules["default"].slices
    reader = ConfigReader(config=config, slice_out=whole, t=0)
    inputs = [source.model for source in whole.sources]
    shared, own = resolve_parameters(
        planner._method.spec,
        tensor_name="x",
        inputs={model: "x" for model in inputs},
        sources=reader.parameter_sources,
        base_model=config.base_model,
    )
    own = {
        p.name: {model: v[p.name] for model, v in own.items() if p.name in v}
        for p in planner._method.spec.input_parameters
    }
    group = TensorGroup([TensorEntry(m, TENSORS[str(m)].clone(), m == config.base_model) for m in inputs])
    [result] = planner._method([group], parameters=shared | own)
    return inputs, result


g = torch.Generator().manual_seed(0)
TENSORS = {"base": torch.randn(64, 64, generator=g)}
TENSORS |= {name: TENSORS["base"] + 0.01 * torch.randn(64, 64, generator=g) for name in "ab"}
mean = (TENSORS["a"] + TENSORS["b"]) / 2 - TENSORS["base"]

if sys.argv[1] == "donor":
    models = [{"model": name, "parameters": {"weight": 1.0}} for name in ("first", "second", "third")]
    print(MergeConfiguration.model_validate({"merge_method": "linear", "models": models}).referenced_models()[0])
    sys.exit()

for method in ("karcher", "linear"):
    recipe = {"merge_method": method, "models": [{"model": "a"}, {"model": "b"}], "parameters": {"weight": 1.0}}
    without = merged(recipe)
    counted = merged(recipe | {"base_model": "base"})
    shares = [float(((x - TENSORS["base"]) * mean).sum() / mean.square().sum()) for _, x in (without, counted)]
    print(f"{method}: inputs {[str(m) for m in counted[0]]}; share of the mean update {shares[0]:.3f} without a base, "
          f"{shares[1]:.3f} with a base_model that is not listed")
    assert abs(shares[0] - 1) < 0.02 and abs(shares[1] - 2 / 3) < 0.02

uneven = [{"model": "a", "parameters": {"weight": 9.0}}, {"model": "b", "parameters": {"weight": 1.0}}]
even = [{"model": "a"}, {"model": "b"}]
same = torch.equal(*(merged({"merge_method": "karcher", "models": m})[1] for m in (uneven, even)))
print(f"karcher with weights 9 and 1 equals karcher without: {same}")
assert same
sce = {"merge_method": "sce", "base_model": "base", "models": even}
same = torch.equal(*(merged(sce | {"parameters": p})[1] for p in ({"lambda": 0.1}, {})))
print(f"sce with lambda 0.1 equals sce without: {same}")
assert same
PYTHON

"$place/venv/bin/python" -c 'from importlib.metadata import version
print({name: version(name) for name in ("mergekit", "torch", "transformers")})'
"$place/venv/bin/python" "$place/seen.py" numbers
donors=$(for seed in 0 1 2 3 4 5; do PYTHONHASHSEED=$seed "$place/venv/bin/python" "$place/seen.py" donor; done | sort | uniq -c)
echo "the model whose tokenizer the result gets, six runs of one recipe that lists first, second, third:"
echo "$donors"
test "$(echo "$donors" | wc -l)" -gt 1
