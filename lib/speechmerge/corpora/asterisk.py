"""Asterisk core sounds: telephone prompts read by one professional voice a language, with the script of each prompt.

Audio ``sounds/<voice>/<id>.g722`` (16 kHz); script ``core-sounds-XX.txt.gz`` with lines ``id: text``. The English
script of the same id is the translation.
"""

import gzip
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from ..errors import CorpusError
from .base import Corpus, Item

# Half of the Spanish script and some of the French is typed without accents ("numero", "contrasena"); Whisper writes
# them, and so does the other half. Each of these words has one right spelling; words with two (esta/está, si/sí) stay.
ACCENTED = {
    "es": """
        atrás aún autenticación búsqueda buzón código comenzará comprendí conexión configuración contraseña contraseñas
        décimo demostración después dieciséis dólar dólares duodécimo duración escucharás estándar estén exclamación
        extensión grabación guiaré información intentaré introducción inválida inválido Japón líder línea logré mañana
        María más menú miércoles millón mínimos numérico número Óscar opción propósito próximo rápidamente reproducción
        sábado será séptimo tecleó telefónico teléfono trigésimo última último undécimo única unirá unirán útil vacías
        válido veintidós veintiséis veintitrés Víctor vigésimo
    """,
    "fr": "désolé écouter enlevé était été être numéro occupés premières présentement problèmes réessayer téléphone",
}
# What a script always misspells: what is found, what is meant.
MISSPELT = {"it": {"erpiacere": "er piacere", "E'": "È"}, "ru": {"то бы ": "тобы "}}

# Prompts whose recording says something else than the script, found by reading the script beside what Whisper hears.
# The Spanish voice says "marque el número siete" for each "Marque 7", see problem().
MISREAD = {
    "es": "letters/exclaimation-point vm-instructions vm-invalid-password vm-mismatch vm-nomore vm-record-prepend",
    "fr": """
        at-tone-time-exactly digits/h-80 dir-last dir-multi3 if-correct-press pbx-parkingfailed please-try-call-later
        sorry-youre-having-problems speed-dial-empty spy-iax2 to-extension vm-marked-urgent vm-mismatch vm-rec-name
        vm-rec-unv vm-review-urgent vm-tomakecall
    """,
    "it": """
        beep beeperr conf-adminmenu-18 conf-adminmenu-menu8 conf-muted conf-placeintoconf confbridge-mute-in
        confbridge-mute-out confbridge-only-one dir-instr please-try-call-later queue-quantity2 queue-thereare
        screen-callee-options vm-rec-temp vm-rec-unv vm-reenterpassword vm-sorry vm-tempgreetactive vm-then-pound
        vm-tohearenv
    """,
}


def _bare(word: str) -> str:
    """Return a word in lower case without accents."""
    return "".join(c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")


WORDS = {language: {_bare(word): word for word in words.split()} for language, words in ACCENTED.items()}


def spell(text: str, language: str) -> str:
    """Mend what a script spells wrongly throughout: missing accents and the entries of ``MISSPELT``."""

    def mend(match: re.Match) -> str:
        word = match[0]
        right = WORDS.get(language, {}).get(_bare(word), word)
        return right[0].upper() + right[1:] if word[0].isupper() else right

    for wrong, right in MISSPELT.get(language, {}).items():
        text = text.replace(wrong, right)
    return re.sub(r"\w+", mend, text)


def clean(text: str) -> str:
    """Take off what is not said: symbols in brackets (``at [@]``), leading dots, quotation marks around all."""
    text = re.sub(r"\[[\W_]*\]", "", text)
    return " ".join(text.split()).lstrip(' .…"“').rstrip(' "”')


def read_script(path: Path) -> dict[str, set[str]]:
    """Read a script: every text given for each id.

    Lines that start with ``;`` are comments; some lines repeat the id before the text; some files are Latin-1.

    Raises:
        CorpusError: the file is missing or is not gzip.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise CorpusError(
            f"{path}: the transcripts cannot be read ({error}); expected a gzip text file, so fetch the package again."
        ) from error
    try:
        lines = raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        lines = raw.decode("latin-1").splitlines()
    texts: dict[str, set[str]] = {}
    for line in lines:
        key, colon, text = line.partition(":")
        key = key.strip()
        if colon and not key.startswith(";"):
            texts.setdefault(key, set()).add(clean(text.strip().removeprefix(f"{key}:")))
    return texts


def problem(name: str, texts: set[str], language: str) -> str | None:
    """Say why a prompt cannot be used although it has a text, or return ``None``."""
    text = " ".join(sorted(texts))
    if len(texts) > 1:
        return "two texts for one id"
    if re.search(r"\w-\w+:", text):  # a line break was lost, so the next prompt's id and text follow
        return "text of another prompt follows"
    if name.startswith("letters/") and len(text) == 1:
        return "name of a single letter"
    if re.search(r"\?\s*[^\W\d_A-Z]", text):  # "La conferenza ? piena": an accented letter was lost
        return "damaged characters"
    if name in MISREAD.get(language, "").split() or (language == "es" and re.search(r"(?i)marque [1-9]", text)):
        return "recording differs from the script"
    return None


def items(language: str, folders: dict[str, Path]) -> Iterator[Item]:
    """Yield every recording but the silences, joined with its script by id."""
    scripts = {}
    for code in {language, "en"}:
        name = f"asterisk-core-sounds-{code}"
        scripts[code] = read_script(folders[name] / f"usr/share/doc/{name}/core-sounds-{code}.txt.gz")
    sounds = folders[f"asterisk-core-sounds-{language}-g722"] / "usr/share/asterisk/sounds"
    for path in sounds.glob("*/**/*.g722"):
        voice, _, name = path.relative_to(sounds).with_suffix("").as_posix().partition("/")
        if name.startswith("silence/"):
            continue
        texts = scripts[language].get(name, {""})
        english = scripts["en"].get(name, set())
        yield Item(
            id=name,
            audio=path,
            text=spell(min(texts), language),
            translation=min(english) if len(english) == 1 else None,
            domain="telephone",
            speaker=voice,
            drop=problem(name, texts, language),
        )


def packages(language: str) -> list[str]:
    """Return the packages of a language: its 16 kHz audio, its script, and the English script."""
    scripts = sorted({f"asterisk-core-sounds-{code}" for code in (language, "en")})
    return [f"asterisk-core-sounds-{language}-g722", *scripts]


CORPUS = Corpus(
    name="asterisk",
    title="Asterisk core sounds: telephone prompts",
    licences=dict.fromkeys(("en", "es", "fr"), "CC-BY-SA-3.0") | dict.fromkeys(("it", "ru"), "CC-BY-3.0"),
    citation="Asterisk project: Asterisk Core Sounds, as packaged for Debian.",
    items=items,
    packages=packages,
    characters_per_second=dict.fromkeys(("en", "es", "fr", "it", "ru"), (2.0, 24.0)),
    version=4,  # raise when clips or splits change
)
