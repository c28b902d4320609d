"""Speech corpora under one schema: ``load("asterisk", "es")`` fetches, joins, filters, splits and caches."""

from pathlib import Path

from ..errors import CorpusError, nearest
from . import asterisk, camoes, covost2, festvox_ru, fillets, fleurs, nearness, open_asr, own, stamps, tones, uqm
from .base import SPLITS, Clip, Corpus, Item, assign_split, check, fingerprint, together, transcript_key
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
    "is_registered",
    "load",
    "noncommercial_accepted",
    "own",
    "registry",
    "skipped",
    "stored",
    "together",
    "transcript_key",
]

# A new corpus is one file with a CORPUS, named here.
KEPT_APART = ("equal", "near")  # which sentences never stand in two splits
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
    corpus: str | Path,
    language: str,
    split: str | None = None,
    *,
    domain: str | None = None,
    kept_apart: str = "equal",
    accept_noncommercial: bool = False,
) -> list[Clip]:
    """Load the clips of a corpus and language in order of id; the first use fetches and builds them.

    Args:
        corpus: name, e.g. ``"asterisk"``; ``"uqm/pkunk"`` names a domain too. Or speech of one's own, by a path or
            ``hub:OWNER/NAME[:CONFIG]`` (:mod:`.own`); a name of the registry goes before a path of that name.
        language: Whisper's code, e.g. ``"es"``.
        split: ``"train"``, ``"dev"``, ``"test"``, or ``None`` for all.
        domain: only the clips of this domain, in a corpus that has several, e.g. ``"pkunk"`` of ``"uqm"``.
        kept_apart: which sentences never stand in two splits: ``"equal"`` ones, or ``"near"`` ones
            (:mod:`.nearness`); for corpora from packages, others keep the splits of their source.
        accept_noncommercial: needed once, to build a corpus whose licence forbids commercial use.

    Raises:
        CorpusError: unknown corpus, language, split or domain, or damaged speech.
        SourceError: the packages cannot be had.
    """
    if split is not None and split not in SPLITS:
        raise CorpusError(f"There is no split {split!r}.{nearest(split, SPLITS)}")
    if kept_apart not in KEPT_APART:
        raise CorpusError(f"There are no splits {kept_apart!r}.{nearest(kept_apart, KEPT_APART)}")
    corpus = str(corpus)
    if not is_registered(corpus):
        return [clip for clip in _own(corpus, language, domain, kept_apart) if split in (None, clip.split)]
    declared = find(corpus, language)
    domain = domain or corpus.partition("/")[2] or None
    if domain is not None:
        known = domains(declared, language, accept_noncommercial=accept_noncommercial)
        if domain not in known:
            path = f" The folder of that name is ./{corpus}." if own.is_own(corpus) else ""
            raise CorpusError(f"Corpus {declared.name!r} has no domain {domain!r}.{nearest(domain, known)}{path}")
    clips = read(declared, language, domain=domain, accept_noncommercial=accept_noncommercial)
    if kept_apart == "near" and declared.packages(language):
        clips = nearness.applied(clips)
    return [clip for clip in clips if split in (None, clip.split)]


def is_registered(corpus: str) -> bool:
    """Tell whether this names a corpus of the registry (or ``CORPUS/DOMAIN``), not speech of one's own."""
    return corpus.partition("/")[0] in registry()


def _own(where: str, language: str, domain: str | None, kept_apart: str) -> list[Clip]:
    """Return all clips of speech that is no corpus of the registry."""
    if not own.is_own(where):
        if "/" in where or where.startswith(("~", ".")):
            raise CorpusError(f"{where}: there is no such file or folder, and no corpus of that name.")
        raise CorpusError(
            f"There is no corpus {where!r}.{nearest(where, registry())} Speech of your own is named by the path of its "
            "file or folder, which must exist."
        )
    if domain is not None:
        raise CorpusError(f"{where}: speech of one's own has no domains, found {domain!r}; leave it out.")
    return own.read(where, language, kept_apart=kept_apart).clips


def packaged() -> list[Clip]:
    """Load all clips of all corpora that come as packages: what :mod:`.nearness` keeps apart.

    Raises:
        CorpusError, SourceError: as :func:`load`; the licence of one forbids commercial use.
    """
    pairs = [(corpus, language) for corpus in registry().values() for language in corpus.languages]
    return [clip for corpus, language in pairs if corpus.packages(language) for clip in read(corpus, language)]
