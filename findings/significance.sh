#!/usr/bin/env bash
# sacrebleu 2.6.0's paired tests call systems different that are not, where they differ in no sentence or in few.
# Seen 2026-12-01 with sacrebleu 2.6.0 on Python 3.11. Both tests count only draws whose difference is *larger* than the
# one measured. A test by exchanging labels has to count those as large as it too, and the measured one is one of them:
#   1. A system against a copy of itself: p = 1 / (draws + 1), the smallest there is, by the bootstrap as by approximate
#      randomisation, in BLEU, chrF and TER. The right answer is 1.
#   2. Two systems that differ in one sentence of a hundred: approximate randomisation gives the same smallest p.
#      However labels are exchanged, the difference has the same size, so the right answer is 1 again.
#   3. Two systems that differ in four sentences, by one word each, all in favour of one: of the sixteen ways to
#      exchange labels two give a difference as large, so the right answer is 2/16 = 0.125; it gives the smallest p.
#
# Two merged models that write nearly the same of a small test set are such systems.
# Exits with 1 if any of this has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check sacrebleu==2.6.0 2> "$work/pip.log" ||
  { cat "$work/pip.log"; exit 1; }
"$work/venv/bin/python" - <<'PYTHON'
import itertools
import random
import sys

import sacrebleu
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest

DRAWS = 1000
SMALLEST = 1 / (DRAWS + 1)
print(f"Python {sys.version.split()[0]}, sacrebleu {sacrebleu.__version__}; the smallest p is {SMALLEST:.4f}")

rng = random.Random(0)
words = "one two three four five six seven eight nine ten".split()
references = [" ".join(rng.choices(words, k=8)) for _ in range(100)]
first = [text.replace("seven", "eleven") for text in references]


def p_value(second, metric, kind):
    """Return what sacrebleu says of two systems."""
    systems, name = [("first", first), ("second", second)], type(metric).__name__
    _, found = PairedTest(systems, {name: metric}, references=None, test_type=kind, n_samples=DRAWS)()
    [scores] = [scores for title, scores in found.items() if title != "System"]
    return scores[1].p_value


def exact(second):
    """Return the p of the difference in TER over all ways to exchange the labels of the sentences that differ."""
    score = TER(references=[references])
    places = [i for i, (a, b) in enumerate(zip(first, second)) if a != b]

    def difference(exchanged):
        sides = (list(first), list(second))
        for place in exchanged:
            sides[0][place], sides[1][place] = sides[1][place], sides[0][place]
        return abs(score.corpus_score(sides[0], None).score - score.corpus_score(sides[1], None).score)

    ways = [chosen for n in range(len(places) + 1) for chosen in itertools.combinations(places, n)]
    return sum(difference(way) >= difference(()) - 1e-9 for way in ways) / len(ways)


def spoilt(many):
    """Return the first system with one word more wrong in so many sentences."""
    return ["zero " + text.partition(" ")[2] if i < many else text for i, text in enumerate(first)]


cases = [(0, "bs", metric) for metric in (BLEU, CHRF, TER)] + [(n, "ar", TER) for n in (0, 1, 4)]
cases += [(0, "ar", metric) for metric in (BLEU, CHRF)]
names = {"bs": "bootstrap", "ar": "approximate randomisation"}
changed = False
for many, kind, metric in cases:
    found, right = p_value(spoilt(many), metric(references=[references]), kind), exact(spoilt(many))
    changed |= abs(found - SMALLEST) > 1e-9 or right < 0.1
    print(f"{metric.__name__}, {names[kind]}, sentences that differ {many}: p = {found:.4f}; counted out: {right:.4f}")
sys.exit(changed)
PYTHON
