"""Speech of one's own in any common layout, read as the corpora of the registry are.

:func:`read` tells what is there and what is left out, with the reason of each; ``corpora.load`` gives the clips.
"""

from pathlib import Path

from .hub import PREFIX
from .reading import Dropped, Found, name_of, read

__all__ = ["PREFIX", "Dropped", "Found", "is_own", "name_of", "read"]


def is_own(where: str) -> bool:
    """Tell whether this names a data set of the hub, or a file or folder that exists."""
    return where.startswith(PREFIX) or (bool(where.strip()) and Path(where).expanduser().exists())
