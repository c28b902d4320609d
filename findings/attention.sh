#!/usr/bin/env bash
# PyTorch's fused attention on a CPU with AMX: bf16 speeds up its result and not its gradient.
#
# torch 2.13.0, seen on 2026-11-29, one thread of a Xeon with amx_bf16, six heads of 1,500 frames (Whisper's encoder):
#
# 1. The result of scaled_dot_product_attention takes less than half of the time in bf16 that it takes in fp32, as one
#    expects of a processor with matrix products in bf16.
#
# 2. Its gradient takes as long in bf16 as in fp32, and nearly twice as long as the gradient of the same attention written
#    as two matrix products and a softmax, which bf16 speeds up by a factor of three. Training in bf16 with the fused
#    attention, the default of transformers, loses there much of what the format gains elsewhere.
#
# Exits 0 if this is what happens, 2 on a processor without AMX, otherwise non-zero if the behaviour changed.
set -euo pipefail
grep -qw amx_bf16 /proc/cpuinfo || { echo "this processor has no AMX, so nothing can be seen here"; exit 2; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$place"
cat > seen.py <<'PY'
import sys, time
import torch
from torch.nn.functional import scaled_dot_product_attention

torch.set_num_threads(1)
print("torch", torch.__version__)


def plain(query, key, value):
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1) @ value


def took(attend, dtype):
    """Least processor seconds of a result and of its gradient."""
    given = [torch.randn(1, 6, 1500, 64, dtype=dtype, requires_grad=True) for _ in range(3)]
    best = [float("inf")] * 2
    for _ in range(20):
        times = [time.process_time()]
        result = attend(*given)
        times.append(time.process_time())
        result.backward(torch.ones_like(result))
        times.append(time.process_time())
        best = [min(old, b - a) for old, a, b in zip(best, times, times[1:])]
    return best


torch.manual_seed(0)
seconds = {}
for name, attend in (("fused", scaled_dot_product_attention), ("plain", plain)):
    for dtype in (torch.float32, torch.bfloat16):
        seconds[name, dtype] = result, gradient = took(attend, dtype)
        print(f"{name} {dtype}: result {1e3 * result:.0f} ms, gradient {1e3 * gradient:.0f} ms")
fp32, bf16, own = seconds["fused", torch.float32], seconds["fused", torch.bfloat16], seconds["plain", torch.bfloat16]
wrong = []
if bf16[0] > 0.7 * fp32[0]:
    wrong.append("bf16 no longer speeds up the fused result")
if bf16[1] < 0.75 * fp32[1]:
    wrong.append("bf16 speeds up the fused gradient now")
if bf16[1] < 1.15 * own[1]:
    wrong.append("the fused gradient is no longer slower than the plain one")
print("; ".join(wrong) if wrong else "as described")
sys.exit(bool(wrong))
PY
"$place/env/bin/python" seen.py
