"""Tables about task vectors: statistics of single tensors joined into those of parts of the network and of experts."""

import pandas as pd

from .results import ordered

BLOCKS = ("attention", "cross-attention", "mlp")  # parts of a layer, in the order they are shown


def by_layer(norms: pd.DataFrame) -> pd.DataFrame:
    """Join the norms of single tensors into those of parts of the network.

    Args:
        norms: rows of kind ``norm`` of :func:`speechmerge.merging.task_vectors.describe`.

    Returns:
        Columns ``expert, part, layer, relative_norm``, parts in the order of :data:`BLOCKS`: the norm of all updates
        in a part and layer over the norm of the weights they change. Layer norms, whose weights are near one and
        hardly move, and tensors outside the layers are left out.
    """
    inside = norms[norms["layer"].notna() & norms["block"].isin(BLOCKS)]
    inside = ordered(inside, block=BLOCKS).sort_values("stack", ascending=False, kind="stable")
    squares = inside.assign(
        part=inside["stack"] + " " + inside["block"],
        layer=inside["layer"].astype(int),
        update=inside["norm"] ** 2,
        weights=inside["base_norm"] ** 2,
    )
    sums = squares.groupby(["expert", "part", "layer"], sort=False)[["update", "weights"]].sum()
    relative = (sums["update"] / sums["weights"]) ** 0.5
    return relative.rename("relative_norm").reset_index()


def by_part(energy: pd.DataFrame) -> pd.DataFrame:
    """Say how the squared length of the task vectors is spread over the parts of the network.

    Args:
        energy: rows of kind ``energy`` of :func:`speechmerge.merging.task_vectors.describe`.

    Returns:
        A row for each part, the largest mean share first: ``scalars``, the part's share of the model's scalars;
        ``mean``, ``lowest`` and ``highest``, its share of ‖τ‖² over the experts. All between 0 and 1.
    """
    named = energy.assign(part=energy["stack"] + " " + energy["block"])
    sums = named.groupby(["part", "expert"])[["scalars", "share"]].sum()
    parts = sums.groupby("part").agg(
        scalars=("scalars", "first"), mean=("share", "mean"), lowest=("share", "min"), highest=("share", "max")
    )
    return parts.assign(scalars=parts["scalars"] / parts["scalars"].sum()).sort_values("mean", ascending=False)


def spectra(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Average the spectra of all matrices of each expert.

    Args:
        rows: rows of kind ``spectrum`` of :func:`speechmerge.merging.task_vectors.describe`.

    Returns:
        ``(values, energy)`` with columns ``expert, share_of_rank, ratio`` and ``expert, share_of_rank, energy``: the
        singular values over the largest one, and the share of the squared norm in the leading ones. Matrices that did
        not move are left out.
    """
    moved = rows[rows["stable_rank"] > 0]
    points = [
        (row.expert, round(i / (len(row.singular_values) - 1), 3), value / row.singular_values[0])
        for row in moved.itertuples()
        for i, value in enumerate(row.singular_values)
    ]
    shares = [
        (row.expert, float(share), value)
        for row in moved.itertuples()
        for share, value in row.energy_at.items()
    ]  # fmt: skip
    frames = (
        pd.DataFrame(points, columns=["expert", "share_of_rank", "ratio"]),
        pd.DataFrame(shares, columns=["expert", "share_of_rank", "energy"]),
    )
    return tuple(frame.groupby(["expert", "share_of_rank"], sort=False).mean().reset_index() for frame in frames)
