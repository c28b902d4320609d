"""What every test shares: one thread, no network, a cache of its own, and made-up results to render.

The environment is set before torch and the hub's client are imported, for both read it once.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JUPYTER_PLATFORM_DIRS"] = "1"

import shutil
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up import (
    made_up_changes,
    made_up_choices,
    made_up_comparisons,
    made_up_directions,
    made_up_groups,
    made_up_measures,
    made_up_predictions,
    made_up_rows,
    made_up_task_vectors,
)

from speechbook.study import experiments, fusion_planning, protocol, store, study
from speechmerge import devices
from speechmerge.audio import SAMPLE_RATE, encode_flac
from speechmerge.corpora import Clip

torch.set_num_threads(1)

LOCAL = {"127.0.0.1", "::1", "localhost"}


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Nothing is read from or left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHMERGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_collecting():
    """Between small pieces of work the search for garbage takes a third of the time, for memory nobody needs here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "gc", SimpleNamespace(collect=lambda: None))
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


@pytest.fixture(scope="session")
def made_up_folder(tmp_path_factory):
    """A results folder for the profiles ``speech`` and ``smoke``, filled with made-up rows and statistics."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("results")
        patch.setenv("SPEECHMERGE_RESULTS", str(folder))
        for profile in ("speech", "smoke"):
            for name, described in experiments.experiments().items():
                if described.kind == "systems":
                    plan = experiments.plan(name, profile)
                    store.append_rows(profile, made_up_rows(plan))
                    store.write_statistics(profile, f"{name}.paired", made_up_comparisons(plan))
                    if changes := made_up_changes(plan):
                        store.write_statistics(profile, f"{name}.by_language", changes)
                    store.write_statistics(profile, f"{name}.chosen", made_up_choices(plan))
                    if protocol.governs(plan.settings):
                        for kind, lines in zip(("measures", "comparisons"), made_up_measures(plan), strict=True):
                            store.write_statistics(profile, f"{name}.{kind}", lines)
                    if groups := made_up_groups(plan):
                        store.write_statistics(profile, f"{name}.groups", groups)
                    if described.describe:
                        store.write_statistics(profile, name, made_up_directions(plan))
            if profile == "smoke":  # whose clips are made on the spot
                for name in ("table1", "dynamic_languages"):
                    store.keep_predictions(profile, name, made_up_predictions(experiments.plan(name, profile)))
            store.write_statistics(profile, "task_vectors", made_up_task_vectors(profile))
        patch.setenv("SPEECHMERGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in fusion_planning.runnable("fusion-smoke"):  # which take a second or two each
            study.run(fusion_planning.plan(name, "fusion-smoke"))
        shutil.copytree(store.project_root() / "results" / "bench", folder / "bench")
    return folder


@pytest.fixture
def made_up_results(made_up_folder, monkeypatch):
    """Results are read from the folder of made-up ones, in this test alone."""
    monkeypatch.setenv("SPEECHMERGE_RESULTS", str(made_up_folder))
    return made_up_folder


@pytest.fixture(scope="session")
def make_clip():
    """A factory of clips; only packing and decoding listen to what is in them, and they hear a soft tone."""

    def make(name: str, text: str = "hola mundo", *, seconds: float = 1.0, **fields) -> Clip:
        samples = 0.1 * np.sin(np.arange(round(seconds * SAMPLE_RATE)) * (0.1 + 0.01 * (len(name) % 7)))
        known = {"translation": None, "language": "es", "domain": "made", "speaker": "nobody", "split": "test"}
        known |= {"source": "made", "licence": "CC0-1.0", "flac": encode_flac(samples.astype(np.float32))}
        return Clip(id=name, text=text, seconds=seconds, **known | fields)

    return make
