"""What was found, in five sentences made from committed rows: the book's first page, and the top of the README."""

from pathlib import Path

import pandas as pd

from .. import claims
from ..tables import evidence, leaders, outcomes, results

PAGE = Path("README.md")
PROFILE = "tiny"  # measured by the protocol
TITLES = {  # of each sentence, and of the chapter that shows it
    "kept": ("What a merge keeps", "Five languages, one model"),
    "joint": ("Against joint training", "Five languages, one model"),
    "methods": ("Between the methods", "Five languages, one model"),
    "claims": ("What the papers say", "What was measured again, and what changed"),
    "domains": ("Ten domains", "Ten domains, one model"),
}
EXPERIMENT, OTHERS = "table1", (claims.WA, claims.MP, claims.SVP, claims.LORS)
BASE, EXPERT, JOINT, TA = claims.BASE, claims.EXPERT, claims.JOINT, claims.TA
NAMES = {BASE: "before fine-tuning", EXPERT: "five experts, each its own language", JOINT: "joint training"}
NAMES |= {TA: "merge: task arithmetic"} | {name: f"merge: {name}" for name in OTHERS}


def sentences(profile: str = PROFILE) -> dict[str, str]:
    """Return what stands under each of the titles, of a profile that was measured by the protocol.

    Raises:
        StudyError: comparisons are missing.
    """
    measured = evidence.measured(profile, EXPERIMENT)
    error = {system: outcomes.value(measured, system, "value") for system in (BASE, EXPERT, JOINT, TA, *OTHERS)}
    merged = [error[system] for system in (TA, *OTHERS)]
    share = outcomes.kept(measured, BASE, EXPERT)
    frames = [evidence.frame(profile, EXPERIMENT, clips=clips) for clips in evidence.CLIPS]
    tested = claims.verdicts(profile)
    tested = tested[claims.measured(tested) & ~tested["id"].str.startswith(claims.FUSION)]  # the page's own
    everywhere, novel = (evidence.verdict(found, TA, JOINT) for found in frames)
    return {
        "kept": f"On five languages the pretrained model makes {error[BASE]:.1f} % word errors, and five experts, each "
        f"on its own language, {error[EXPERT]:.1f} % over all five. One model made by adding to the base a scaled sum "
        f"of what fine-tuning changed in their weights, task arithmetic, makes {error[TA]:.1f} %: it keeps "
        f"{share[TA]:.0f} % of what the experts gained. One model trained on all five languages, joint training, makes "
        f"{error[JOINT]:.1f} % and keeps {share[JOINT]:.0f} %.",
        "joint": f"Held against joint training, sentence by sentence, task arithmetic is {everywhere}. On the test "
        f"sentences that resemble no training sentence it is {novel}.",
        "methods": f"Five ways to merge, task arithmetic among them, make {min(merged):.1f} to {max(merged):.1f} % "
        f"word errors. Held against task arithmetic, {_sorted(frames[0])}.",
        "claims": claims.counted(tested).replace(
            "claims", "published claims about merging tested by the protocol so far", 1
        ),
        "domains": _domains(profile),
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
    found = evidence.frame(profile, "domains")
    means = results.averages(found)
    inside, outside = (leaders.best(means, group) for group in (claims.INSIDE, claims.OUTSIDE))
    at_home = evidence.verdict(found, inside, claims.FULL, place=claims.INSIDE)
    abroad = evidence.verdict(found, outside, claims.FULL, place=claims.OUTSIDE)
    error, far = (
        means[means["place"] == group].set_index("system")["value"] for group in (claims.INSIDE, claims.OUTSIDE)
    )
    return (
        f"On ten voices of a game the pretrained model makes {error[claims.ZERO]:.1f} % word errors, ten experts, each "
        f"tested on its own voice, {error[claims.OWN]:.1f} %, and joint training {error[claims.FULL]:.1f} %. Of "
        f"{len(leaders.one_model(means)['system'].unique())} merges the best on these voices is {inside} "
        f"({error[inside]:.1f} %); held against joint training it is {at_home}. On voices that nobody trained on, "
        f"where joint training makes {far[claims.FULL]:.1f} %, the best is {outside} ({far[outside]:.1f} %); held "
        f"against joint training it is {abroad}."
    )


def render() -> str:
    """Write the sentences as a numbered list, each with its title and the chapter that shows it."""
    found = sentences()
    lines = [f"**{title}.** {found[key]} (*{chapter}*)" for key, (title, chapter) in TITLES.items()]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, 1))
