"""LoRS and TSV-M written with ``torch.linalg.svd`` and a sort, as one would from the papers, to compare the rules with.

Only the rules are timed, on the task matrices of the first block of each stack: the other blocks are of equal shapes.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechmerge.merging.rules import lowrank, subspace
from speechmerge.whisper.checkpoints import open_checkpoint
from speechmerge.whisper.parameter_classes import MATRIX, classify


def lors(deltas: Tensor) -> Tensor:
    """Return Σ_t (L_t + S_t) with 2 % of the rank and 40 % of the entries of what is left."""
    merged = torch.zeros_like(deltas[0])
    for delta in deltas:
        u, s, vh = torch.linalg.svd(delta, full_matrices=False)
        k = max(1, round(0.02 * len(s)))
        low = (u[:, :k] * s[:k]) @ vh[:k]
        rest = (delta - low).flatten()
        kept = rest.abs().argsort(descending=True)[: -int(-0.4 * len(rest) // 1)]
        sparse = torch.zeros_like(rest)
        sparse[kept] = rest[kept]
        merged += low + sparse.view_as(low)
    return merged


def tsvm(deltas: Tensor) -> Tensor:
    """Return U_⊥ Σ V_⊥ᵀ with an equal share of the rank for each expert and polar factors by SVD."""
    k = min(deltas.shape[1:]) // len(deltas)
    triplets = [[part[..., :k] for part in (u, s, vh.mT)] for u, s, vh in map(_svd, deltas)]
    u, s, v = (torch.cat(parts, -1) for parts in zip(*triplets, strict=True))
    left, right = ((p @ q) for p, _, q in map(_svd, (u, v)))
    return (left * s) @ right.mT


def _svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.linalg.svd(matrix, full_matrices=False)


def lines(folders: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield a line of the table for each rule: processor seconds of both forms, and how far they are from fp64.

    The plain form in fp64 is the reference: in fp32 a plain SVD is the less exact of the two.
    """
    base, *experts = [open_checkpoint(folder) for folder in folders]
    names = [n for n in base.shapes if ".layers.0." in n and classify(n, base.shapes[n]) == MATRIX]
    stacks = [torch.stack([e.read(n).float() - base.read(n).float() for e in experts]) for n in names]
    rules = (("lors", lambda x: lowrank.lors(x).sum(0), lors), ("tsvm", subspace.tsvm, tsvm))
    for name, rule, plain in rules:
        spent, gaps = [0.0, 0.0], torch.zeros(3, dtype=torch.float64)
        for deltas in stacks:
            ours, theirs = _timed(rule, deltas, spent, 0), _timed(plain, deltas, spent, 1)
            exact = plain(deltas.double())
            gaps += torch.stack([(x - exact).square().sum() for x in (ours, theirs, torch.zeros_like(exact))])
        found = (gaps[:2] / gaps[2]).sqrt().tolist()
        times = {"ours_cpu_s": spent[0], "plain_cpu_s": spent[1]}
        yield {"method": f"{name}, rule only", "peer": "torch.linalg.svd"} | times | {
            "difference": found[0], "difference of the plain form": found[1]}  # fmt: skip


def _timed(work: Callable[[Tensor], Tensor], deltas: Tensor, spent: list[float], place: int) -> Tensor:
    """Return ``work(deltas)`` and add its processor time to ``spent``; a busy machine does not count that way."""
    started = time.process_time()
    result = work(deltas)
    spent[place] += time.process_time() - started
    return result
