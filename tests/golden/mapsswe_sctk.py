"""Make mapsswe_sctk.json: made-up transcripts of two systems, and what NIST's own programs find in them.

Needs ``sclite`` and ``sc_stats`` of Debian's package sctk, 2.4.10-20151007-1312Z+dfsg2-3.1; both call it 1.3. Texts are
such that sclite's alignment and jiwer's put the same errors at the same words.

``python tests/golden/mapsswe_sctk.py /usr/lib/sctk/bin``
"""

import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RATES = {"close": (0.08, 0.09), "apart": (0.05, 0.15), "poor": (0.5, 0.55)}  # errors a word of the two systems


def misheard(words, rate, rng):
    """Substitute, delete or insert words."""
    said = []
    for word in words:
        kind = rng.choice("sdi") if rng.random() < rate else "c"
        said += {"c": [word], "s": [f"x{rng.randrange(99)}"], "d": [], "i": [word, f"y{rng.randrange(99)}"]}[kind]
    return " ".join(said)


def sc_stats(folder, texts, first, second):
    """Segments, mean, deviation and z as NIST's programs print them."""
    with tempfile.TemporaryDirectory() as at:
        for name, lines in texts.items():
            Path(at, name).write_text("".join(f"{line} (s-{i})\n" for i, line in enumerate(lines)))
        systems = [part for name in (first, second) for part in ("-h", name, "trn", name)]
        command = [f"{folder}/sclite", "-i", "wsj", "-r", "reference", "trn", *systems, "-o", "sgml", "stdout"]
        aligned = subprocess.run(command, cwd=at, capture_output=True, text=True, check=True).stdout
        command = [f"{folder}/sc_stats", "-p", "-t", "mapsswe", "-v", "-n", "-"]
        said = subprocess.run(command, cwd=at, input=aligned, capture_output=True, text=True, check=True).stdout
    line = re.search(r"# segs: (\d+).*mean: (\S+)\).*std dev: (\S+)\).*Z Stat: (\S+)\)", said)
    return dict(zip(("segments", "mean", "deviation", "z"), map(float, line.groups()), strict=True))


def main(folder):
    """Write one case for each pair of error rates."""
    rng, cases = random.Random(7), {}
    for name, rates in RATES.items():
        references = [[f"w{rng.randrange(300)}" for _ in range(rng.randrange(2, 15))] for _ in range(60)]
        texts = {"reference": [" ".join(words) for words in references]}
        texts |= {
            system: [misheard(words, rate, rng) for words in references]
            for system, rate in zip(("first", "second"), rates, strict=True)
        }
        cases[name] = texts | {"sc_stats": sc_stats(folder, texts, "first", "second")}
    made = {"by": "Debian sctk 2.4.10-20151007-1312Z+dfsg2-3.1, sclite 2.10, sc_stats 1.3", "cases": cases}
    Path(__file__).with_suffix(".json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
