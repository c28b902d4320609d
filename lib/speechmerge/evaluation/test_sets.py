"""The clips that models are tested on, or chosen by: a language over one corpus or several."""

from collections.abc import Sequence

from .. import corpora
from ..corpora import Clip


def gather(
    names: Sequence[str],
    language: str,
    task: str = "asr",
    split: str = "test",
    cap: int | None = None,
    *,
    kept_apart: str = "equal",
) -> list[Clip]:
    """Return the clips of a language over its corpora; a cap takes every n-th, so that all corpora stay represented.

    For translation, clips without one are left out.
    """
    clips = [clip for name in names for clip in corpora.load(name, language, split, kept_apart=kept_apart)]
    clips = [clip for clip in clips if task == "asr" or clip.translation]
    if cap is None or len(clips) <= cap:
        return clips
    return [clips[i * len(clips) // cap] for i in range(cap)]
