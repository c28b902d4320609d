"""Speech of one's own in any common layout, read as the corpora of the registry are.

:func:`read` tells what is there and what is left out, with the reason of each; ``corpora.load`` gives the clips.
"""

import os
import re

from ...errors import CorpusError
from .hub import PREFIX
from .reading import Dropped, Found, name_of, read

__all__ = ["PREFIX", "Dropped", "Found", "is_own", "name_of", "parse", "read"]


def is_own(where: str) -> bool:
    """Tell whether this names a data set of the hub, or a file or folder that exists."""
    return where.startswith(PREFIX) or (bool(where.strip()) and os.path.exists(os.path.expanduser(where)))


def parse(text: str) -> tuple[str, str | None]:
    """Read ``WHERE[:LANGUAGE]``; what exists as a whole has no language.

    Raises:
        CorpusError: there is nothing of that name.
    """
    head, _, last = text.rpartition(":")
    named = (head, last) if re.fullmatch(r"[a-z]{2,3}", last) and head not in ("", PREFIX[:-1]) else (text, None)
    where, language = (text, None) if not text.startswith(PREFIX) and is_own(text) else named
    if not is_own(where):
        if is_own(head):
            raise CorpusError(f"{head} is there, but {last!r} is no code of a language; write one such as es or it.")
        raise CorpusError(f"{where}: there is no such file or folder; expected speech with its transcripts.")
    return where, language
