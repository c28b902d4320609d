"""The Hugging Face hub as a source of models: asked once, briefly; its local cache serves when it does not answer."""

import functools
import logging
import threading
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from .errors import SourceError

log = logging.getLogger(__name__)

PROBE_SECONDS = 3.0
WANTED = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "normalizer.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
]


@functools.cache
def reachable(repository: str, file: str = "config.json", *, kind: str = "model") -> bool:
    """Whether the hub gives a file of ``repository`` within ``PROBE_SECONDS``; never when ``HF_HUB_OFFLINE`` is set.

    The request runs in a thread of its own because looking up a host name cannot be given a time limit.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    answers = []

    def ask() -> None:
        try:
            answers.append(get_hf_file_metadata(hf_hub_url(repository, file, repo_type=kind), timeout=PROBE_SECONDS))
        except Exception as error:  # whatever the client raises, and that depends on its version, the answer is no
            log.info("the hub does not give %s: %s", repository, error)

    probe = threading.Thread(target=ask, daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)
    return bool(answers)


def snapshot(repository: str) -> Path | None:
    """Return a folder with the files of ``repository`` that a model needs, or ``None`` if neither hub nor cache has it.

    Raises:
        SourceError: the hub answered, but the download failed.
    """
    online = reachable(repository)
    try:
        folder = Path(snapshot_download(repository, allow_patterns=WANTED, local_files_only=not online))
    except LocalEntryNotFoundError:
        return None
    except Exception as error:  # the client's own kinds of transport error, which depend on its version
        raise SourceError(
            f"{repository}: the hub answered, but the download failed ({error}). Try again, or set HF_HUB_OFFLINE=1 "
            "to use the next source."
        ) from error
    complete = (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))
    return folder if complete else None
