#!/usr/bin/env bash
# mergekit's arcee_fusion chooses entries by rounding.
#
# mergekit 0.1.5 (torch 2.13.0), seen on 2026-11-29: `arcee_fusion` ranks a row by the Kullback-Leibler divergence of the
# softmax of its weights, computed as a sum of p log(p / q) in the tensors' own precision. Where a fine-tuning has moved
# weights by as little as fine-tunings do, that sum is rounding: in fp32 other entries are taken than in fp64, more of
# them, and less than half of those taken belong there. With larger changes both agree.
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


def taken(base, tuned):
    """Let mergekit fuse one tensor; tell which entries it takes from the fine-tuned model."""
    pairs = (("base", base, True), ("tuned", tuned, False))
    entries = [TensorEntry(ModelReference.parse(name), value.clone(), first) for name, value, first in pairs]
    [found] = merge_methods.get("arcee_fusion")([TensorGroup(entries)], parameters={})
    return found != base


print({name: version(name) for name in ("mergekit", "torch")})
random = torch.Generator().manual_seed(0)
base = 0.05 * torch.randn(384, 384, generator=random)
shares = {}
for size in (2e-2, 2e-3, 5e-4, 1e-4):
    tuned = base + size * torch.randn(384, 384, generator=random)
    single, double = taken(base, tuned), taken(base.double(), tuned.double())
    shares[size] = float((single & double).sum() / single.sum())
    print(f"changes of {size:g}: {single.sum()} entries taken in fp32, {double.sum()} in fp64; "
          f"{shares[size]:.0%} of the former are among the latter")
assert shares[2e-2] > 0.95 and shares[5e-4] < 0.6 and shares[1e-4] < 0.4
PYTHON
"$place/venv/bin/python" "$place/seen.py"
