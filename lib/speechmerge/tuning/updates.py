"""Merged updates on disk: a method merges once, and the model of every λ is then read and added up tensor by tensor."""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..devices import release_memory
from ..files import atomic_folder, digest
from ..merging import fitting
from ..merging.merge import open_merge
from ..merging.output import write_weights
from ..merging.run import Run
from ..whisper.checkpoints import Checkpoint, open_checkpoint
from ..whisper.tensor_files import header, read_entry

FILE = "update.safetensors"
FEWEST, MOST = 3, 18  # updates that are kept on disk; one that is wanted again later is made anew


@dataclass(frozen=True)
class Candidate:
    """A method with its parameters; with a λ it is a merge."""

    method: str
    params: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, method: str, params: Mapping[str, Any] | None = None) -> "Candidate":
        """Make one of a mapping of parameters, lists among them."""
        return cls(method, tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in (params or {}).items()))

    @property
    def options(self) -> dict[str, Any]:
        """The parameters as a merge takes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.params}

    def but(self, **params: Any) -> "Candidate":
        """Return the method with other values of some parameters."""
        return Candidate.of(self.method, self.options | params)

    @property
    def key(self) -> str:
        """What tells it from others, in a word that a file may be named by."""
        return f"{self.method}-{digest([self.method, self.options])[:12]}"

    def __str__(self) -> str:
        told = ", ".join(f"{name}={short(value)}" for name, value in self.params)
        return f"{self.method}({told})" if told else self.method


def short(value: Any) -> str:
    """Return a parameter's value as one writes it, a list without the quotation marks of its words."""
    return "[" + ", ".join(map(short, value)) + "]" if isinstance(value, list | tuple) else f"{value}"


@dataclass(frozen=True)
class Update:
    """The merged task vector τ of a candidate: file, norm, and what making it cost.

    Attributes:
        base: θ0.
        file: τ by tensor, fp32; tensors that stay the base's are left out.
        norm: ‖τ‖.
        experts: root mean square of the experts' ‖τ_t‖.
        seconds: that the merge took.
    """

    base: Checkpoint
    file: Path
    norm: float
    experts: float
    seconds: float

    def at(self, scaling: float) -> Iterator[tuple[str, Tensor]]:
        """Yield θ0 + λτ, tensor by tensor, fp32."""
        stored = {entry.stored_name: entry for entry in header(self.file)}
        for name in self.base.shapes:
            start = self.base.read(name)
            if entry := stored.get(name):
                change = read_entry(entry, 0, math.prod(entry.shape)).view(entry.shape)
                start = torch.add(start.float(), change, alpha=scaling)
            yield name, start


class Updates:
    """Makes updates of candidates and keeps them in a folder.

    Args:
        base, experts: folders.
        folder: where updates are kept; one takes the base's size in fp32.
        kept: how many, at most.
        options: of all merges, such as ``device``.
    """

    def __init__(self, base: Path, experts: Sequence[Path], folder: Path, *, kept: int = MOST, **options: Any) -> None:
        self.kept = kept
        self.base, self.experts, self.folder, self.options = base, list(experts), Path(folder), options
        self.opened = open_checkpoint(base, "base")
        self._used: dict[str, None] = dict.fromkeys(path.name for path in sorted(self.folder.glob("*-*")))

    def of(self, candidate: Candidate) -> Update:
        """Return the update of a candidate, from the folder if it is still there.

        Raises:
            MethodError: the method cannot merge these experts with these parameters.
        """
        folder = self.folder / candidate.key
        if not folder.is_dir():
            release_memory()  # what the model that hears no longer holds, and afterwards what the merge held
            self._merge(candidate, folder)
            release_memory()
        self._used[candidate.key] = self._used.pop(candidate.key, None)
        for old in list(self._used)[: -self.kept]:
            del self._used[old]
            shutil.rmtree(self.folder / old, ignore_errors=True)
        about = json.loads((folder / "about.json").read_text())
        return Update(self.opened, folder / FILE, about["norm"], about["experts"], about["seconds"])

    def _merge(self, candidate: Candidate, folder: Path) -> None:
        started, squares = time.perf_counter(), []
        merge = open_merge(
            candidate.method,
            self.base,
            self.experts,
            strict=True,
            svd_cache=self.folder / "vectors",
            **self.options | candidate.options,
        )
        shapes = {name: shape for name, shape in merge.base.shapes.items() if merge.treatment(name) != "base"}
        plan = {FILE: {name: (shape, torch.float32) for name, shape in shapes.items()}}
        with atomic_folder(folder) as made:
            run = fitting.begin(merge, keep=True)
            write_weights(made, _changes(run, shapes, squares), plan)
            own = math.fsum(square for each in run.lengths.experts.values() for square in each)
            about = {"norm": math.sqrt(math.fsum(squares)), "experts": math.sqrt(own / len(self.experts))}
            about["seconds"] = round(time.perf_counter() - started, 3)
            (made / "about.json").write_text(json.dumps(about))


def _changes(run: Run, shapes: Mapping[str, tuple[int, ...]], squares: list[float]) -> Iterator[tuple[str, Tensor]]:
    """Yield τ of each tensor while a merge streams; no more than one of them is kept."""
    for name, _ in run.stream():
        blocks = run.kept.pop(name, [])
        if name in shapes:
            change = torch.cat([block.float().cpu().view(-1) for _, _, block in blocks])
            squares.append(torch.dot(change, change).item())
            yield name, change.view(shapes[name])
