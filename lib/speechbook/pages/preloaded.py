"""What the server of kernels imports before it forks the first one; see :mod:`.kernels`."""

import os
from importlib import import_module

from .kernels import PATIENT

os.environ.update(PATIENT | os.environ)  # read when torch is loaded
os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # read with matplotlib

# tqdm warns of missing widgets if ipykernel is there before it, so the packages that use tqdm come first.
for name in (
    "speechmerge.whisper.models",
    "speechbook.claims.pictures",
    "speechbook.pages.provenance",
    "myst_nb",
    "ipykernel.kernelapp",
):
    import_module(name)
