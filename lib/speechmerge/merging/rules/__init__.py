"""Merge rules: pure functions over stacked arrays. They see no names, files, devices or configurations."""

from . import averaging, spherical, sparse, dropping, consensus, contributions, drawn_in  # isort: skip
from . import lowrank, subspace, interference, projections  # isort: skip
from . import calibrated, learned, adaptive, evolved, per_task  # isort: skip

__all__ = [
    "adaptive",
    "averaging",
    "calibrated",
    "consensus",
    "contributions",
    "drawn_in",
    "dropping",
    "evolved",
    "interference",
    "learned",
    "lowrank",
    "per_task",
    "projections",
    "sparse",
    "spherical",
    "subspace",
]
