"""Merge rules: pure functions over stacked arrays. They see no names, files, devices or configurations."""

from . import averaging, spherical, sparse, dropping, consensus, lowrank, subspace, interference  # isort: skip
from . import calibrated, learned, per_task  # isort: skip

__all__ = [
    "averaging",
    "calibrated",
    "consensus",
    "dropping",
    "interference",
    "learned",
    "lowrank",
    "per_task",
    "sparse",
    "spherical",
    "subspace",
]
