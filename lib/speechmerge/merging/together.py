"""Several merges of the same models at once: every block is read once for all of them."""

from collections.abc import Collection, Iterator, Sequence

from torch import Tensor
from tqdm import tqdm

from . import applying, lengths
from .merge import Merge

Merged = list[tuple[int, str, Tensor]]  # which merge, the tensor's name, the tensor


def stream(
    merges: Sequence[Merge], *, progress: bool = False, skip: Sequence[Collection[str]] = ()
) -> Iterator[tuple[int, str, Tensor]]:
    """Yield every tensor of every merged model, with the number of its merge; otherwise as :meth:`Merge.stream`.

    Args:
        merges: of the same :class:`.inputs.Inputs`, each with methods and parameters of its own.
        progress: show a progress bar.
        skip: for each merge the tensors that are not wanted.
    """
    skip = skip or [()] * len(merges)
    if len(merges) == 1:
        yield from ((0, *found) for found in merges[0].stream(progress=progress, skip=skip[0]))
        return
    names = list(merges[0].base.shapes)
    for merge, finished in zip(merges, skip, strict=True):
        merge.begin(progress=progress, whole=not finished)

    def work(name: str) -> Merged:
        return _tensors([(i, merge) for i, merge in enumerate(merges) if name not in skip[i]], name)

    workers, ahead = min(map(applying.workers, merges)), max(1, applying.AHEAD // len(merges))
    with tqdm(total=len(names), desc=f"merge ({len(merges)} at once)", unit="tensor", disable=not progress) as bar:
        for found in applying.side_by_side(work, names, workers, ahead):
            yield from found
            bar.update()
    for merge in merges:
        lengths.tell(merge)


def _tensors(merges: Sequence[tuple[int, Merge]], name: str) -> Merged:
    """Merge one tensor for all, block by block in turn, so that each block is in memory for the next merge."""
    found, left = {}, {i: merge.steps(name) for i, merge in merges}
    while left:
        for i, steps in list(left.items()):
            try:
                next(steps)
            except StopIteration as end:
                found[i] = end.value
                del left[i]
    return [(i, name, found[i]) for i, _ in merges]
