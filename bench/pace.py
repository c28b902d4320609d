"""Training, decoding and dev losses of this library, timed against another version of it on real speech.

``python bench/pace.py TAG`` (or the folder of another checkout): rounds with the one and the other take turns, whole
processes; what counts are the medians of the ratios, for a machine's speed changes while it is measured. Windows a
second of training and of dev losses, clips a second of decoding.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from speechmerge import machine

HERE = Path(__file__).parent
Paces = dict[str, list[float]]  # a second of the clock and of the processors, by kind of work


def library(version: str, work: Path) -> Path:
    """Return where the library of a checkout lies, or of a tag or commit, which is written below ``work``."""
    folder = Path(version)
    if not folder.is_dir():
        archive = subprocess.run(
            ["git", "-C", str(HERE.parent), "archive", version, "lib"], stdout=subprocess.PIPE, check=True
        )
        subprocess.run(["tar", "-x", "-C", str(work)], input=archive.stdout, check=True)
        folder = work
    return folder.resolve() / "lib"


def paces(path: Path, words: list[str]) -> Paces:
    """Run one round with the library at ``path``."""
    command = [sys.executable, str(HERE / "paced.py"), *words]
    answer = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(path)}, check=True)
    return json.loads(answer.stdout)


def show(ours: list[Paces], theirs: list[Paces]) -> None:
    """Print a line for each kind of work that both can do."""
    for kind in (kind for kind in ours[0] if kind in theirs[0]):
        both = [list(zip(a[kind], b[kind], strict=True)) for a, b in zip(ours, theirs, strict=True)]
        clock, processors = ([pair[i][0] / pair[i][1] for pair in both] for i in (0, 1))
        here, there = (statistics.median(pair[0][i] for pair in both) for i in (0, 1))
        print(
            f"{kind:9s} {here:6.2f} a second, before {there:6.2f} | ratio {statistics.median(clock):.2f} "
            f"({min(clock):.2f} to {max(clock):.2f}), of processor time {statistics.median(processors):.2f}",
            flush=True,
        )


def main() -> None:
    """Read the options, take turns, print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("against", help="tag, commit or folder of the other version")
    options.add_argument("--base", default="whisper-tiny")
    options.add_argument("--corpus", default="asterisk")
    options.add_argument("--language", default="es")
    options.add_argument("--minutes", default="3", help="of speech to train on")
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    words = [chosen.base, chosen.corpus, chosen.language, chosen.minutes]
    print(f"{machine.hardware()}; {chosen.base}, {chosen.corpus} {chosen.language}", flush=True)
    with tempfile.TemporaryDirectory() as work:
        other = library(chosen.against, Path(work))
        rounds = [(paces(HERE.parent / "lib", words), paces(other, words)) for _ in range(chosen.rounds)]
    show([ours for ours, _ in rounds], [theirs for _, theirs in rounds])


if __name__ == "__main__":
    main()
