"""What Whisper is told before it writes: language and task as special tokens."""

from typing import TYPE_CHECKING

from ..errors import TrainingError

if TYPE_CHECKING:
    from transformers import WhisperTokenizer

TASK_NAMES = {"asr": "transcribe", "st": "translate"}  # our names, and Whisper's


def prompt_ids(tokenizer: "WhisperTokenizer", language: str, task: str) -> list[int]:
    """Return ``<|startoftranscript|><|language|><|task|><|notimestamps|>`` as token ids.

    Raises:
        TrainingError: the tokenizer lacks one of them: no language of Whisper, or an English-only model.
    """
    names = [f"<|{name}|>" for name in ("startoftranscript", language, TASK_NAMES[task], "notimestamps")]
    ids = tokenizer.convert_tokens_to_ids(names)
    unknown = [name for name, i in zip(names, ids, strict=True) if i in (None, tokenizer.unk_token_id)]
    if unknown:
        raise TrainingError(
            f"the tokenizer has no {', '.join(unknown)}; take a multilingual Whisper and one of its language codes."
        )
    return ids
