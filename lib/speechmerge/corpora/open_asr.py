"""The English test sets of the Open ASR leaderboard, on which the BoostedTSV-M paper measures English after merging."""

from collections.abc import Iterator
from pathlib import Path

from . import parquet
from .base import Corpus, Item

CONFIGS = (
    *("ami", "common_voice", "earnings22", "gigaspeech"),
    *("librispeech", "spgispeech", "tedlium", "voxpopuli"),
)

DATASET = parquet.Dataset(
    name="open_asr",
    repository="hf-audio/esb-datasets-test-only-sorted",
    configs=lambda language: list(CONFIGS),
    columns={"audio": "audio", "text": "text"},
    splits={"test": "test"},
)


def items(language: str, folders: dict[str, Path]) -> Iterator[Item]:
    """Yield every clip of every set; the set is the domain."""
    return parquet.items(DATASET, language)


CORPUS = Corpus(
    name="open_asr",
    title="Open ASR leaderboard: English test sets",
    licences={"en": "LicenseRef-open-asr"},
    citation="Vaibhav Srivastav and others: Open ASR Leaderboard, 2023.",
    items=items,
    domains=CONFIGS,
    hub=DATASET.repository,
    settings=lambda: [parquet.columns(DATASET)],
    version=1,  # raise when clips or splits change
)
