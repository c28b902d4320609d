"""One look for every figure: a fixed, colour-blind-safe colour and marker per method family, one font, three sizes.

The colours of merge families are Paul Tol's "muted" scheme, whose members stay apart under the common kinds of colour
blindness; what was trained rather than merged is drawn in greys. Markers repeat the distinction for prints in grey.
"""

import contextlib
from collections.abc import Iterator

import matplotlib as mpl
import seaborn as sns

from speechmerge.merging.methods import registry

WIDTH = 7.2  # inches, the text column of the book
TO, DASH = "\u00a0to\u00a0", "\u2060–\u2060"  # between the ends of an interval that no line break may divide
PLUS_MINUS = "\u00a0±\u00a0"  # between a value and half of its interval, undivided too
# Of each task: the averages over languages that are measured, the one that is shown (as in the paper), and its unit.
AVERAGES = {"asr": ("macro", "pooled"), "st": ("macro",)}
AVERAGE = {"asr": "pooled", "st": "macro"}
UNITS = {"asr": "WER, %", "st": "BLEU"}
TRAINED = {
    "none": "pretrained",
    "fine-tuning": "expert",
    "joint training": "joint",
    "sequential training": "joint",
    **dict.fromkeys(("se_merging", "routing", "predicted_task", "guided", "ensemble"), "dynamic"),
}  # rows that are no merge of the registry
FAMILIES = {  # colour, marker, and name in legends
    "pretrained": ("#8a8a8a", "X", "before fine-tuning"),
    "expert": ("#111111", "D", "own-language expert"),
    "joint": ("#5c5c5c", "s", "joint training"),
    "averaging": ("#332288", "o", "averaging"),
    "spherical": ("#2F8FC0", "v", "on the sphere"),
    "sparse": ("#2F9684", "P", "sparse"),
    "lowrank": ("#CC6677", "^", "pruned: low rank, sparse"),
    "subspace": ("#882255", "<", "task subspaces"),
    "calibrated": ("#117733", ">", "calibrated on data"),
    "learned": ("#88882A", "d", "learned weights"),
    "per_task": ("#AA4499", "p", "a model per task"),
    "dynamic": ("#A8871A", "h", "merged while listening"),
}
COLOURS, MARKERS, LABELS = ({name: look[i] for name, look in FAMILIES.items()} for i in range(3))
LINES = ["#332288", "#CC6677", "#117733", "#882255", "#2F8FC0", "#88882A", "#2F9684", "#AA4499", "#A8871A", "#111111"]
SETTINGS = {  # over those of seaborn's style
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.7,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "savefig.dpi": 200,
    "svg.fonttype": "path",
    "svg.hashsalt": "speechmerge",
}
LANGUAGES = {
    "bg": "Bulgarian",
    "ca": "Catalan",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
    "ro": "Romanian",
    "ru": "Russian",
    "macro": "mean of languages",
    "pooled": "all languages",
}


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Draw and save figures inside this context; nothing outside it changes."""
    with mpl.rc_context(sns.axes_style("whitegrid") | SETTINGS):
        yield


def family(method: str) -> str:
    """Return the family of a row's method: a registered merge, ``none``, ``fine-tuning`` or ``joint training``."""
    return TRAINED[method] if method in TRAINED else registry()[method].family


def language_name(code: str) -> str:
    """Return the English name of a language code; an unknown code is its own name."""
    return LANGUAGES.get(code, code)
