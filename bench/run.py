"""Merging, timed against mergekit, FusionBench, plain SVDs and the machine's own reading and writing: ``make bench``.

Every line is one comparison made in one go, whole processes one after the other; what counts are its ratios. Lines are
printed and kept in ``results/bench/``, where a line measured again on the same machine takes the place of the old one.
All of it takes over an hour, 10 GB of disk and 16 GB of memory, nearly all of it the peers'.
"""

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import peers
import plain
import torch
import whispers
from measure import FailedError, Measured, run
from safetensors.torch import save_file
from shared import MERGEKIT, PAIRS, Pair

from speechbook.study import store
from speechmerge import machine
from speechmerge.errors import SpeechMergeError
from speechmerge.merging import calibration
from speechmerge.merging.validation import check_memory
from speechmerge.whisper.checkpoints import open_checkpoint
from speechmerge.whisper.parameter_classes import MATRIX, classify

HERE = Path(__file__).parent


def compare(pair: Pair, folders: list[Path], work: Path, missing: dict[str, str]) -> dict[str, Any]:
    """Merge with the library, with the peer in memory and by its command; return the line of the table."""
    line: dict[str, Any] = {"method": pair.name, "peer": pair.peer}
    used = folders[: pair.experts + 1]
    floor = run([sys.executable, HERE / "floor.py", work / "floor.safetensors", *map(_weights, used)], work / "log")
    (work / "floor.safetensors").unlink()
    job = pair.job(folders, work / "ours")
    if pair.name == "regmean":
        try:
            job["grams"] = _grams(used, work)
        except SpeechMergeError as error:
            return line | {"note": f"not run here: {error}"}
    ours = _told(job, [sys.executable, HERE / "ours.py"], work)
    line |= _said("floor", floor) | _said("ours", ours)
    if pair.peer in missing:
        return line | {"note": f"not run here: {missing[pair.peer]}"}
    try:
        (work / "theirs").mkdir()
        theirs = _told(job | {"output": str(_weights(work / "theirs"))}, peers.in_memory(), work)
        line |= _said("peer", theirs)
        if pair.same:
            line["difference"] = difference(work / "ours", work / "theirs", used[0])
        shutil.rmtree(work / "theirs")
        if pair.peer == MERGEKIT:
            command = peers.command_line(job | {"output": str(work / "theirs")}, work / "merge.yaml")
            line |= _said("command", run(command, work / "log"))
    except FailedError as error:
        line["note"] = f"not run here: {error}"
    for place in ("ours", "theirs"):
        shutil.rmtree(work / place, ignore_errors=True)
    return line


def _weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def _told(job: dict[str, Any], program: list, work: Path) -> Measured:
    """Run a program that reads its job from a file."""
    (work / "job.json").write_text(json.dumps(job))
    return run([*program, work / "job.json"], work / "log")


def _said(who: str, found: Measured) -> dict[str, float]:
    return {f"{who}_s": found.seconds, f"{who}_cpu_s": found.processor, f"{who}_gb": found.memory}


def _grams(folders: list[Path], work: Path) -> list[str]:
    """Write random Gram matrices of every linear map's inputs, one folder an expert, as the library keeps them."""
    base, places = open_checkpoint(folders[0]), []
    widths = [shape[1] for name, shape in base.shapes.items() if classify(name, shape) == MATRIX]
    check_memory(4 * (len(folders) - 1) * sum(width**2 for width in widths) + 2 * len(folders) * base.bytes())
    for i in range(len(folders) - 1):
        generator, grams = torch.Generator().manual_seed(i), {}
        for name, shape in base.shapes.items():
            if classify(name, shape) == MATRIX:
                inputs = torch.randn(2 * shape[1], shape[1], generator=generator)
                grams[name.removesuffix(".weight")] = inputs.T @ inputs / len(inputs)
        places.append(work / f"grams{i}")
        places[-1].mkdir(exist_ok=True)
        save_file(grams, _weights(places[-1]))
        (places[-1] / calibration.RECORD).write_text(json.dumps({"shared": {}}))
    return [*map(str, places)]


def difference(ours: Path, theirs: Path, base: Path) -> float:
    """Return the largest ‖ours - theirs‖ / ‖theirs - base‖ of any tensor, the fixed sinusoid and the head left out."""
    first, second, start = (open_checkpoint(folder) for folder in (ours, theirs, base))
    found = 0.0
    for name in start.shapes:
        if name != whispers.SINUSOID:
            a, b, origin = (model.read(name).double() for model in (first, second, start))
            found = max(found, ((a - b).norm() / (b - origin).norm()).item())
    return found


def ratios(line: dict[str, Any]) -> dict[str, float]:
    """Return what a line says: time over floor and over the peer, processor seconds and memory likewise."""
    other = [kind for kind in ("peer", "command", "plain") if f"{kind}_cpu_s" in line]
    found = {"time / floor": line["ours_s"] / line["floor_s"]} if "floor_s" in line else {}
    for kind in other:
        for label, unit in (("time", "s"), ("cpu", "cpu_s"), ("memory", "gb")):
            if f"{kind}_{unit}" in line:
                found[f"{label} / {kind}"] = line[f"ours_{unit}"] / line[f"{kind}_{unit}"]
    return found


def show(line: dict[str, Any]) -> None:
    """Print a line: seconds, ratios, difference."""
    times = ", ".join(f"{k[:-2]} {v:.1f} s" for k, v in line.items() if k.endswith("_s") and not k.endswith("cpu_s"))
    parts = [f"memory {line['ours_gb']:.2f} GB"] if "ours_gb" in line else []
    parts += [f"{name} {value:.2f}" for name, value in ratios(line).items()]
    parts += [f"difference {line['difference']:.1e}"] if "difference" in line else []
    print(f"{line['method']:24s} {times} | {', '.join([*parts, line.get('note', '')])}", flush=True)


def keep(line: dict[str, Any], size: str) -> None:
    """Put a line into the committed table, in place of this machine's older one of this method and size."""
    rounded = {k: round(v, 9 if k == "difference" else 3) if isinstance(v, float) else v for k, v in line.items()}
    rounded |= {f"ratio {k}": round(v, 3) for k, v in ratios(line).items()}
    rounded |= {"size": size, "threads": torch.get_num_threads(), **machine.stamp()}
    store.write_statistics("bench", "timings", [rounded], identity=("method", "size", "hardware"))


def main() -> None:
    """Read the options, make the models, compare."""
    names = [pair.name for pair in PAIRS] + ["plain"]
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--method", action="append", choices=names, help="only this one; may be repeated")
    options.add_argument("--scale", default="small", choices=whispers.SIZES, help="shape of the models")
    options.add_argument("--folder", type=Path, help="where models are made, and kept for the next time")
    chosen = options.parse_args()
    wanted = chosen.method or names
    missing = peers.install()
    print(f"{machine.hardware()}; whisper-{chosen.scale}, 5 experts, fp32", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folders = whispers.kept(chosen.folder or Path(temporary), chosen.scale)
        lines = (compare(pair, folders, Path(temporary), missing) for pair in PAIRS if pair.name in wanted)
        for line in itertools.chain(lines, plain.lines(folders) if "plain" in wanted else ()):
            show(line)
            keep(line, chosen.scale)
    print(store.results_folder("bench"))


if __name__ == "__main__":
    main()
