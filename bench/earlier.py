"""The same merges by this library and by what it was at an earlier commit: ``python bench/earlier.py COMMIT``.

Whole processes, one after the other and in turns; of several runs the medians are kept in ``results/bench/earlier``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import whispers
from measure import Measured, run
from run import difference

from speechbook.study import store
from speechmerge import machine

HERE = Path(__file__).parent
METHODS = ("task_arithmetic", "ties", "sce", "breadcrumbs", "dare", "della", "pcb", "consensus")


def compare(method: str, folders: list[Path], libraries: dict[str, Path], runs: int, work: Path) -> dict[str, Any]:
    """Merge with each library in turns; return medians of seconds, processor seconds and GB, and how results differ."""
    found: dict[str, list[Measured]] = {name: [] for name in libraries}
    for _ in range(runs):
        for name, library in libraries.items():
            job = {"folders": list(map(str, folders)), "ours": method, "options": {}, "output": str(work / name)}
            (work / "job.json").write_text(json.dumps(job))
            command = ["env", f"PYTHONPATH={library}", sys.executable, HERE / "ours.py", work / "job.json"]
            found[name].append(run(command, work / "log"))
    line: dict[str, Any] = {
        "method": method,
        "difference": difference(*(work / name for name in libraries), folders[0]),
    }
    for name, several in found.items():
        for unit, field in (("s", "seconds"), ("cpu_s", "processor"), ("gb", "memory")):
            line[f"{name}_{unit}"] = statistics.median(getattr(one, field) for one in several)
    return line


def main() -> None:
    """Read the options, make the models, check the earlier commit out, compare, keep."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("commit", help="of this repository")
    options.add_argument("--method", action="append", choices=METHODS, help="only this one; may be repeated")
    options.add_argument("--scale", default="small", choices=whispers.SIZES, help="shape of the models")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--folder", type=Path, help="where models are made, and kept for the next time")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folders = whispers.kept(chosen.folder or work, chosen.scale)
        git = ["git", "-C", HERE, "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", work / "then", chosen.commit], check=True)
        try:
            libraries = {"ours": HERE.parent / "lib", "earlier": work / "then" / "lib"}
            for method in chosen.method or METHODS:
                line = compare(method, folders, libraries, chosen.runs, work)
                line |= {
                    f"ratio {unit}": line[f"ours_{unit}"] / line[f"earlier_{unit}"] for unit in ("s", "cpu_s", "gb")
                }
                seconds = f"{line['ours_s']:.1f} s, earlier {line['earlier_s']:.1f} s"
                print(f"{method:20s} {seconds}, ratio {line['ratio s']:.2f}", flush=True)
                told = {"commit": chosen.commit, "runs": chosen.runs, "size": chosen.scale, **machine.stamp()}
                told |= {"threads": torch.get_num_threads()}
                identity = ("method", "commit", "size", "hardware")
                store.write_statistics("bench", "earlier", [line | told], identity=identity)
        finally:
            subprocess.run([*git, "remove", "--force", work / "then"], check=True)


if __name__ == "__main__":
    main()
