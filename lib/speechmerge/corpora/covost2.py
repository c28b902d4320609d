"""CoVoST 2: read sentences of Common Voice with English translations, the data of the LoRS paper (arXiv 2502.17380).

The paper fine-tunes on five languages with much and five with little training data and tests on draws of one hour.
"""

from collections.abc import Iterator
from pathlib import Path

from . import parquet
from .base import Corpus, Item

HIGH_RESOURCE, LOW_RESOURCE = ("ca", "de", "es", "fr", "it"), ("id", "nl", "pt", "ru", "sv")
CODES = {"sv": "sv-SE"}  # where the data set's code is not Whisper's

DATASET = parquet.Dataset(
    name="covost2",
    repository="fixie-ai/covost2",
    configs=lambda language: [f"{CODES.get(language, language)}_en"],
    columns={"audio": "audio", "text": "sentence", "translation": "translation", "speaker": "client_id"},
    hours=lambda language: {"train": 5.0 if language in HIGH_RESOURCE else 1.0, "dev": 1.0, "test": 1.0},
)


def items(language: str, folders: dict[str, Path]) -> Iterator[Item]:
    """Yield the paper's draws: 5 h or 1 h of training speech, 1 h each of dev and test."""
    return parquet.items(DATASET, language)


CORPUS = Corpus(
    name="covost2",
    title="CoVoST 2: read sentences of many speakers",
    licences=dict.fromkeys((*HIGH_RESOURCE, *LOW_RESOURCE), "CC0-1.0"),
    citation="Changhan Wang, Anne Wu, Juan Pino: CoVoST 2 and Massively Multilingual Speech-to-Text Translation, 2020.",
    items=items,
    hub=DATASET.repository,
    settings=lambda: [parquet.columns(DATASET)],
    version=1,  # raise when clips or splits change
)
