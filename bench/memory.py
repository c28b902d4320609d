"""Peak memory, whole processes: ``python bench/memory.py``.

Merges five experts of whisper-large-v3's shape, fp16 on disk: 20 GB of disk for random models, removed afterwards, and
at most 4 GiB of memory. And ``--method tune`` tunes five experts of whisper-small on real speech, under 4 GiB too. The
experts are the real base with noise of the size of an update: what a tuning holds does not depend on what they learnt.
"""

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import whispers
from measure import run
from run import HERE, keep, show
from safetensors.torch import load_file, save_file

from speechmerge.whisper import models

METHODS = {"task_arithmetic": {"scaling": 0.3}, "ties": {"density": 0.2}, "lors": {"scaling": 0.15}}
TUNED = "small"  # the Whisper that is tuned
SPEECH = ("asterisk:es", "asterisk:fr", "stamps:ru", "stamps:ca", "asterisk:it")  # of the experts
LIMIT = 4 * 2**30 / 1e9  # GB


def merging(methods: list[str], size: str, work: Path) -> Iterator[tuple[dict, str]]:
    """Yield a line a method, and the size of what is merged."""
    folders = whispers.make(work, size, 5, torch.float16)
    for method in methods:
        job = {"ours": method, "options": METHODS[method], "folders": list(map(str, folders))}
        (work / "job.json").write_text(json.dumps(job | {"output": str(work / "merged")}))
        yield _measured(f"{method}, fp16 on disk", [HERE / "ours.py", work / "job.json"], work), size
        shutil.rmtree(work / "merged")


def tuning(work: Path) -> Iterator[tuple[dict, str]]:
    """Yield the line of a tuning, and the size of what is tuned; its budget is in evaluations, so no time is told."""
    base = models.base_model(f"whisper-{TUNED}")
    command = ["-m", "speechmerge", "tune", work / "tuned", "--base", base, "--evaluations", "12", "--clips", "16"]
    for seed, speech in enumerate(SPEECH):
        command += ["--expert", _moved(base, work / f"moved{seed}", seed), speech]
    line = _measured("tune, five experts", command, work)
    line.pop("ours_s")
    yield line, TUNED


def _moved(base: Path, folder: Path, seed: int) -> Path:
    """Write an expert: the base with noise on its matrices."""
    shutil.copytree(base, folder)
    state, generator = load_file(base / "model.safetensors"), torch.Generator().manual_seed(seed)
    for name, tensor in state.items():
        if tensor.ndim > 1 and name != whispers.SINUSOID:
            state[name] = tensor + whispers.UPDATE * tensor.std() * torch.randn(tensor.shape, generator=generator)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _measured(name: str, command: list, work: Path) -> dict:
    found = run([sys.executable, *command], work / "log")
    return {
        "method": name, "peer": "none", "ours_s": found.seconds, "ours_cpu_s": found.processor,
        "ours_gb": found.memory, "limit_gb": LIMIT,
    }  # fmt: skip


def main() -> int:
    """Merge with each method, or tune; the status is 1 if a process held more than the limit."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--method", action="append", choices=[*METHODS, "tune"], help="only this; may be repeated")
    options.add_argument("--scale", default="large-v3", choices=whispers.SIZES, help="shape of the merged models")
    chosen = options.parse_args()
    wanted, above = chosen.method or [*METHODS, "tune"], 0
    merges = [method for method in wanted if method in METHODS]
    with tempfile.TemporaryDirectory() as name:
        merged = merging(merges, chosen.scale, Path(name)) if merges else ()
        tuned = tuning(Path(name)) if "tune" in wanted else ()
        for line, size in itertools.chain(merged, tuned):
            show(line)
            keep(line, size)
            above |= line["ours_gb"] > LIMIT
    return above


if __name__ == "__main__":
    sys.exit(main())
