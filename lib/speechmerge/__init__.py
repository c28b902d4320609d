"""Merging fine-tuned speech models: every algorithm, on Whisper's own weights.

Public calls: :func:`merge_state_dicts`, :func:`merge_folders`, :func:`methods`.
"""

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("speechmerge")
__all__ = ["merge_folders", "merge_state_dicts", "methods"]

_LAZY = {  # where each public call is
    "merge_folders": ("merging.engine", "merge_folders"),
    "merge_state_dicts": ("merging.engine", "merge_state_dicts"),
    "methods": ("merging.methods", "listing"),
}


def __getattr__(name: str) -> Any:
    """Import the public calls when first used, so that light commands start without torch."""
    if name in _LAZY:
        module, call = _LAZY[name]
        return getattr(importlib.import_module(f".{module}", __name__), call)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
