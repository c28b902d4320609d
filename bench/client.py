"""One client that transcribes clips; runs in the clients' own environment and knows nothing of the library.

The settings are the same for all: greedy, temperature 0 and no other, no timestamps, no earlier text, the language
given, one window of 30 s, OpenAI's list of tokens that are no speech.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

LONGEST = 224  # tokens
WINDOW = 30 * 16_000


def faster_whisper(model: str, precision: str):
    from faster_whisper import WhisperModel

    whisper = WhisperModel(model, device="cpu", compute_type=precision, cpu_threads=1)
    plain = {"task": "transcribe", "beam_size": 1, "temperature": 0.0, "without_timestamps": True, "vad_filter": False}
    plain |= {"condition_on_previous_text": False, "no_speech_threshold": None, "log_prob_threshold": None}
    plain |= {"compression_ratio_threshold": None}  # max_new_tokens would allow half as many; without it there are 224

    def transcribe(samples, language):
        return "".join(s.text for s in whisper.transcribe(samples, language=language, **plain)[0])

    def words(samples, language):
        segments, _ = whisper.transcribe(samples, language=language, word_timestamps=True, **plain)
        return [(w.word, float(w.start), float(w.end)) for s in segments for w in s.words or ()]

    return transcribe, words


def whisper_cpp(model: str, precision: str):
    from pywhispercpp.model import Model

    plain = {"no_context": True, "no_timestamps": True, "single_segment": True, "temperature": 0.0}
    plain |= {"temperature_inc": 0.0, "greedy": {"best_of": 1}, "suppress_nst": True, "suppress_blank": True}
    plain |= {"no_speech_thold": 1.0, "logprob_thold": -1e9, "entropy_thold": -1e9, "print_progress": False}
    plain |= {"n_threads": 1, "max_tokens": LONGEST}
    fast = {"context_params": {"flash_attn": precision == "flash"}}
    whisper = Model(model, redirect_whispercpp_logs_to=None, **fast, **plain)

    def transcribe(samples, language):
        return "".join(segment.text for segment in whisper.transcribe(samples, language=language))

    return transcribe, None


def openai(model: str, precision: str):
    import torch
    import whisper

    torch.set_num_threads(1)
    loaded = whisper.load_model(model, device="cpu")
    loaded.set_alignment_heads(torch.load(model, weights_only=True)["alignment_heads"])

    def transcribe(samples, language):
        frames = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples), loaded.dims.n_mels)
        options = whisper.DecodingOptions(language=language, without_timestamps=True, fp16=False, sample_len=LONGEST)
        return whisper.decode(loaded, frames, options).text

    def words(samples, language):
        plain = {"without_timestamps": True, "fp16": False, "temperature": 0.0, "condition_on_previous_text": False}
        found = loaded.transcribe(samples, language=language, word_timestamps=True, **plain)
        return [(w["word"], float(w["start"]), float(w["end"])) for s in found["segments"] for w in s["words"]]

    return transcribe, words


CLIENTS = {
    "faster-whisper": (faster_whisper, ("faster-whisper", "ctranslate2")),
    "whisper.cpp": (whisper_cpp, ("pywhispercpp",)),
    "openai-whisper": (openai, ("openai-whisper", "torch")),
}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    make, packages = CLIENTS[job["client"]]
    clips = np.load(job["clips"])
    transcribe, words = make(job["model"], job["precision"])
    seconds, found = 0.0, {}
    for name, language in job["languages"].items():
        samples = clips[name]
        if job["padded"]:
            samples = np.pad(samples, (0, WINDOW - len(samples)))
        started = time.perf_counter()
        text = transcribe(samples, language)
        seconds += time.perf_counter() - started
        found[name] = {"text": text.strip(), "words": words(samples, language) if name in job["words"] else []}
    told = {"seconds": seconds, "versions": {name: version(name) for name in packages}}
    Path(job["output"]).write_text(json.dumps(told | {"clips": found}))


if __name__ == "__main__":
    main()
