"""Ten merges of the same models at once, against one of them and against ten processes: ``python bench/together.py``.

Whole processes, one after the other; of several runs the medians are kept in ``results/bench/together``.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import whispers
from measure import Measured, run

from speechbook.study import store
from speechmerge import machine

HERE = Path(__file__).parent
SWEPT = [round(0.1 * i, 1) for i in range(1, 11)]
LISTS = {  # what ten merges are; each as the library's method with its options
    "task arithmetic at ten λ": [{"method": "task_arithmetic", "scaling": scaling} for scaling in SWEPT],
    "TIES at ten λ": [{"method": "ties", "scaling": scaling} for scaling in SWEPT],
    "ten methods": [
        {"method": "weight_average"},
        {"method": "task_arithmetic", "scaling": 0.3},
        {"method": "ties", "density": 0.1},
        {"method": "ties", "density": 0.2},
        {"method": "dare", "density": 0.1, "scaling": 0.3},
        {"method": "dare", "density": 0.5, "scaling": 0.3},
        {"method": "della", "density": 0.5, "scaling": 0.3},
        {"method": "breadcrumbs", "density": 0.6, "scaling": 0.3},
        {"method": "sce", "density": 0.1},
        {"method": "magmax", "scaling": 0.3},
    ],
}


def measured(merges: list[dict], folders: list[Path], work: Path) -> Measured:
    """Make merges in one process, each into its folder."""
    job = {"folders": list(map(str, folders)), "merges": merges, "output": str(work / "made")}
    (work / "job.json").write_text(json.dumps(job))
    try:
        return run([sys.executable, HERE / "ours.py", work / "job.json"], work / "log")
    finally:
        shutil.rmtree(work / "made", ignore_errors=True)


def compare(name: str, merges: list[dict], folders: list[Path], runs: int, work: Path) -> dict[str, Any]:
    """Return medians of seconds and GB: all at once, the first alone, and each alone, one after the other."""
    found: dict[str, list[tuple[float, float, float]]] = {"together": [], "first": [], "apart": []}
    for _ in range(runs):
        alone = [measured([one], folders, work) for one in merges]
        for kind, several in (("together", [measured(merges, folders, work)]), ("first", alone[:1]), ("apart", alone)):
            times = sum(x.seconds for x in several), sum(x.processor for x in several)
            found[kind].append((*times, max(x.memory for x in several)))
    line: dict[str, Any] = {"merges": name, "count": len(merges)}
    for kind, several in found.items():
        for unit, values in zip(("s", "cpu_s", "gb"), zip(*several, strict=True), strict=True):
            line[f"{kind}_{unit}"] = statistics.median(values)
    for kind in ("first", "apart"):
        line |= {f"ratio {unit} / {kind}": line[f"together_{unit}"] / line[f"{kind}_{unit}"] for unit in ("s", "cpu_s")}
    return line


def main() -> None:
    """Read the options, make the models, compare, keep."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--scale", default="small", choices=whispers.SIZES, help="shape of the models")
    options.add_argument("--merges", action="append", choices=LISTS, help="only this list; may be repeated")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--folder", type=Path, help="where models are made, and kept for the next time")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = whispers.kept(chosen.folder or Path(temporary), chosen.scale)
        for name in chosen.merges or LISTS:
            line = compare(name, LISTS[name], folders, chosen.runs, Path(temporary))
            ratios = f"{line['ratio s / first']:.2f} of the first alone, {line['ratio s / apart']:.2f} of each alone"
            print(f"{name:26s} {line['together_s']:.1f} s: {ratios}", flush=True)
            told = {"runs": chosen.runs, "size": chosen.scale, "threads": torch.get_num_threads(), **machine.stamp()}
            identity = ("merges", "size", "hardware")
            store.write_statistics("bench", "together", [line | told], identity=identity)


if __name__ == "__main__":
    main()
