"""Models that are merged while they listen, beside one fixed merge: ``python bench/listening.py EXPERT=SPEECH …``.

``experts/es=asterisk:es,stamps:es``: a model and the speech it was fine-tuned on. Every system decodes the same test
clips of all languages, mixed and in batches of 16, as a process of its own. ``results/bench/listening`` keeps medians,
and the share that a clip's own expert had in what decoded it.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import run

from speechbook.study import experiments, store
from speechmerge import machine

HERE = Path(__file__).parent
FIXED = "one fixed merge"


def systems() -> dict[str, dict[str, Any]]:
    """Return what decodes: one merge, and all that listen in the study's experiment on them."""
    entries = experiments.experiments()["dynamic"].systems
    listening = {one.system: {"method": one.method, "dynamic": one.dynamic} for one in entries if one.dynamic}
    return {FIXED: {"method": "task_arithmetic"}} | listening


def measured(job: dict[str, Any], work: Path) -> dict[str, float]:
    """Decode once; return what ``listens.py`` writes, and GB at the peak."""
    (work / "job.json").write_text(json.dumps(job))
    whole = run([sys.executable, HERE / "listens.py", work / "job.json", work / "told.json"], work / "log")
    return json.loads((work / "told.json").read_text()) | {"gb": whole.memory}


def compare(base: str, experts: dict[str, str], clips: int, runs: int, work: Path) -> list[dict[str, Any]]:
    """Return a line a system: medians of what it takes, and how many times of what the fixed merge takes."""
    job = {"base": base, "experts": list(experts), "speech": list(experts.values()), "clips": clips}
    asked = systems()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in asked}
    for _ in range(runs):
        for name, system in asked.items():
            found[name].append(measured(job | system, work))
    lines = [
        {"system": name, "experts": len(experts)} | {key: statistics.median(one[key] for one in own) for key in own[0]}
        for name, own in found.items()
    ]
    for line in lines:
        line |= {f"times {key}": line[key] / lines[0][key] for key in ("seconds", "cpu_seconds", "gb")}
        print("{system:28s} {experts:2d} experts {times seconds:5.2f} of the time, {gb:.2f} GB".format_map(line))
    return lines


def main() -> None:
    """Read the options, decode, keep."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("experts", nargs="+", metavar="EXPERT=SPEECH")
    options.add_argument("--base", default="whisper-tiny")
    options.add_argument("--clips", type=int, default=16, help="test clips of each expert's speech")
    options.add_argument("--runs", type=int, default=1)
    chosen = options.parse_args()
    experts = dict(word.split("=", 1) for word in chosen.experts)
    with tempfile.TemporaryDirectory() as work:
        lines = compare(chosen.base, experts, chosen.clips, chosen.runs, Path(work))
    told = {"base": chosen.base, "clips": chosen.clips, "runs": chosen.runs, **machine.stamp()}
    identity = ("system", "experts", "base", "hardware")
    store.write_statistics("bench", "listening", [line | told for line in lines], identity=identity)


if __name__ == "__main__":
    main()
