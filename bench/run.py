"""Timings of this machine, as ratios from one run: merging against reading and writing, LoRS against plain SVDs,
training and decoding as throughput. Run with ``make bench``; nothing here asserts a time."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from speechmerge import corpora, engine, models, provenance
from speechmerge.decoding import Decoder
from speechmerge.training import Recipe, Source, train

EXPERTS = 5
METHODS = {
    "weight_average": {},
    "task_arithmetic": {"scaling": 0.3},
    "mp": {"scaling": 0.3},
    "svp": {"scaling": 0.3},
    "lors": {"scaling": 0.3},
}


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Shortest wall time of a few runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def made_experts(base: Path, folder: Path) -> list[Path]:
    """Experts with updates of the size that fine-tuning makes; merging time does not depend on their values."""
    weights = load_file(base / "model.safetensors")
    experts = []
    for i in range(EXPERTS):
        generator = torch.Generator().manual_seed(i)
        expert = folder / f"expert{i}"
        expert.mkdir()
        for file in base.glob("*.json"):
            (expert / file.name).write_bytes(file.read_bytes())
        moved = {
            name: w + 1e-3 * w.std().nan_to_num() * torch.randn(w.shape, generator=generator)
            for name, w in weights.items()
            if name != "model.encoder.embed_positions.weight"
        }
        save_file(weights | moved, expert / "model.safetensors", metadata={"format": "pt"})
        experts.append(expert)
    return experts


def floor(base: Path, experts: list[Path], output: Path) -> None:
    """Read what a merge reads and write what it writes."""
    tensors = [load_file(folder / "model.safetensors") for folder in (base, *experts)]
    save_file({name: t.clone() for name, t in tensors[0].items()}, output)


def plain_lors(base: Path, experts: list[Path], rank_ratio: float = 0.02, density: float = 0.4) -> None:
    """LoRS by the book: one full SVD and one sort for every matrix of every expert."""
    start, others = load_file(base / "model.safetensors"), [load_file(e / "model.safetensors") for e in experts]
    for name, weight in start.items():
        if weight.ndim != 2 or "embed" in name:
            continue
        for other in others:
            u, s, v = torch.linalg.svd(other[name] - weight, full_matrices=False)
            k = max(1, round(rank_ratio * len(s)))
            low = u[:, :k] * s[:k] @ v[:k]
            rest = (other[name] - weight - low).flatten()
            kept = rest.abs().argsort(descending=True)[: round(density * len(rest))]
            torch.zeros_like(rest)[kept] = rest[kept]


def main() -> None:
    """Print one table."""
    base = models.base_model("whisper-tiny")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experts = made_experts(base, folder)
        lowest = seconds(lambda: floor(base, experts, folder / "floor.safetensors"))
        plain = seconds(lambda: plain_lors(base, experts), 1)
        print(f"{provenance.hardware()}; whisper-tiny, {EXPERTS} experts, fp32\n")
        print(f"{'reading and writing the same bytes':36s} {lowest:7.2f} s   1.00 x")
        for method, options in METHODS.items():
            took = seconds(
                lambda m=method, o=options: engine.merge_folders(
                    m, base, experts, folder / "merged", overwrite=True, progress=False, **o
                )
            )
            print(f"{method:36s} {took:7.2f} s   {took / lowest:.2f} x")
        print(f"{'lors with full SVDs and sorts':36s} {plain:7.2f} s   {plain / lowest:.2f} x")
        source = Source("asterisk", "it")
        log = train(Recipe("whisper-tiny", (source,), minutes=4, epochs=1), folder / "trained", progress=False)
        clips = corpora.load("asterisk", "it", "test")[:72]
        decoder = Decoder(base)
        decoding = seconds(lambda: decoder.decode(clips, "it", "asr", progress=False), 1)
        print(f"\ntraining {log.windows_per_second:.2f} windows/s, greedy decoding {len(clips) / decoding:.1f} clips/s")


if __name__ == "__main__":
    main()
