"""CAMÕES: European Portuguese speech of several domains, the data of the BoostedTSV-M paper (arXiv 2603.05354).

How its columns are called could not be seen when this was written: the names below are the usual ones, and
``SPEECHMERGE_COLUMNS`` replaces them, e.g. ``"camoes.text=transcript camoes.domain=source"``.
"""

from . import parquet

DATASET = parquet.Dataset(
    name="camoes",
    repository="inesc-id/camoes_asr",
    configs=lambda language: [""],
    columns={"audio": "audio", "text": "text", "domain": "domain"},
)

CORPUS = parquet.corpus(
    DATASET,
    title="CAMÕES: European Portuguese of several domains",
    licences={"pt": "LicenseRef-camoes"},
    citation="Carlos Carvalho and others: CAMÕES, a Comprehensive ASR Benchmark for European Portuguese, 2025.",
    version=1,  # raise when clips or splits change
)
