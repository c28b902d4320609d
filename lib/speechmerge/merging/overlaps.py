"""How far experts share directions: overlaps of the subspaces that their updates read from and write to."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..whisper.parameter_classes import MATRIX, classify, parts
from .rules.decompositions import factors
from .task_vectors import STACKS, Source, deltas

SHARE = 0.1  # of the rank of each matrix: its leading directions; TSV-M keeps 1 / T


def describe(base: Source, experts: Mapping[str, Source]) -> list[dict]:
    """Compare the leading singular directions of every two experts, averaged over the matrices of each block type.

    The overlap of two k-dimensional subspaces with orthonormal bases A and B is ‖AᵀB‖² / k: 1 if they are the same,
    0 if orthogonal, and k / m on average for random ones in m dimensions.

    Args:
        base: folder or tensors of the base.
        experts: folder or tensors of each expert, by name.

    Returns:
        Rows of kind ``overlap``: ``stack, block, a, b, reads, writes, chance_reads, chance_writes, matrices``; what a
        matrix reads are its right singular vectors, what it writes are its left ones.
    """
    names, sums = list(experts), {}
    for name, start, change in deltas(base, experts):
        if classify(name, start.shape) == MATRIX:
            where = parts(name, start.shape)
            stack = next((part for part in where if part in STACKS), None)
            block = next((part for part in where if part not in STACKS), None)
            found = _overlaps(change.flatten(2))
            sums[stack, block] = sums.get((stack, block), 0) + torch.cat([found, torch.ones_like(found[:1])])
    rows = []
    for (stack, block), total in sums.items():
        reads, writes, chance_reads, chance_writes = (total[:4] / total[4]).unbind()
        for i, j in torch.combinations(torch.arange(len(names))).tolist():
            row = {"kind": "overlap", "stack": stack, "block": block, "a": names[i], "b": names[j]}
            row |= {"reads": reads[i, j].item(), "writes": writes[i, j].item(), "matrices": int(total[4, i, j])}
            rows.append(row | {"chance_reads": chance_reads[i, j].item(), "chance_writes": chance_writes[i, j].item()})
    return rows


def _overlaps(changes: Tensor) -> Tensor:
    """Return overlaps of right and left subspaces and what chance gives, ``[4, T, T]``, of one matrix ``[T, m, n]``."""
    m, n = changes.shape[-2:]
    k = max(1, round(SHARE * min(m, n)))
    triplets = [factors(change, k) for change in changes]
    found = []
    for vectors in ([v for _, _, v in triplets], [u for u, _, _ in triplets]):
        side = torch.stack(vectors).double()  # [T, d, k]
        found.append(torch.einsum("adi,bdj->abij", side, side).square().sum((-2, -1)) / k)
    return torch.stack([*found, torch.full_like(found[0], k / n), torch.full_like(found[0], k / m)])
