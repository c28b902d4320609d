"""Merge rules: pure functions over stacked arrays. They see no names, files, devices or configurations."""

# ruff: noqa: F401  importing a module registers its methods, in this order
from . import averaging, spherical, sparse, dropping, consensus, contributions, drawn_in  # isort: skip
from . import lowrank, subspace, interference, projections  # isort: skip
from . import calibrated, learned, adaptive, evolved, per_task  # isort: skip
