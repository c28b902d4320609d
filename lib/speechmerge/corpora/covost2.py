"""CoVoST 2: read sentences of Common Voice with English translations, the data of the LoRS paper (arXiv 2502.17380).

The paper fine-tunes on five languages with much and five with little training data and tests on draws of one hour.
"""

from . import parquet

HIGH_RESOURCE, LOW_RESOURCE = ("ca", "de", "es", "fr", "it"), ("id", "nl", "pt", "ru", "sv")
CODES = {"sv": "sv-SE"}  # where the data set's code is not Whisper's

DATASET = parquet.Dataset(
    name="covost2",
    repository="fixie-ai/covost2",
    configs=lambda language: [f"{CODES.get(language, language)}_en"],
    columns={"audio": "audio", "text": "sentence", "translation": "translation", "speaker": "client_id"},
    hours=lambda language: {"train": 5.0 if language in HIGH_RESOURCE else 1.0, "dev": 1.0, "test": 1.0},
)

CORPUS = parquet.corpus(
    DATASET,
    title="CoVoST 2: read sentences of many speakers",
    licences=dict.fromkeys((*HIGH_RESOURCE, *LOW_RESOURCE), "CC0-1.0"),
    citation="Changhan Wang, Anne Wu, Juan Pino: CoVoST 2 and Massively Multilingual Speech-to-Text Translation, 2020.",
    version=1,  # raise when clips or splits change
)
