"""What was found, in five sentences made from committed rows: the book's first page, and the top of the README."""

from pathlib import Path

import pandas as pd

from .. import claims
from ..study import protocol, store
from ..study.experiments import settings_of
from ..tables import evidence, leaders, outcomes, results

PAGE = Path("README.md")
PROFILE, BEFORE = "tiny", "speech"  # measured by the protocol, and before it
TITLES = {  # of each sentence, and of the chapter that shows it
    "kept": ("What a merge keeps", "Five languages, one model"),
    "joint": ("Against joint training", "Five languages, one model"),
    "methods": ("Between the methods", "Five languages, one model"),
    "claims": ("What the papers say", "What was measured again, and what changed"),
    "domains": ("Ten domains", "Ten domains, one model"),
}
EXPERIMENT, OTHERS = "table1", (claims.WA, claims.MP, claims.SVP, claims.LORS)
BASE, EXPERT, JOINT, TA = claims.BASE, claims.EXPERT, claims.JOINT, claims.TA


def sentences(profile: str = PROFILE, before: str = BEFORE) -> dict[str, str]:
    """Return what stands under each of the titles.

    Args:
        profile: measured by the protocol.
        before: whose ten domains are told of while the profile has no rows of them.

    Raises:
        StudyError: comparisons are missing.
    """
    measured = evidence.measured(profile, EXPERIMENT)
    error = {system: outcomes.value(measured, system, "value") for system in (BASE, EXPERT, JOINT, TA)}
    gained = error[BASE] - error[EXPERT]
    share = f", which is {100 * (error[BASE] - error[TA]) / gained:.0f} % of the way" if gained > 0 else ""
    frames = [evidence.frame(profile, EXPERIMENT, clips=clips) for clips in evidence.CLIPS]
    tested = claims.verdicts(profile)
    tested = tested[claims.measured(tested) & ~tested["id"].str.startswith(claims.FUSION)]  # the page's own
    everywhere, novel = (evidence.verdict(found, TA, JOINT) for found in frames)
    return {
        "kept": f"On five languages the pretrained model makes {error[BASE]:.1f} % word errors and five experts, each "
        f"on its own language, {error[EXPERT]:.1f} %. One model, made by adding up what the five learnt, makes "
        f"{error[TA]:.1f} %{share}.",
        "joint": f"One model trained on all five languages together makes {error[JOINT]:.1f} %. Held against it, the "
        f"merged model is {everywhere}; on sentences unlike any it was trained on, {novel}.",
        "methods": f"Four other ways to add up the five, held against the plain sum: {_sorted(frames[0])}.",
        "claims": f"Tested by the rules of this book so far: o{claims.counted(tested)[1:]}",
        "domains": _domains(profile if store.measured(profile, "domains") else before),
    }


def _sorted(found: pd.DataFrame) -> str:
    """Say of each other merge how it compares with task arithmetic, those of one verdict together."""
    said: dict[str, list[str]] = {}
    for system in OTHERS:
        said.setdefault(evidence.verdict(found, system, TA).partition(" (")[0], []).append(system)
    return "; ".join(
        f"{results.joined(names)} {'is' if len(names) == 1 else 'are'} {word}" for word, names in said.items()
    )


def _domains(profile: str) -> str:
    found = results.read(profile, "domains", capped=True)
    measured = "" if protocol.governs(settings_of(profile, "domains")) else " (measured before these rules)"
    means = results.averages(found)
    inside, outside = (leaders.best(means, group) for group in (claims.INSIDE, claims.OUTSIDE))
    at_home = results.verdict(found, inside, claims.FULL, place=claims.INSIDE)
    abroad = results.verdict(found, outside, claims.FULL, place=claims.OUTSIDE)
    return (
        f"Of {len(leaders.one_model(means)['system'].unique())} merges of ten experts for ways of speaking English, "
        f"{inside} is the best on their own domains and makes {at_home} joint training there; on domains nobody "
        f"trained on {outside} is the best and makes {abroad} it, no utterance counting more errors than it has "
        f"words{measured}."
    )


def render() -> str:
    """Write the sentences as a numbered list, each with its title and the chapter that shows it."""
    found = sentences()
    lines = [f"**{title}.** {found[key]} (*{chapter}*)" for key, (title, chapter) in TITLES.items()]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
