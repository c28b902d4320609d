"""Converted models in the programs they are for: the same clips through each, beside the library's own decoder.

A model is written as CTranslate2, whisper.cpp and openai/whisper store it, and faster-whisper, whisper.cpp (through
pywhispercpp) and openai-whisper transcribe the same real clips at the same settings. Rows go to
``results/bench/clients``: how many transcripts are identical, the word error rate between them, and, where it is
known, why they differ. The clients have an environment of their own, made on first use.
"""

import argparse
import functools
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import padded_keys

from speechbook.study import store
from speechmerge import corpora, machine
from speechmerge.corpora import Clip
from speechmerge.evaluation.decoding import Decoder
from speechmerge.evaluation.decoding_settings import Decoding
from speechmerge.formats.converting import convert
from speechmerge.whisper import models

VERSIONS = ("faster-whisper==1.2.1", "pywhispercpp==1.5.1", "openai-whisper==20250625", "ctranslate2==4.8.5")
INSIDE = Path(__file__).with_name("client.py")
LANGUAGES = ("es", "fr")
CORPUS = "asterisk"
IDENTITY = ("model", "client", "format", "dtype", "computed", "padded", "hardware")
SHORTEST = 1.0  # seconds of a clip
WORDS = 4  # word times are looked at in one of so many clips


@dataclass(frozen=True)
class Pair:
    """One client with one file; ``padded`` clips have silence up to the window's end."""

    client: str
    to: str
    dtype: str
    precision: str
    padded: bool = False
    words: bool = False
    explanation: str = ""


PADDING = (
    "faster-whisper fills a short clip's log-mel frames up with zeros, which are louder than silence; the same clips "
    "with silence up to 30 s give what the library gives"
)
EIGHT_BITS = "matrices rounded to 8 bits, and what they are multiplied with too"
FLASH = (
    "whisper.cpp's flash attention, on by default, attends to 36 keys of zeros behind the encoder's 1,500 positions; "
    "the library made to do the same gives most of the other transcripts (ours_padded_keys)"
)
PAIRS = (
    Pair("openai-whisper", "openai", "float32", "float32", words=True),
    Pair("openai-whisper", "openai", "float16", "float32"),
    Pair("faster-whisper", "ctranslate2", "float32", "float32", explanation=PADDING),
    Pair("faster-whisper", "ctranslate2", "float32", "float32", padded=True, words=True),
    Pair("faster-whisper", "ctranslate2", "float16", "float32", padded=True),
    Pair("faster-whisper", "ctranslate2", "int8", "int8", padded=True, explanation=EIGHT_BITS),
    Pair("whisper.cpp", "ggml", "float16", "plain"),
    Pair("whisper.cpp", "ggml", "float16", "flash", explanation=FLASH),
)


def python() -> Path:
    """Return the interpreter of the clients' environment."""
    cache = os.environ.get("SPEECHMERGE_CACHE", "~/.cache/speechmerge")
    return Path(cache).expanduser() / "peers" / "clients" / "bin" / "python"


def install() -> None:
    """Make the clients' environment if need be; torch is this environment's."""
    if python().is_file():
        return
    folder = python().parent.parent
    print(f"installing {', '.join(VERSIONS)} into {folder} (some minutes, once)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    torch = f"torch=={importlib.metadata.version('torch').split('+')[0]}"
    pip = [python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *VERSIONS, torch]
    subprocess.run(pip, check=True)


def chosen(count: int) -> list[Clip]:
    """Return so many real test clips, as many of each language, first by id."""
    found = []
    for language in LANGUAGES:
        clips = [clip for clip in corpora.load(CORPUS, language, "test") if clip.seconds >= SHORTEST]
        found += sorted(clips, key=lambda clip: clip.id)[: count // len(LANGUAGES)]
    return found


def _name(clip: Clip) -> str:
    """Name a clip; the same prompt has the same id in every language."""
    return f"{clip.language} {clip.id}"


def ours(folder: Path, clips: list[Clip], decoder: Decoder | None = None) -> tuple[dict[str, str], float]:
    """Transcribe with the library, in float32, one clip at a time as the clients do."""
    decoder = decoder or _decoder(folder)
    started, found = time.perf_counter(), {}
    for language in LANGUAGES:
        own = [clip for clip in clips if clip.language == language]
        found |= {
            _name(clip): one.text
            for clip, one in zip(own, decoder.decode(own, language, "asr", progress=False), strict=True)
        }
    return found, time.perf_counter() - started


def compare(
    pair: Pair, path: Path, folder: Path, clips: list[Clip], wanted: dict[str, str], work: Path
) -> dict[str, Any]:
    """Transcribe with a client and return the row."""
    job = {"client": pair.client, "model": str(path), "precision": pair.precision, "padded": pair.padded}
    timed = clips[::WORDS] if pair.words else []
    job |= {
        "words": [_name(clip) for clip in timed],
        "clips": str(work / "clips.npz"),
        "output": str(work / "told.json"),
    }
    (work / "job.json").write_text(json.dumps(job | {"languages": {_name(clip): clip.language for clip in clips}}))
    told = subprocess.run([python(), INSIDE, work / "job.json"], capture_output=True, text=True)
    row = {"client": pair.client, "format": pair.to, "dtype": pair.dtype, "computed": pair.precision}
    row |= {"padded": pair.padded}
    if told.returncode:
        return row | {"note": f"did not run: {told.stderr.strip().splitlines()[-1]}"}
    found = json.loads((work / "told.json").read_text())
    texts = {name: about["text"] for name, about in found["clips"].items()}
    names = [_name(clip) for clip in clips]
    same = [name for name in names if texts[name] == wanted[name]]
    row |= {"clips": len(names), "identical": len(same), "wer_between": _between(wanted, texts, names)}
    row |= {"seconds": round(found["seconds"], 1), "explanation": pair.explanation, "versions": found["versions"]}
    if pair.dtype == "int8":
        convert(path, work / "dequantised", "hf", overwrite=True)
        rounded, _ = ours(work / "dequantised", clips)
        row["ours_dequantised"] = {
            "identical_to_theirs": sum(texts[name] == rounded[name] for name in names),
            "identical_to_ours": sum(wanted[name] == rounded[name] for name in names),
        }
    if pair.precision == "flash":
        own = [clip for clip in clips if _name(clip) not in same]
        like, _ = ours(folder, own, padded_keys.padded(_new(folder)))
        row["ours_padded_keys"] = {"of": len(own), "identical_to_theirs": sum(texts[n] == like[n] for n in like)}
    if pair.words:
        row["words"] = times(folder, timed, found["clips"])
    row["different"] = [
        {"clip": name, "ours": wanted[name], "theirs": texts[name]} for name in names if name not in same
    ]
    return row


def times(folder: Path, clips: list[Clip], found: dict[str, Any]) -> dict[str, float]:
    """Compare a client's word times with those that transformers reads off the Hugging Face folder.

    Only up to the first word that differs: faster-whisper goes on behind the last word, where there may be silence.
    """
    apart = []
    for clip in clips:
        own, theirs = word_times(folder, clip), found[_name(clip)]["words"]
        pairs = zip(own, theirs, strict=False)
        same = itertools.takewhile(lambda pair: pair[0][0] == pair[1][0].strip(), pairs)
        apart += [abs(a[1] - b[1]) for a, b in same]
    if not apart:
        return {"words": 0}
    return {"words": len(apart), "median_s": round(float(np.median(apart)), 3), "within_0.2_s": within(apart, 0.2)}


def within(apart: list[float], seconds: float) -> float:
    return round(sum(one <= seconds for one in apart) / len(apart), 3)


@functools.cache
def word_times(folder: Path, clip: Clip) -> list[tuple[str, float, float]]:
    """Return a clip's words with start and end, by transformers."""
    decoder = _decoder(folder)
    known = decoder.tokenizer, decoder.model
    frames = decoder.extractor(clip.samples(), sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    out = known[1].generate(
        frames.input_features,
        attention_mask=frames.attention_mask,
        language=clip.language,
        task="transcribe",
        return_token_timestamps=True,
        num_frames=int(clip.seconds * 100),
        logits_processor=decoder.processors,
    )
    output = {"tokens": out["sequences"].numpy(), "token_timestamps": out["token_timestamps"].numpy()}
    _, told = known[0]._decode_asr([output], return_timestamps="word", return_language=False, time_precision=0.02)
    return [(chunk["text"].strip(), *chunk["timestamp"]) for chunk in told["chunks"]]


@functools.cache
def _decoder(folder: Path) -> Decoder:
    return _new(folder)


def _new(folder: Path) -> Decoder:
    return Decoder(folder, Decoding(precision="fp32", tokens_per_second=1e6), batch=1)


def _between(wanted: dict[str, str], texts: dict[str, str], names: list[str]) -> float:
    """Return the word error rate of a client's transcripts, the library's as references."""
    kept = [name for name in names if wanted[name].split()]
    return round(jiwer.wer([wanted[name] for name in kept], [texts[name] for name in kept]), 4)


def main() -> None:
    """Read the options, convert, transcribe, compare, keep."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--model", default="whisper-tiny", help="name or folder")
    options.add_argument("--clips", type=int, default=40)
    options.add_argument("--client", action="append", choices=sorted({pair.client for pair in PAIRS}))
    options.add_argument("--no-keep", action="store_true", help="print only")
    asked = options.parse_args()
    install()
    folder, clips = models.base_model(asked.model), chosen(asked.clips)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        np.savez(work / "clips.npz", **{_name(clip): clip.samples() for clip in clips})
        wanted, seconds = ours(folder, clips)
        print(f"{machine.hardware()}; {asked.model}, {len(clips)} clips, ours {seconds:.1f} s", flush=True)
        for pair in PAIRS:
            if asked.client and pair.client not in asked.client:
                continue
            path = work / f"{pair.to}-{pair.dtype}"
            if not path.exists():
                convert(folder, path, pair.to, dtype=pair.dtype)
            row = compare(pair, path, folder, clips, wanted, work)
            show(row)
            if not asked.no_keep:
                keep(row, asked.model, seconds)


def show(row: dict[str, Any]) -> None:
    """Print a row, and what differs in it."""
    about = f"{row['client']:15s} {row['format']:11s} {row['dtype']:8s} {row['computed']:8s} padded {row['padded']}"
    for key in ("words", "ours_dequantised", "ours_padded_keys"):
        if key in row:
            print(about, key, row[key])
    if "note" in row:
        print(about, row["note"], flush=True)
        return
    print(f"{about}: {row['identical']}/{row['clips']} identical, WER {row['wer_between']:.2%}, {row['seconds']} s")
    for one in row["different"]:
        print(f"    {one['clip']}\n      ours   {one['ours']}\n      theirs {one['theirs']}", flush=True)


def keep(row: dict[str, Any], model: str, seconds: float) -> None:
    """Put a row beside the other benchmarks, in place of an older one of the same."""
    about = {"model": Path(model).name, "corpus": CORPUS, "languages": list(LANGUAGES), "ours_s": round(seconds, 1)}
    store.write_statistics("bench", "clients", [about | row | machine.stamp()], identity=IDENTITY)


if __name__ == "__main__":
    main()
