"""Gram matrices and Fishers of experts, collected on their own speech and kept: the engine's ``extras``.

They lie in a folder for each expert, which belongs to that expert and those windows alone.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from .. import corpora
from ..audio import WINDOW_SAMPLES
from ..devices import release_memory
from ..errors import CheckpointError, MethodError, nearest
from ..files import atomic_folder, check_writable, digest
from ..finetuning.packing import Window, pack
from ..packages import artefact
from ..whisper.checkpoints import fingerprint, open_checkpoint, read_json
from .listening import POSITION, fishers, grams, layered_grams
from .validation import check_memory

VERSION = 1  # raise when a change alters the statistics
RECORD = "statistics.json"
KINDS = {"grams": grams, "fishers": fishers}


def draw(
    clips: Sequence[corpora.Clip], language: str, task: str, count: int, *, seed: int = 0, packed: bool = True
) -> list[Window]:
    """Draw at most ``count`` windows at random: full ones for Grams and gradients, or single clips for Fishers.

    A Fisher is a mean over utterances, so clips should not share a window there.
    """
    order = np.random.default_rng([seed, 0xCA11]).permutation(len(clips))
    drawn = [clips[i] for i in order]
    windows = pack(drawn, language, task, None) if packed else [Window((clip,), language, task) for clip in drawn]
    return windows[:count]


def draw_all(
    speech: Sequence[tuple[Sequence[corpora.Clip], str, str]], count: int, *, seed: int = 0, packed: bool = True
) -> list[Window]:
    """Draw at most ``count`` windows (:func:`draw`) of one expert's speech, shared among its languages and tasks.

    Args:
        speech: clips, language and task, one entry for each.
        count: most windows, but one of each entry at least.
        seed: of :func:`draw`.
        packed: of :func:`draw`.
    """
    share = max(1, count // len(speech))
    return [window for part in speech for window in draw(*part, share, seed=seed, packed=packed)]


class Statistics(Mapping[str, Tensor]):
    """Statistics of one expert in a folder, read tensor by tensor: by module for Grams, by tensor for Fishers.

    Attributes:
        folder: where they lie.
        record: fingerprints of expert and data, number of windows, and which modules share one Gram.

    Raises:
        CheckpointError: the folder is missing, damaged, or holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.record = read_json(self.folder / RECORD)
        self._stored = open_checkpoint(self.folder)
        # Blocks of a tensor, and q, k, v, follow one another; two tensors may be merged at a time.
        self._read = functools.lru_cache(maxsize=2)(self._stored.read)

    def __getitem__(self, name: str) -> Tensor:
        """Read one of them; it must not be changed in place."""
        stored = self.record["shared"].get(name, name)
        if stored not in self._stored.shapes:
            raise KeyError(name)
        return self._read(stored)

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        yield from (*self._stored.shapes, *self.record["shared"])

    def __len__(self) -> int:
        """Count the names."""
        return len(self._stored.shapes) + len(self.record["shared"])


def collect(
    kind: str,
    expert: Path,
    windows: Sequence[Window],
    output: Path | None = None,
    *,
    write_more: Callable[[Path], None] | None = None,
    progress: bool = True,
) -> Statistics:
    """Collect statistics of an expert on its own speech into a folder; what is there already is opened.

    ``"grams"``: for each linear map and filter, the mean of x xᵀ over its inputs x (RegMean, arXiv 2212.09849), fp32
    ``[n, n]``, by module; filters see ``[in · width]``. Positions after the end of the speech do not count, and texts
    are given to the decoder. ``"fishers"``: for each scalar, the mean over windows of the squared derivative of
    log p(text | speech), fp32, by tensor (the empirical Fisher of arXiv 2111.09832, whose own has texts drawn from p).

    Args:
        kind: ``"grams"`` or ``"fishers"``.
        expert: folder of the model.
        windows: of its own language and task, see :func:`draw`.
        output: folder to write; by default one of the cache that is named by what it is made from.
        write_more: gets the folder, record and all, before it takes its name, to write what else belongs in it.
        progress: show a bar.

    Raises:
        MethodError: an unknown kind, or no windows.
        SpeechMergeError: too little memory or disk; found before the work.
        CheckpointError: ``output`` holds statistics of another expert or other windows.
    """
    if kind not in KINDS:
        raise MethodError(f"there are no statistics {kind!r}.{nearest(kind, KINDS)}")
    record = _record(kind, expert, windows)
    output = Path(output or artefact(kind, digest(record)))
    if not output.exists():
        check_writable(output, _bytes(kind, expert))
        otherwise = "give fewer windows" if kind == "grams" else "collect grams, which take less"
        check_memory(_memory(kind, expert, len(windows)), work=f"collecting {kind}", otherwise=otherwise)
        with atomic_folder(output) as folder:
            _write(folder, ((stage, [found]) for stage, found in KINDS[kind](expert, windows, progress)), [record])
            if write_more:
                write_more(folder)
        release_memory()
    return _open(output, record)


def collect_layered(
    base: Path,
    experts: Sequence[Path],
    windows: Sequence[Sequence[Window]],
    output: Path | None = None,
    *,
    alpha: float = 0.9,
    ridge: float = 1e-8,
    progress: bool = True,
) -> list[Statistics]:
    """Collect Grams for RegMean++ (arXiv 2508.03121): inputs of a block have passed the merged blocks below it.

    Block by block, each expert's own block hears its own speech, the experts' blocks are merged with those Grams, and
    the speech goes on through the merged block. Front end, embeddings and norms are averaged. Merging with the Grams
    returned and the same ``alpha`` and ``ridge`` gives the model whose blocks the speech went through.

    Args:
        base: the base's folder.
        experts: the experts' folders, in order.
        windows: of each expert.
        output: folder to write, with a folder for each expert inside; by default as for :func:`collect`.
        alpha: of the merge.
        ridge: of the merge.
        progress: show a bar.

    Raises:
        MethodError: no windows.
        CheckpointError: ``output`` holds Grams of other models, windows or parameters.
    """
    pairs, options = list(zip(experts, windows, strict=True)), {"alpha": alpha, "ridge": ridge}
    records = [_record("grams", expert, own) for expert, own in pairs]
    merge = digest([fingerprint(base), records, options])
    records = [record | {"merge": merge} for record in records]
    output = Path(output or artefact("layered", merge))
    if not output.exists():
        check_writable(output, len(experts) * _bytes("grams", base))
        with atomic_folder(output) as folder:
            _write(folder, layered_grams(base, pairs, options, progress), records)
        release_memory()
    return [_open(_place(output, t, len(records)), record) for t, record in enumerate(records)]


def _record(kind: str, expert: Path, windows: Sequence[Window]) -> dict:
    if not windows:
        raise MethodError(f"there is no speech to collect {kind} of {expert} on; give its own train or dev clips.")
    data = digest([[w.language, w.task, corpora.fingerprint(w.clips)] for w in windows])
    return {"kind": kind, "version": VERSION, "expert": fingerprint(expert), "data": data, "windows": len(windows)}


def _bytes(kind: str, expert: Path) -> int:
    """Return at most how large the statistics get."""
    shapes = open_checkpoint(expert).shapes.values()
    sizes = [math.prod(s) if kind == "fishers" else s[-1] ** 2 for s in shapes if kind == "fishers" or len(s) == 2]
    return 4 * sum(sizes)


def _memory(kind: str, expert: Path, windows: int) -> int:
    """Return about how many bytes collecting takes: the model, with slopes and sums for Fishers, with states for Grams.

    The sums of one stage's Grams, in fp64, are a few of its widest.
    """
    shapes = open_checkpoint(expert).shapes.values()
    model = 4 * sum(map(math.prod, shapes))
    if kind == "fishers":
        return 3 * model
    widths = [shape[-1] for shape in shapes if len(shape) == 2]
    return model + 3 * 8 * max(widths) ** 2 + windows * 2 * 4 * min(widths) * WINDOW_SAMPLES // POSITION


def _place(folder: Path, expert: int, experts: int) -> Path:
    return folder / f"expert-{expert}" if experts > 1 else folder


def _write(folder: Path, stages: Iterator[tuple[str, list[dict[str, Tensor]]]], records: list[dict]) -> None:
    """Write what comes for each expert, a file for each stage; a tensor that several modules share is stored once."""
    folders = [_place(folder, t, len(records)) for t in range(len(records))]
    files: list[dict[str, str]] = [{} for _ in records]
    shared: list[dict[str, str]] = [{} for _ in records]
    for stage, found in stages:
        for t, tensors in enumerate(found):
            owners: dict[int, str] = {}
            for name, tensor in tensors.items():
                if (owner := owners.setdefault(id(tensor), name)) != name:
                    shared[t][name] = owner
            folders[t].mkdir(exist_ok=True)
            file = folders[t] / f"{stage}.safetensors"
            save_file({n: tensors[n].cpu().contiguous() for n in owners.values()}, file)
            files[t] |= {name: f"{stage}.safetensors" for name in owners.values()}
    for t, record in enumerate(records):
        index = {"metadata": {}, "weight_map": files[t]}
        (folders[t] / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
        (folders[t] / RECORD).write_text(json.dumps(record | {"shared": shared[t]}, indent=1))


def _open(folder: Path, record: Mapping[str, object]) -> Statistics:
    """Open statistics that must have been made from what ``record`` says."""
    found = Statistics(folder)
    for key, value in record.items():
        if found.record.get(key) != value:
            raise CheckpointError(
                f"{folder} holds statistics of another {key}: found {str(found.record.get(key))[:16]}, expected "
                f"{str(value)[:16]}; collect them again into another folder."
            )
    return found
