#!/usr/bin/env bash
# mergekit's guards against divisions by zero are larger than what fine-tuning moves.
#
# mergekit 0.1.5 (torch 2.13.0), seen on 2026-12-01: `sce` weighs models by the mean square of their changes, but where
# those squares sum to less than 1e-6 all models weigh the same, whatever the changes. Fine-tuning moves weights by about
# 1e-4, so the method's middle step never happens. `model_stock` divides by the product of two changes' lengths, or by
# 1e-6 if that is more, when it measures the angle between them: a short tensor that moved little, such as a bias, goes
# back to the base. Both rules would otherwise not depend on the scale of the changes.
#
# Exits with 1 if this is no longer so.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet ${PIP_FLAGS:-} torch==2.13.0 mergekit==0.1.5

cat > "$place/seen.py" <<'PYTHON'
from importlib.metadata import version

import torch
from mergekit import merge_methods
from mergekit.common import ModelReference
from mergekit.merge_methods import TensorEntry, TensorGroup


def change(method, base, changes, **parameters):
    """Let mergekit merge one tensor of two models; return how far the result lies from the base."""
    entries = [TensorEntry(ModelReference.parse("base"), base.clone(), True)]
    for number, own in enumerate(changes):
        entries.append(TensorEntry(ModelReference.parse(f"model{number}"), base + own, False))
    [found] = merge_methods.get(method)([TensorGroup(entries)], parameters=parameters)
    return found - base


print({name: version(name) for name in ("mergekit", "torch")})
random = torch.Generator().manual_seed(0)
base = 0.05 * torch.randn(384, generator=random).double()
first, second, common = torch.randn(3, 384, generator=random).double()

print("sce of two models, the second of which moved three times as far: the weight of each")
weights = {}
for size in (1e-2, 1e-3, 1e-4, 1e-5):
    changes = [size * first, 3 * size * second]
    agreed = changes[0].sign() == changes[1].sign()
    sides = torch.stack([own[agreed] for own in changes], 1)
    found = change("sce", base, changes, select_topk=1.0)[agreed]
    weights[size] = torch.linalg.lstsq(sides, found[:, None]).solution.flatten()
    print(f"  changes of {size:g}: {weights[size][0]:.3f} and {weights[size][1]:.3f}")
assert weights[1e-2][1] > 0.85 and weights[1e-3][1] > 0.85
assert abs(weights[1e-4][1] - 0.5) < 1e-6 and abs(weights[1e-5][1] - 0.5) < 1e-6

print("model_stock of two models that moved alike (cosine 0.9): what is kept of their mean change")
kept = {}
for size in (1e-2, 1e-4, 1e-5, 1e-6):
    changes = [size * (3 * common + own) for own in (first, second)]
    mean = (changes[0] + changes[1]) / 2
    kept[size] = float(change("model_stock", base, changes, filter_wise=False) @ mean / (mean @ mean))
    print(f"  changes of {size:g}: {kept[size]:.3f}")
assert kept[1e-2] > 0.9 and abs(kept[1e-4] - kept[1e-2]) < 1e-6 and kept[1e-5] < 0.6 and kept[1e-6] < 0.05
PYTHON
"$place/venv/bin/python" "$place/seen.py"
