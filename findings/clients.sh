#!/usr/bin/env bash
# A short clip and a token limit in faster-whisper: what it pads with, and how many tokens come.
#
# faster-whisper 1.2.1 with ctranslate2 4.8.5, seen on 2026-11-29:
#
# 1. A clip shorter than 30 s is not padded with silence, as openai/whisper does it, but its log-mel frames are filled up
#    with zeros. On their scale silence is far below zero, so that zeros are a steady noise in every band from the clip's
#    end to the window's. Whisper was trained with silence there; the same clip with silence behind it gives that.
#
# 2. transcribe(max_new_tokens=N) gives (N + P) // 2 tokens at the most and not N, with P tokens in the prompt (4, or 2
#    in an English-only model as the one made here): it hands N + P on as max_length, and ctranslate2's Whisper takes no
#    more than half of max_length for the new ones. The transcript ends in the middle of a word, and nothing says so.
#
# Exits 0 if this is what happens, non-zero if the behaviour changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet faster-whisper==1.2.1 ctranslate2==4.8.5
cd "$place"
cat > seen.py <<'PY'
import json, os, sys
from importlib.metadata import version
import numpy as np
from ctranslate2.specs import whisper_spec
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from tokenizers import Tokenizer, models

print("faster-whisper", version("faster-whisper"), "ctranslate2", version("ctranslate2"))

# A random Whisper of one layer.
width, rows = 8, 2000
draw = np.random.default_rng(0)
marks = ["endoftext", "startoftranscript", "en", "translate", "transcribe", "startoflm", "startofprev", "nospeech"]
marks = [f"<|{mark}|>" for mark in [*marks, "notimestamps", "0.00"]]
words = [f"w{i}" for i in range(rows - len(marks))] + marks
shapes = {"conv1": (width, 80, 3), "conv2": (width, width, 3), "embeddings": (rows, width), "projection": (rows, width)}
shapes |= {"ffn/linear_0": (4 * width, width), "ffn/linear_1": (width, 4 * width)}
shapes |= {"self_attention/linear_0": (3 * width, width), "decoder/layer_0/attention/linear_1": (2 * width, width)}


def fill(spec, name, value):
    place, _, kind = name.rpartition("/")
    if value is None or kind in ("bias", "encodings"):
        shape = next((shape for end, shape in shapes.items() if place.endswith(end)), (width, width))
        shape = shape[:1] if kind in ("bias", "gamma", "beta") else shape
        shape = (1500 if "encoder" in place else 448, width) if kind == "encodings" else shape
        setattr(spec, kind, np.ones(shape, "f4") if kind == "gamma" else draw.standard_normal(shape).astype("f4"))


spec = whisper_spec.WhisperSpec(1, 1, 1, 1)
spec._visit(fill)
spec.register_vocabulary(words)
spec.config.suppress_ids, spec.config.lang_ids, spec.config.alignment_heads = [], [words.index("<|en|>")], [(0, 0)]
spec.validate()
spec.optimize()
os.mkdir("model")
spec.save("model")
tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
tokenizer.add_special_tokens(marks)
tokenizer.save("model/tokenizer.json")

whisper = WhisperModel("model", device="cpu", compute_type="float32")
speech = (0.1 * draw.standard_normal(16_000 * 5)).astype("f4")
whole = np.pad(speech, (0, 16_000 * 25))
short, long = (pad_or_trim(whisper.feature_extractor(samples)) for samples in (speech, whole))
print(f"1. frames of 5 s of noise, mean of the first 4 s {short[:, :400].mean():.2f}, then of 10 s to 30 s:")
print(f"1.   as faster-whisper pads it {short[:, 1000:].mean():.2f}, with silence behind it {long[:, 1000:].mean():.2f}")
padded = (short[:, 1000:] == 0).all() and (long[:, 1000:] < -0.3).all()

plain = {"language": "en", "beam_size": 1, "temperature": 0.0, "without_timestamps": True, "no_speech_threshold": None}
plain |= {"suppress_tokens": [words.index("<|endoftext|>")], "condition_on_previous_text": False}
plain |= {"log_prob_threshold": None, "compression_ratio_threshold": None}
counts = {}
for limit in (10, 40, 100):
    segments, _ = whisper.transcribe(whole, max_new_tokens=limit, **plain)
    counts[limit] = sum(len(segment.tokens) for segment in segments)
print("2. max_new_tokens and the tokens that came:", counts)
sys.exit(0 if padded and counts == {limit: (limit + 2) // 2 for limit in counts} else 1)
PY
"$place/env/bin/python" -W ignore seen.py
