"""Peak memory of merging five experts of whisper-large-v3's shape, fp16 on disk: ``python bench/memory.py``.

Needs 20 GB of disk for random models, which are removed afterwards. The limit is 4 GiB.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import whispers
from measure import run
from run import HERE, keep, show

METHODS = {"task_arithmetic": {"scaling": 0.3}, "ties": {"density": 0.2}, "lors": {"scaling": 0.15}}
LIMIT = 4 * 2**30 / 1e9  # GB


def main() -> int:
    """Merge with each method; the status is 1 if one of them held more than the limit."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--method", action="append", choices=METHODS, help="only this one; may be repeated")
    options.add_argument("--scale", default="large-v3", choices=whispers.SIZES, help="shape of the models")
    chosen = options.parse_args()
    above = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folders = whispers.make(work, chosen.scale, 5, torch.float16)
        for method in chosen.method or METHODS:
            job = {"ours": method, "options": METHODS[method], "folders": list(map(str, folders))}
            (work / "job.json").write_text(json.dumps(job | {"output": str(work / "merged")}))
            found = run([sys.executable, HERE / "ours.py", work / "job.json"], work / "log")
            shutil.rmtree(work / "merged")
            line = {"method": f"{method}, fp16 on disk", "peer": "none", "ours_s": found.seconds}
            line |= {"ours_cpu_s": found.processor, "ours_gb": found.memory, "limit_gb": LIMIT}
            show(line)
            keep(line, chosen.scale)
            above |= found.memory > LIMIT
    return above


if __name__ == "__main__":
    sys.exit(main())
