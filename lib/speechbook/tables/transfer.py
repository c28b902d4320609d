"""What an expert does to other languages, and whether the angle between task vectors foretells it."""

import numpy as np
import pandas as pd
from scipy import stats

from speechmerge.evaluation.resampling import RESAMPLES, interval

from .results import differences, ordered

FEWEST = 4  # pairs without which a rank correlation says nothing


def matrix(found: pd.DataFrame, rows: pd.DataFrame, against: str) -> pd.DataFrame:
    """Return what every expert changes in every language, or in every domain.

    Args:
        found: a frame (:mod:`.results`).
        rows: of the same experiment, for the languages of the experts.
        against: the pretrained model's name.

    Returns:
        Columns ``row`` (the expert's language), ``column`` (the language tested), ``value, low, high`` in points of
        word error rate against the pretrained model, and ``before``, its rate in per cent.
    """
    trained = {row.system: row.experts[0].split(":")[0] for row in rows.itertuples() if row.method == "fine-tuning"}
    before = found[found["against"].isna() & (found["system"] == against)].set_index("place")["value"]
    changes = differences(found, against)
    kept = changes[changes["place"].isin(trained.values()) & changes["system"].isin(trained)]
    table = kept.assign(row=kept["system"].map(trained), column=kept["place"], before=kept["place"].map(before))
    table = ordered(table, row=trained.values(), column=trained.values())
    return table[["row", "column", "value", "low", "high", "before"]]


def pairs(table: pd.DataFrame, cosines: pd.DataFrame) -> pd.DataFrame:
    """Return one line a pair of languages: the cosine of their task vectors, and what each does to the other.

    Args:
        table: what :func:`matrix` returns.
        cosines: columns ``a, b, cosine``.

    Returns:
        Columns ``label, x, value, low, high``: the cosine, and the change in per cent of the pretrained model's errors,
        the mean of both directions. The ends of the interval are means too, which makes it no narrower than it should
        be.
    """
    ends = ["value", "low", "high"]
    relative = table.set_index(["row", "column"])
    relative = 100 * relative[ends].div(relative["before"], axis=0)
    lines = []
    for pair in cosines.itertuples():
        both = relative.loc[[(pair.a, pair.b), (pair.b, pair.a)]].mean()
        lines.append((f"{pair.a}–{pair.b}", pair.cosine, *both[ends]))
    return pd.DataFrame(lines, columns=["label", "x", *ends])


def rank_correlation(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return Spearman's rank correlation with its 95 % bootstrap interval over pairs.

    Pairs that share a language are not independent, so the interval is rather too narrow than too wide.

    Args:
        x: shape ``[n]``.
        y: shape ``[n]``.

    Returns:
        ``(correlation, low, high)``; three NaN where there are fewer than :data:`FEWEST` pairs.
    """
    if len(x) < FEWEST:
        return (float("nan"),) * 3
    drawn = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    samples = _correlations(np.asarray(x)[drawn], np.asarray(y)[drawn])
    return float(_correlations(np.asarray(x)[None], np.asarray(y)[None])[0]), *interval(samples[~np.isnan(samples)])


def _correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation of each line of two ``[R, n]`` arrays, equal values sharing their mean rank; NaN if constant."""
    ranks = [stats.rankdata(values, axis=1) for values in (x, y)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    lengths = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), lengths, out=np.full(len(a), np.nan), where=lengths > 0)


def by_scope(table: pd.DataFrame, cosines: pd.DataFrame, scopes: dict[str, str]) -> pd.DataFrame:
    """Return the rank correlation of change and cosine, for cosines over different parts of the network.

    Args:
        table: what :func:`matrix` returns.
        cosines: rows of kind ``cosine``: columns ``scope, a, b, cosine``.
        scopes: of the parts, with the names they are shown by.
    """
    lines = {}
    for scope, name in scopes.items():
        found = pairs(table, cosines[cosines["scope"] == scope])
        value, low, high = rank_correlation(found["x"].to_numpy(), found["value"].to_numpy())
        lines[name] = {"mean cosine": found["x"].mean(), "rank correlation": value, "95 % from": low, "to": high}
    return pd.DataFrame.from_dict(lines, orient="index")
