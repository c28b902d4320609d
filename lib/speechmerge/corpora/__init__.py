"""Speech corpora under one schema: ``load("asterisk", "es")`` fetches, joins, filters, splits and caches."""

from ..errors import CorpusError, nearest
from . import asterisk, camoes, covost2, festvox_ru, fillets, fleurs, open_asr, stamps, tones, uqm
from .base import SPLITS, Clip, Corpus, Item, assign_split, check, fingerprint, transcript_key
from .building import domains, noncommercial_accepted, read, skipped, stored

__all__ = [
    "SPLITS",
    "Clip",
    "Corpus",
    "Item",
    "assign_split",
    "check",
    "find",
    "fingerprint",
    "load",
    "noncommercial_accepted",
    "registry",
    "skipped",
    "stored",
    "transcript_key",
]

# A new corpus is one file with a CORPUS, named here.
MODULES = (asterisk, stamps, fillets, festvox_ru, uqm, covost2, camoes, fleurs, open_asr, tones)


def registry() -> dict[str, Corpus]:
    """Return every corpus by name."""
    return {module.CORPUS.name: module.CORPUS for module in MODULES}


def find(corpus: str, language: str | None = None) -> Corpus:
    """Return the declaration of a corpus (or of ``CORPUS/DOMAIN``), which must have the language if one is given.

    Raises:
        CorpusError: no corpus of that name, or not in that language; the nearest name is suggested.
    """
    known, corpus = registry(), corpus.partition("/")[0]
    if corpus not in known:
        raise CorpusError(f"There is no corpus {corpus!r}.{nearest(corpus, known)}")
    found = known[corpus]
    if language is not None and language not in found.languages:
        raise CorpusError(f"Corpus {corpus!r} has no language {language!r}; it has {', '.join(found.languages)}.")
    return found


def load(
    corpus: str,
    language: str,
    split: str | None = None,
    *,
    domain: str | None = None,
    accept_noncommercial: bool = False,
) -> list[Clip]:
    """Load the clips of a corpus and language in order of id; the first use fetches and builds them.

    Args:
        corpus: name, e.g. ``"asterisk"``; ``"uqm/pkunk"`` names a domain too.
        language: Whisper's code, e.g. ``"es"``.
        split: ``"train"``, ``"dev"``, ``"test"``, or ``None`` for all.
        domain: only the clips of this domain, in a corpus that has several, e.g. ``"pkunk"`` of ``"uqm"``.
        accept_noncommercial: needed once, to build a corpus whose licence forbids commercial use.

    Raises:
        CorpusError: unknown corpus, language, split or domain, or damaged speech.
        SourceError: the packages cannot be had.
    """
    if split is not None and split not in SPLITS:
        raise CorpusError(f"There is no split {split!r}.{nearest(split, SPLITS)}")
    declared = find(corpus, language)
    domain = domain or corpus.partition("/")[2] or None
    if domain is not None:
        known = domains(declared, language, accept_noncommercial=accept_noncommercial)
        if domain not in known:
            raise CorpusError(f"Corpus {declared.name!r} has no domain {domain!r}.{nearest(domain, known)}")
    clips = read(declared, language, domain=domain, accept_noncommercial=accept_noncommercial)
    return [clip for clip in clips if split in (None, clip.split)]
