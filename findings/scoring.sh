#!/usr/bin/env bash
# Whisper's text normalisers, as transformers 5.23.0 ships them, count what is no word and cut words that are whole.
# Seen 2026-11-29 with transformers 5.23.0 on Python 3.11.
#   1. EnglishTextNormalizer leaves points that then count as words: "." of three points at the end of a text, ".." of the
#      ellipsis U+2026 there, "." of an ellipsis within a text. "Hello" against "Hello…" is one error in one word, and
#      "five hundred…" is no longer read as 500.
#   2. BasicTextNormalizer puts a space in the place of every combining mark that does not compose. The Turkish capital İ,
#      which lower case writes as i and a mark, cuts its word, and so does a Russian stress mark. Hindi words fall into
#      consonants: two words that differ in their vowels compare as equal.
# Exits with 1 if any of this has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 2> "$work/pip.log" ||
  { cat "$work/pip.log"; exit 1; }
"$work/venv/bin/python" - <<'PYTHON'
import sys

import transformers
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

print(f"Python {sys.version.split()[0]}, transformers {transformers.__version__}")
english, basic = EnglishTextNormalizer({}), BasicTextNormalizer()
seen = [
    (english, "Hello.", "hello"),
    (english, "Hello...", "hello ."),
    (english, "Hello…", "hello .."),
    (english, "Hold… the line", "hold . the line"),
    (english, "five hundred", "500"),
    (english, "five hundred…", "5 hundred .."),
    (basic, "istanbul", "istanbul"),
    (basic, "İstanbul", "i stanbul"),
    (basic, "за\u0301мок", "за мок"),
    (basic, "मेरा", "म र"),
    (basic, "मोरा", "म र"),
]
changed = False
for normaliser, text, expected in seen:
    found = " ".join(normaliser(text).split())
    changed |= found != expected
    print(f"{type(normaliser).__name__}: {text!r} -> {found!r}" + (f", was {expected!r}" if found != expected else ""))
sys.exit(changed)
PYTHON
