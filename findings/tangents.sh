#!/usr/bin/env bash
# mergekit's multislerp interpolates nothing: it is the mean direction times the mean length.
#
# mergekit 0.1.5 (torch 2.13.0), seen on 2026-12-01: `multislerp` projects directions onto the tangent space at their
# normalised weighted mean, adds the projections up with the same weights, and goes back to the sphere. That sum is zero
# by construction, for what the mean leaves over on one side it leaves over on the other. So the result is the normalised
# mean, scaled; with two models and unequal weights it is not where SLERP arrives (`slerp` of the same version), and with
# three it is not the mean on the sphere that `karcher` finds.
#
# Exits with 1 if this is no longer so.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet ${PIP_FLAGS:-} torch==2.13.0 mergekit==0.1.5

cat > "$place/seen.py" <<'PYTHON'
import math
from importlib.metadata import version

import torch
from mergekit import merge_methods
from mergekit.common import ModelReference
from mergekit.merge_methods import TensorEntry, TensorGroup


def merged(method, models, base=None, **parameters):
    """Let mergekit merge one tensor of some models; the first one is the base where the method needs one."""
    references = [ModelReference.parse(f"model{number}") for number in range(len(models))]
    entries = [TensorEntry(name, one.clone(), base == i) for i, (name, one) in enumerate(zip(references, models))]
    [found] = merge_methods.get(method)([TensorGroup(entries)], parameters=parameters)
    return found


def angle(one, other):
    return math.degrees(math.acos(float(one @ other / (one.norm() * other.norm()))))


print({name: version(name) for name in ("mergekit", "torch")})
first, second, third = torch.eye(3).double()
shares = [0.25, 0.75]
one = merged("multislerp", [first, second], weight=shares)
other = merged("slerp", [first, second], base=0, t=0.75)
print(f"two models at right angles, weights 0.25 and 0.75: multislerp is {angle(first, one):.2f}° from the first one, "
      f"slerp {angle(first, other):.2f}°, the plain mean {math.degrees(math.atan(3)):.2f}°")
assert abs(angle(first, other) - 67.5) < 1e-6 and abs(angle(first, one) - math.degrees(math.atan(3))) < 1e-6

random = torch.Generator().manual_seed(0)
models = [*torch.randn(3, 4096, generator=random).double()]
models[2] = models[2] + 3 * models[0]
units = [model / model.norm() for model in models]
plain = sum(units) / 3
plain = plain / plain.norm() * sum(model.norm() for model in models) / 3
found, mean = merged("multislerp", models, weight=[1.0, 1.0, 1.0]), merged("karcher", models, max_iter=100, tol=1e-9)
print(f"three models of which two are alike: multislerp is {float((found - plain).norm() / plain.norm()):.0e} of its "
      f"length from the scaled mean direction, karcher {angle(mean, plain):.2f}° from it")
assert (found - plain).norm() / plain.norm() < 1e-6 and angle(mean, plain) > 0.5
PYTHON
"$place/venv/bin/python" "$place/seen.py"
