"""Frozen upstreams: known by name, or any Hugging Face speech encoder; each gives the hidden states of a clip.

Nothing of an upstream is ever trained. A name may be followed by ``#2`` to use one model twice in a set, which shows
what width alone brings.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..audio import SAMPLE_RATE, WINDOW_SECONDS
from ..errors import SourceError, nearest
from ..whisper.checkpoints import fingerprint

FRAME = 320  # samples of a frame of the 50 Hz grid
WINDOWS = ("full", "clip")  # what Whisper's encoder hears: 30 s, or the clip and a second of silence


class Upstream(Protocol):
    """A frozen model.

    Attributes:
        layers: of its hidden states, the input of its first block among them.
        width: of each.
        rate: frames a second.
        fingerprint: of its weights; for one without weights, of what it computes.
    """

    layers: int
    width: int
    rate: float
    fingerprint: str

    def states(self, samples: np.ndarray) -> Tensor:
        """Return the hidden states of a clip ``[n]`` at 16 kHz: ``[L, T, D]``, float32, no frame beyond the clip."""


@dataclass(frozen=True)
class Declared:
    """An upstream that is known by name.

    Attributes:
        name: as it is asked for.
        title: for tables.
        source: where its weights come from.
        licence: SPDX id of the weights.
        trained_for: task and supervision of its training.
        layers, width, rate: as of an upstream.
        seconds: of one core for a second that it hears, as :mod:`.planning` measures.
        open: loads it; the argument is the window.
        hears: seconds that it always hears, filled up with silence; ``None`` for the clip alone.
        version: raise when a change of code alters its states.
    """

    name: str
    title: str
    source: str
    licence: str
    trained_for: str
    layers: int
    width: int
    rate: float
    seconds: float
    open: Callable[[str], Upstream]
    hears: float | None = None
    version: int = 1

    def cost(self, lengths: Sequence[float], window: str = "full") -> float:
        """Return about how many seconds of one core clips of these lengths take."""
        cut = window == "clip" and self.hears == WINDOW_SECONDS
        whole = self.hears if self.hears and not cut else None
        return self.seconds * sum(math.ceil(n / whole) * whole if whole else n + cut for n in lengths)


def _whisper(name: str, layers: int, width: int, seconds: float) -> Declared:
    def load(window: str) -> Upstream:
        from .encoders import whisper

        return whisper(name, window)

    source, trained = f"speechmerge fetch models {name}", "speech recognition and translation, supervised"
    return Declared(name, name.title(), source, "MIT", trained, layers, width, 50.0, seconds, load, WINDOW_SECONDS)


def _from(module: str, maker: str = "load") -> Callable[[str], Upstream]:
    """Return what makes an upstream in a module of this package, imported when it is wanted; it has one window."""
    return lambda window: getattr(import_module(f".{module}", __package__), maker)()


def _random(name: str, width: int, rate: float) -> Declared:
    def load(window: str) -> Upstream:
        from .filter_bank import RandomLayers

        return RandomLayers(width, rate)

    return Declared(name, name, "random numbers of a fixed seed", "CC0-1.0", "nothing", 3, width, rate, 0.01, load)


_DECLARED = (
    _whisper("whisper-tiny", 5, 384, 0.016),
    _whisper("whisper-base", 7, 512, 0.033),
    _whisper("whisper-small", 13, 768, 0.112),
    Declared(
        "moonshine-tiny",
        "Moonshine-Tiny",
        "npm, @usefulsensors/moonshine-js@0.1.2",
        "MIT",
        "speech recognition, English, supervised",
        *(7, 288, SAMPLE_RATE / 384, 0.011),
        _from("moonshine"),
    ),
    Declared(
        "resemblyzer",
        "Resemblyzer",
        "PyPI, Resemblyzer==0.1.4",
        "Apache-2.0",
        "speaker verification, supervised by speaker",
        *(4, 256, 50.0, 0.006),
        _from("resemblyzer"),
    ),
    Declared(
        "distillmos",
        "Distill-MOS",
        "PyPI, distillmos==0.9.1",
        "MIT",
        "quality of speech, distilled from a model on self-supervised features",
        *(8, 200, 50.0, 0.023),
        _from("distillmos"),
        7.68,
    ),
    Declared(
        "fbank",
        "Filter bank",
        "computed",
        "Apache-2.0",
        "nothing",
        *(1, 240, 50.0, 0.001),
        _from("filter_bank", "FilterBank"),
    ),
    _whisper("smoke", 3, 64, 0.001),
    _random("random-16", 16, 50.0),
    _random("random-24", 24, 40.0),
)
UPSTREAMS = {declared.name: declared for declared in _DECLARED}


MADE_OF = "@"  # between a base and what was made of it


def plain(name: str) -> str:
    """Return a name without the ``#2`` of a second use."""
    return re.sub(r"#\d+$", "", name)


def base_of(name: str) -> str:
    """Return the name of what an upstream was made of: itself, where it was made of nothing."""
    return plain(name).partition(MADE_OF)[0]


def described(name: str) -> Declared:
    """Return what is known of an upstream, or of the base of one that is made of it (``BASE@MODEL``).

    One of which only the name is known counts as large as Whisper-small.
    """
    return UPSTREAMS.get(base_of(name), UPSTREAMS["whisper-small"])


def load(name: str, window: str = "full") -> Upstream:
    """Load an upstream: one that is known by name, a Whisper folder, or any speech encoder of Hugging Face's.

    Args:
        name: of the registry, a folder, or a repository on the hub.
        window: what Whisper's encoder hears.

    Raises:
        SourceError: no such model, or it cannot be had.
    """
    if window not in WINDOWS:
        raise SourceError(f"there is no window {window!r}.{nearest(window, WINDOWS)}")
    name = plain(name)
    if name in UPSTREAMS:
        return UPSTREAMS[name].open(window)
    if not Path(name).expanduser().is_dir() and "/" not in name:
        raise SourceError(f"there is no upstream {name!r}.{nearest(name, UPSTREAMS)}")
    from .encoders import encoder

    return encoder(name, window)


def check_set(names: Sequence[str]) -> None:
    """Refuse a set without upstreams, or one in which a name stands twice.

    Raises:
        SourceError: naming it.
    """
    if not names:
        raise SourceError("a set has no upstreams; give at least one.")
    for name in names:
        if list(names).count(name) > 1:
            raise SourceError(
                f"upstream {name!r} stands twice in a set; write {name}#2 to use one model twice on purpose."
            )


def frozen(model: torch.nn.Module) -> torch.nn.Module:
    """Return a model that is never trained: evaluation mode, no gradients."""
    return model.eval().requires_grad_(False)


def weights_of(model: torch.nn.Module) -> str:
    """Return the fingerprint of a model's weights."""
    return fingerprint({name: value.detach() for name, value in model.named_parameters()})
