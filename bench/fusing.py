"""What an interface costs: ``python bench/fusing.py``.

The convolution along the layers beside ``nn.Conv1d`` with the same weights, forward and backward on one core; and what
a training holds in memory on stores of several sizes, as whole processes. States are random numbers in the shape of
Whisper's: neither time nor memory depends on what was heard. ``results/bench/fusing`` keeps a line of each.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuses
import torch
from measure import run
from torch import Tensor, nn

from speechbook.study import store
from speechmerge import machine
from speechmerge.fusion import features
from speechmerge.fusion.convolution import KERNEL, STRIDE, LayerConvolution

HERE = Path(__file__).parent
FRAMES = 32 * 24  # of a batch of utterances
SHAPES = {"whisper-tiny": (5, 384), "whisper-small": (13, 768)}  # layers and width
SIZES = (0.5, 4.0)  # GB of a store
LIMIT = 2 * 2**30 / 1e9  # GB


def convolution(upstream: str, runs: int) -> dict[str, Any]:
    """Return seconds of both forms, side by side, their ratio, and how far their results lie apart."""
    layers, width = SHAPES[upstream]
    own = LayerConvolution(width, width // 2)
    other = nn.Conv1d(width, width // 2, KERNEL, STRIDE, KERNEL // 2)
    other.load_state_dict(own.state_dict())
    states = torch.randn(FRAMES, layers, width)  # as the store has them
    forms = {"ours": own, "conv1d": lambda heard: other(heard.transpose(1, 2)).transpose(1, 2)}
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(runs):
        for name, form in forms.items():
            times[name].append(_timed(form, states))
    found = {name: statistics.median(values[runs // 5 :]) for name, values in times.items()}  # the first ones warm up
    with torch.no_grad():
        difference = float((own(states) - forms["conv1d"](states)).abs().max())
    line = {"what": f"convolution along {layers} × {width}", "store_gb": 0.0, "difference": difference}
    line |= {f"{name}_cpu_s": value for name, value in found.items()}
    return line | {"ratio cpu / conv1d": found["ours"] / found["conv1d"]}


def _timed(form: Callable[[Tensor], Tensor], states: Tensor) -> float:
    started = time.thread_time()
    form(states).square().sum().backward()
    return time.thread_time() - started


def training(size: float, work: Path) -> dict[str, Any]:
    """Return what a training of speech recognition with HConv holds at its peak, on a store of so many GB."""
    layers, width = SHAPES["whisper-tiny"]
    upstream = fuses.Noise(layers, width)
    clips = round(size * 1e9 / (features.BYTES * layers * width * upstream.rate * fuses.SECONDS))
    heard = [example.clip for example in fuses.fold(clips)]
    made = features.extract("noise", upstream, heard, whole=True)
    bytes_there = (made.folder / features.STATES).stat().st_size
    found = run([sys.executable, HERE / "fuses.py", made.folder.name, str(clips)], work / "log")
    told = {"what": "training with HConv", "store_gb": bytes_there / 1e9, "ours_gb": found.memory}
    return told | {"ours_s": found.seconds, "limit_gb": LIMIT}


def main() -> int:
    """Measure and keep; the status is 1 if a training held more than the limit."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--runs", type=int, default=50, help="of each convolution")
    options.add_argument("--size", type=float, action="append", help="of a store, in GB; may be repeated")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    lines = [convolution(name, chosen.runs) for name in SHAPES]
    with tempfile.TemporaryDirectory() as work:
        os.environ["SPEECHMERGE_CACHE"] = work
        lines += [training(size, Path(work)) for size in chosen.size or SIZES]
    for line in lines:
        print(", ".join(f"{name} {value:.3g}" if isinstance(value, float) else value for name, value in line.items()))
    told = {"runs": chosen.runs, **machine.stamp()}
    store.write_statistics(
        "bench", "fusing", [line | told for line in lines], identity=("what", "store_gb", "hardware")
    )
    return any(line.get("ours_gb", 0.0) > LIMIT for line in lines)


if __name__ == "__main__":
    sys.exit(main())
