"""FLEURS: the same sentences read in many languages, with which the BoostedTSV-M paper measures what is forgotten.

The paper averages over 21 languages; which ones is not known here, so these are the languages of this book and others
that are widely spoken.
"""

from . import parquet

REGIONS = {
    **{"bg": "bg_bg", "ca": "ca_es", "cs": "cs_cz", "da": "da_dk", "de": "de_de", "el": "el_gr", "en": "en_us"},
    **{"es": "es_419", "fr": "fr_fr", "id": "id_id", "it": "it_it", "ja": "ja_jp", "ko": "ko_kr", "nl": "nl_nl"},
    **{"pl": "pl_pl", "pt": "pt_br", "ro": "ro_ro", "ru": "ru_ru", "sv": "sv_se", "tr": "tr_tr", "zh": "cmn_hans_cn"},
}

DATASET = parquet.Dataset(
    name="fleurs",
    repository="google/fleurs",
    configs=lambda language: [REGIONS[language]],
    columns={"audio": "audio", "text": "raw_transcription"},
    splits={"dev": "validation", "test": "test"},  # there is no need of its training part
    revision="refs/convert/parquet",
)

CORPUS = parquet.corpus(
    DATASET,
    title="FLEURS: the same read sentences in 21 languages",
    licences=dict.fromkeys(REGIONS, "CC-BY-4.0"),
    citation="Alexis Conneau and others: FLEURS, Few-shot Learning Evaluation of Universal Representations, 2022.",
    version=1,  # raise when clips or splits change
)
