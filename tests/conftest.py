"""What every test shares: one thread, no network, a cache of its own, and made-up results to render.

The environment is set before torch and the hub's client are imported, for both read it once.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JUPYTER_PLATFORM_DIRS"] = "1"

import itertools
import socket

import numpy as np
import pytest
import torch

from speechmerge import experiments, store
from speechmerge.audio import SAMPLE_RATE, encode_flac
from speechmerge.corpora import Clip

torch.set_num_threads(1)

METHODS = {"base": "none", "expert": "fine-tuning", "joint": "joint training"}
LOCAL = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Nothing is read from or left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHMERGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_network():
    """A test that reaches for another machine fails at once instead of hanging or passing by luck."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
            raise AssertionError(f"a test tried to reach {address[0]}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


def made_up_rows(profile: str, experiment: str = "table1") -> list[dict]:
    """Rows of every system and language of an experiment, with values that only tests may show."""
    settings = experiments.profiles()[profile]
    described = experiments.experiments()[experiment]
    languages = [*settings["sets"][described["languages"]], "pooled", "macro"]
    rows = []
    for number, (entry, language) in enumerate(itertools.product(described["systems"], languages)):
        wer = 0.3 + 0.002 * (number * 37 % 100)
        row = dict.fromkeys(store.ROW_FIELDS)
        row |= {"experiment": experiment, "profile": profile, "system": entry["system"], "language": language}
        row |= {"method": entry.get("method") or METHODS[entry["model"]], "base": settings["base"], "task": "asr"}
        row |= {"split": "test", "wer": wer, "ci_low": wer - 0.02, "ci_high": wer + 0.03, "seed": 0, "params": {}}
        row |= {"n_utterances": 20, "n_reference_words": 90, "runaway": 1, "library": "0.0.0", "date": "2001-01-01"}
        row |= {"hardware": "made up for tests", "experts": [], "training": {}, "seconds": 1.0}
        rows.append(row)
    return rows


def made_up_comparisons(experiment: str) -> list[dict]:
    """Paired differences of every system from those the experiment names: one lower, one higher, the others unclear."""
    described = experiments.experiments()[experiment]
    names = [entry["system"] for entry in described["systems"]]
    rows = []
    for against in described["against"]:
        for number, system in enumerate(name for name in names if name != against):
            difference = (-0.03, 0.03, 0.001)[min(number, 2)]
            interval = {"ci_low": difference - 0.02, "ci_high": difference + 0.02, "p_value": 0.0002 * (1 + number)}
            rows.append({"system": system, "against": against, "seed": 0, "difference": difference} | interval)
    return rows


def made_up_task_vectors(profile: str) -> list[dict]:
    """Statistics of random updates of a network of Whisper's tensor names, 32 wide."""
    from speechmerge import task_vectors

    generator = torch.Generator().manual_seed(0)
    shapes = {}
    for stack, layer in itertools.product(("encoder", "decoder"), range(2)):
        place = f"model.{stack}.layers.{layer}"
        attention = ["self_attn", "encoder_attn"] if stack == "decoder" else ["self_attn"]
        shapes |= {f"{place}.{block}.{part}_proj.weight": (32, 32) for block in attention for part in "qkv"}
        shapes |= {f"{place}.fc1.weight": (64, 32), f"{place}.fc2.weight": (32, 64), f"{place}.fc1.bias": (64,)}
    base = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    languages = experiments.profiles()[profile]["sets"]["set1"]
    experts = {
        language: {name: w + 1e-3 * torch.randn(w.shape, generator=generator) for name, w in base.items()}
        for language in languages
    }
    return task_vectors.describe(base, experts)


@pytest.fixture(scope="session")
def made_up_results(tmp_path_factory):
    """A results folder for the profiles ``speech`` and ``smoke``, filled with made-up rows and statistics."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("results")
        patch.setenv("SPEECHMERGE_RESULTS", str(folder))
        for profile in ("speech", "smoke"):
            for name in ("table1", "decoding"):
                store.append_rows(profile, made_up_rows(profile, name))
                store.write_statistics(profile, f"{name}.paired", made_up_comparisons(name))
            store.write_statistics(profile, "task_vectors", made_up_task_vectors(profile))
        yield folder


@pytest.fixture(scope="session")
def make_clip():
    """A factory of clips; only packing and decoding listen to what is in them, and they hear a soft tone."""

    def make(name: str, text: str = "hola mundo", *, seconds: float = 1.0, **fields) -> Clip:
        samples = 0.1 * np.sin(np.arange(round(seconds * SAMPLE_RATE)) * (0.1 + 0.01 * (len(name) % 7)))
        known = {"translation": None, "language": "es", "domain": "made", "speaker": "nobody", "split": "test"}
        known |= {"source": "made", "licence": "CC0-1.0", "flac": encode_flac(samples.astype(np.float32))}
        return Clip(id=name, text=text, seconds=seconds, **known | fields)

    return make
