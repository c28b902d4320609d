"""The one family of errors the library raises on bad input.

Every message is a sentence that names the file or tensor, what was found, what was expected and what to do next.
The command line prints the sentence alone; in Python the class tells which part of the work refused.
"""

import difflib
from collections.abc import Iterable
from typing import Any


class SpeechMergeError(Exception):
    """Base of all errors raised on purpose; anything else that escapes is a bug."""


class CheckpointError(SpeechMergeError):
    """A model folder or state dict cannot be used: damaged, wrong shape, wrong base, wrong values."""


class MethodError(SpeechMergeError):
    """An unknown merge method, or a parameter it does not have or that lies outside its range."""


class CorpusError(SpeechMergeError):
    """A corpus cannot be fetched, read or split, or a clip in it is unusable."""


class SourceError(SpeechMergeError):
    """A package, file or hub from which models or speech come is missing or differs from what was expected."""


class TrainingError(SpeechMergeError):
    """A training cannot start, resume or go on."""


class ScoringError(SpeechMergeError):
    """Predictions and references do not belong together."""


class StudyError(SpeechMergeError):
    """An experiment table, a stored artefact or a result row is inconsistent."""


class BookError(SpeechMergeError):
    """A notebook or page of the book failed, is stale or is missing a part."""


def nearest(name: Any, known: Iterable[Any]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest other name that is known, else a list of all known names."""
    small = {str(word).lower(): str(word) for word in known if word != name}
    close = difflib.get_close_matches(str(name).lower(), small, n=1, cutoff=0.5)
    return f" Did you mean {small[close[0]]!r}?" if close else f" Known: {', '.join(small.values()) or 'none'}."
