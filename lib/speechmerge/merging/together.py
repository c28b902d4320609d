"""Several merges of the same models at once: every block is read once for all of them."""

from collections.abc import Collection, Iterator, Sequence

from torch import Tensor
from tqdm import tqdm

from . import applying, lengths
from .run import Run

Made = list[tuple[int, str, Tensor]]  # which merge, the tensor's name, the tensor


def stream(
    runs: Sequence[Run], *, progress: bool = False, skip: Sequence[Collection[str]] = ()
) -> Iterator[tuple[int, str, Tensor]]:
    """Yield every tensor of every merged model, with the number of its merge; otherwise as :meth:`.run.Run.stream`.

    Args:
        runs: of merges of the same :class:`.inputs.Inputs`, each with methods and parameters of its own.
        progress: show a progress bar.
        skip: for each merge the tensors that are not wanted.
    """
    skip = skip or [()] * len(runs)
    if len(runs) == 1:
        yield from ((0, *found) for found in runs[0].stream(skip=skip[0]))
        return
    names = list(runs[0].merge.base.shapes)

    def work(name: str) -> Made:
        return _tensors([(i, run) for i, run in enumerate(runs) if name not in skip[i]], name)

    workers = min(applying.workers(run.merge) for run in runs)
    ahead = max(1, applying.AHEAD // len(runs))
    with tqdm(total=len(names), desc=f"merge ({len(runs)} at once)", unit="tensor", disable=not progress) as bar:
        for found in applying.side_by_side(work, names, workers, ahead):
            yield from found
            bar.update()
    for run in runs:
        lengths.tell(run)


def _tensors(runs: Sequence[tuple[int, Run]], name: str) -> Made:
    """Merge one tensor for all, block by block in turn, so that each block is in memory for the next merge."""
    found, left = {}, {i: run.steps(name) for i, run in runs}
    while left:
        for i, steps in list(left.items()):
            try:
                next(steps)
            except StopIteration as end:
                found[i] = end.value
                del left[i]
    return [(i, name, found[i]) for i, _ in runs]
