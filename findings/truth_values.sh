#!/usr/bin/env bash
# PyTorch on a CPU: comparing, counting and masking with truth values takes many times as long as with numbers.
#
# torch 2.13.0 and numpy 2.4.6, seen on 2026-11-30, one thread of an AMD EPYC with AVX2, 262,144 numbers of fp32:
#
# 1. `x > 1` takes seven times as long as the same comparison by NumPy on the same memory, and three times as long as
#    `torch.gt(x, 1, out=y)` with `y` of fp32, which gives ones and zeros.
#
# 2. `x.masked_fill_(mask, 0)` and `torch.where(mask, 0, x)` take ten times as long as multiplying by such ones and zeros,
#    if which entries are masked looks random.
#
# 3. Over the first dimension of five rows, `any` takes many times as long as `amax`, and the sum of a mask takes five to
#    ten times as long as the sum of the ones and zeros.
#
# Whoever votes, trims and masks among models entry by entry, as nearly all sparse merges do, pays most of their time so.
#
# Exits 0 if this is what happens, non-zero if the behaviour changed. Ratios, with much room; a quiet machine is best.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$place"
cat > seen.py <<'PY'
import sys, time
import numpy, torch

torch.set_num_threads(1)
print("torch", torch.__version__, "numpy", numpy.__version__)
torch.manual_seed(0)
rows = torch.randn(5, 1 << 18)
x, y = rows[0], torch.empty(1 << 18)
array, mask, ones = x.numpy(), x > 0, (x > 0).float()
masks, numbers = rows > 0, (rows > 0).float()


def took(work):
    """Least processor seconds of one call."""
    best = float("inf")
    for _ in range(30):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


pairs = {
    "comparison, by NumPy": (lambda: x > 1, lambda: array > 1, 3),
    "comparison, as numbers": (lambda: x > 1, lambda: torch.gt(x, 1, out=y), 1.5),
    "masking, by a product": (lambda: torch.where(mask, 0.0, x), lambda: x * ones, 3),
    "any of five rows, by amax": (lambda: rows.any(0), lambda: rows.amax(0), 2),
    "sum of five masks, as numbers": (lambda: masks.sum(0), lambda: numbers.sum(0), 2),
}
wrong = []
for name, (slow, quick, least) in pairs.items():
    ratio = took(slow) / took(quick)
    print(f"{name}: {ratio:.1f} times as quick")
    if ratio < least:
        wrong.append(f"{name} is less than {least} times as quick")
print("; ".join(wrong) if wrong else "as described")
sys.exit(bool(wrong))
PY
"$place/env/bin/python" seen.py
