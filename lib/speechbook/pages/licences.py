"""Which recordings may stand on a page: the one rule, by the SPDX id of their licence."""

from markupsafe import Markup

from speechmerge import corpora
from speechmerge.corpora import Clip

# Licences under which a recording may be passed on to anybody, for any use, if they are named beside it. What is not
# listed stays where it is: licences that forbid commercial use, terms of a hub's page, speech of one's own.
PASSED_ON = {
    "CC0-1.0": ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "CC-BY-3.0": ("CC BY 3.0", "https://creativecommons.org/licenses/by/3.0/"),
    "CC-BY-4.0": ("CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
    "CC-BY-SA-3.0": ("CC BY-SA 3.0", "https://creativecommons.org/licenses/by-sa/3.0/"),
    "GPL-2.0-only": ("GNU GPL, version 2", "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html"),
    "GPL-2.0-or-later": ("GNU GPL, version 2 or later", "https://www.gnu.org/licenses/old-licenses/gpl-2.0.html"),
    "MIT-Festival": ("MIT, Festival's variant", "https://spdx.org/licenses/MIT-Festival.html"),
}
# Voices that a licence asks to name and the corpus's citation does not; the data card says what is known of them.
VOICES = {
    ("asterisk", "en"): "Allison Smith",
    ("asterisk", "es"): "Allison Smith",
    ("asterisk", "fr"): "June Wallack",
    ("asterisk", "it"): "Carlo Flora",
    ("asterisk", "ru"): "provided by Maxim Topal",
}


def may_be_passed_on(clip: Clip) -> bool:
    """Tell whether the recording of a clip may be embedded in a page that anybody can read."""
    return clip.licence in PASSED_ON


def credit(clip: Clip) -> Markup:
    """Write who made a clip, where it comes from, what was changed, and its licence, as one line of HTML.

    Raises:
        CorpusError: the clip is of no corpus of the registry.
    """
    declared = corpora.find(clip.source)
    name, address = PASSED_ON.get(clip.licence, (clip.licence, ""))
    linked = Markup('<a href="{}">{}</a>').format(address, name) if address else name
    told = [declared.citation.rstrip(".")]
    if voice := VOICES.get((clip.source, clip.language)):
        told.append(f"Voice: {voice}")
    if packages := declared.packages(clip.language):
        told.append(f"From {', '.join(packages)}, converted to 16 kHz mono and not changed otherwise")
    return Markup("{}. Licence: {}.").format(". ".join(told), linked)
