"""Which clips are meant: of one or several corpora, in a language, for a task, of a split."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import corpora
from .corpora import Clip
from .errors import CorpusError

if TYPE_CHECKING:
    from .finetuning.training_recipe import Source

Part = tuple[list[Clip], str, str]  # clips, language, task


def label(source: "Source") -> str:
    """Return how a record that others read names speech: without the place it lies at on this machine."""
    where = source.corpus
    if not where.startswith(corpora.own.PREFIX) and not corpora.is_registered(where):
        where = Path(where).name
    return ":".join((where, source.language, source.task))


def pooled_clips(
    names: Sequence[str],
    language: str,
    task: str = "asr",
    split: str | None = "test",
    cap: int | None = None,
    *,
    kept_apart: str = "equal",
) -> list[Clip]:
    """Return the clips of a language over its corpora; a cap takes every n-th, so that all corpora stay represented.

    For translation, clips without one are left out.

    Args:
        names: corpora as :func:`speechmerge.corpora.load` takes them.
        language: Whisper's code.
        task: ``"asr"`` or ``"st"``.
        split: ``"train"``, ``"dev"``, ``"test"``, or ``None`` for all.
        cap: most clips.
        kept_apart: which sentences stand in one split only (:func:`speechmerge.corpora.load`).
    """
    clips = corpora.together([(name, corpora.load(name, language, split, kept_apart=kept_apart)) for name in names])
    clips = [clip for clip in clips if task == "asr" or clip.translation]
    if cap is None or len(clips) <= cap:
        return clips
    return [clips[i * len(clips) // cap] for i in range(cap)]


def some_clips(
    names: Sequence[str], language: str, task: str = "asr", split: str | None = "test", cap: int | None = None
) -> list[Clip]:
    """Return what :func:`pooled_clips` returns, of which there must be some.

    Raises:
        CorpusError: there are none.
    """
    clips = pooled_clips(names, language, task, split, cap)
    if not clips:
        wanted = "speech with a translation" if task == "st" else "speech"
        raise CorpusError(f"{', '.join(names)} has no {wanted} in {language} in the {split} split.")
    return clips


def heard(sources: Sequence["Source"], split: str, cap: int | None = None) -> list[Part]:
    """Return the clips of each source, with its language and task.

    Args:
        sources: what to hear.
        split: ``"train"``, ``"dev"`` or ``"test"``.
        cap: most clips of each source.

    Raises:
        CorpusError: one of them has none.
    """
    return [(some_clips([s.corpus], s.language, s.task, split, cap), s.language, s.task) for s in sources]
