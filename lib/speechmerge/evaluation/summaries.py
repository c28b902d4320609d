"""What is told of scores: error rates with intervals, of one language and of averages over several."""

from collections.abc import Sequence

import numpy as np

from .resampling import interval, pooled, resampled_rates
from .scoring import Matches, Scores

SUMS = ("n_utterances", "n_reference_words", "runaway", "substitutions", "deletions", "insertions")
MEANS = ("wer", "cer", "bleu", "chrf")


def summary(scores: Scores) -> dict[str, object]:
    """Return the fields of a row that one language's scores fill: error rates as fractions, BLEU and chrF 0 to 100."""
    low, high = interval(resampled_rates([scores]))
    shared = {"n_utterances": len(scores.ids), "runaway": scores.runaway}
    if isinstance(scores, Matches):
        own = {"n_reference_words": scores.words, "bleu": scores.bleu, "chrf": scores.chrf}
        return shared | own | {"ci_low": 100 * low, "ci_high": 100 * high, "signature": scores.signature}
    edits = {"substitutions": scores.substitutions, "deletions": scores.deletions, "insertions": scores.insertions}
    own = {"n_reference_words": scores.weight, "wer": scores.wer, "cer": scores.cer, "normaliser": scores.normaliser}
    return shared | own | edits | {"ci_low": low, "ci_high": high}


def averages(scores: Sequence[Scores]) -> dict[str, dict[str, object]]:
    """Return the same fields for the averages over languages: ``pooled`` and ``macro`` WER, ``macro`` BLEU."""
    fields = [summary(one) for one in scores]
    whole = {name: sum(row[name] for row in fields) for name in SUMS if name in fields[0]}
    alike = [name for name in ("signature", "normaliser") if name in fields[0]]
    whole |= {name: "; ".join(dict.fromkeys(row[name] for row in fields)) for name in alike}
    mean = {name: float(np.mean([row[name] for row in fields])) for name in MEANS if name in fields[0]}
    unit = 100 if "bleu" in mean else 1
    low, high = interval(resampled_rates(scores, macro=True))
    found = {"macro": whole | mean | {"ci_low": unit * low, "ci_high": unit * high}}
    if unit == 1:
        low, high = interval(resampled_rates(scores))
        letters = sum(one.character_errors for one in scores) / max(1, sum(one.characters for one in scores))
        found["pooled"] = whole | {"wer": pooled(scores), "cer": letters, "ci_low": low, "ci_high": high}
    return found
