"""The English test sets of the Open ASR leaderboard, on which the BoostedTSV-M paper measures English after merging."""

from . import parquet

CONFIGS = (
    *("ami", "common_voice", "earnings22", "gigaspeech"),
    *("librispeech", "spgispeech", "tedlium", "voxpopuli"),
)

DATASET = parquet.Dataset(
    name="open_asr",
    repository="hf-audio/esb-datasets-test-only-sorted",
    configs=lambda language: list(CONFIGS),  # each is a domain
    columns={"audio": "audio", "text": "text"},
    splits={"test": "test"},
)

CORPUS = parquet.corpus(
    DATASET,
    title="Open ASR leaderboard: English test sets",
    licences={"en": "LicenseRef-open-asr"},
    citation="Vaibhav Srivastav and others: Open ASR Leaderboard, 2023.",
    domains=CONFIGS,
    version=1,  # raise when clips or splits change
)
