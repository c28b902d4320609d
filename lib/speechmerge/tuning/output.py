"""What a tuning writes: the merged model, the recipe that repeats it, the report and its numbers."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..files import atomic_folder
from ..machine import hardware
from ..merging import recipe
from ..merging.merge import Merge
from ..merging.methods import find
from . import evidence, worries
from .choosing import Choice, path_of, ranked
from .journal import TRIED
from .lab import Lab
from .plan import Plan
from .request import Request
from .search import ALL, Trial, front
from .systems import AVERAGE, BASE, System
from .updates import Candidate

if TYPE_CHECKING:
    from .tune import Models

MODEL, RECIPE, REPORT, NUMBERS = "model", "recipe.yaml", "report.html", "report.json"
CHOSEN = "chosen merge"
FEW_DOTS = 5  # with no more merges on all clips than that, the trade-off is drawn from those on some of them too


@dataclass(frozen=True)
class Told:
    """All that a report is made of.

    Attributes:
        asked: the tuning.
        found: the folders.
        lab: with all that was measured.
        choice: the merge that was chosen, and what it was chosen from.
        planned: how the budget was spent.
        ended: whether the search came to its end.
        merge: of the experts, opened, for what it says of them.
        joint: the rival's folder.
    """

    asked: Request
    found: "Models"
    lab: Lab
    choice: Choice
    planned: Plan
    ended: bool
    merge: Merge
    joint: Path | None


def write(told: Told, place: Path, *, overwrite: bool) -> dict[str, Any]:
    """Decode what reports, merge, and write everything into ``place`` at once; return what ``report.json`` holds."""
    from . import report

    numbers = told_in_numbers(told)
    with atomic_folder(place, overwrite=overwrite, marks=[NUMBERS]) as folder:
        candidate, scaling = told.choice.chosen.system.merge
        written = content(candidate, scaling, told.found.named, [str(f.resolve()) for f in told.found.experts])
        (folder / RECIPE).write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True), encoding="utf-8")
        base, named = told.found.base, told.found.named
        recipe.read(folder / RECIPE).run(
            folder / MODEL,
            resolve=lambda name: base if name == named else Path(name),
            device=told.asked.device,
            progress=False,
        )
        numbers["seconds"]["all"] = round(told.lab.journal.seconds(), 1)
        (folder / NUMBERS).write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / REPORT).write_text(report.page(numbers), encoding="utf-8")
        shutil.copyfile(told.lab.journal.folder / TRIED, folder / TRIED)
    return numbers


def content(candidate: Candidate, scaling: float, base: str, experts: list[str]) -> dict[str, Any]:
    """Return a merge as a recipe file holds it, all parameters spelt out."""
    method = find(candidate.method)
    parameters = method.check(candidate.options, experts=len(experts))
    kept = {name: value for name, value in parameters.items() if value is not None}
    return {
        "merge_method": method.name,
        "base_model": base,
        "models": [{"model": expert} for expert in experts],
        "parameters": {**kept, "lambda": scaling},
    }


def told_in_numbers(told: Told) -> dict[str, Any]:
    """Return all that the report says, as JSON can hold it."""
    lab, choice, seed = told.lab, told.choice, told.asked.seed
    joint = System("joint training", folder=told.joint) if told.joint else None
    heard = evidence.systems(lab, choice, joint)
    more = told.planned.per_clip * len(lab.experts) * sum(len(one.report) for one in lab.speeches)
    crossed = told.planned.crossed and not lab.late("crossing", told.planned.reporting + more)
    rows, samples = evidence.table(lab, heard, crossed, seed)
    names = [system.name for system in heard]
    of_experts = [i for i, one in enumerate(lab.speeches) if one.expert is not None]
    to_keep = [i for i, one in enumerate(lab.speeches) if one.expert is None]
    groups = {"all": [*of_experts, *to_keep], "experts": of_experts, "kept": to_keep}
    own = evidence.own_experts(lab, samples, [lab.expert(t).name for t in range(len(lab.experts))])
    against = {name: {i: samples[name, i] for i in groups["all"]} for name in _others(names)} | {"own expert": own}
    about = worries.described(told.merge, lab.names)
    numbers = _of_search(told, about) | {
        "kept": _kept(told, samples),
        "rows": rows,
        "means": evidence.means(samples, groups, names),
        "paired": evidence.paired(samples, lab, CHOSEN, against),
        "worst": evidence.worst(lab, heard[-1]),
        "front": _front(lab, of_experts, to_keep),
        "seconds": _seconds(lab),
    }
    said = {
        "choice": worries.of_choice(choice, lab, numbers),
        "models": worries.of_models(about, told.merge, lab),
        "speech": worries.of_speech(lab.speeches),
    }
    return numbers | {"worries": said}


def _of_search(told: Told, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was given, what was tried, and what was chosen."""
    lab, choice = told.lab, told.choice
    return {
        "library": f"speechmerge {version('speechmerge')}",
        "hardware": hardware(),
        "base": told.found.named,
        "experts": [
            {"name": name, "folder": str(folder), "relative": about["relative"][name]}
            for name, folder in zip(lab.names, lab.experts, strict=True)
        ],
        "cosines": about["cosines"],
        "conflict": about["conflict"],
        "speech": [_speech(one) for one in lab.speeches],
        "budget": _budget(told),
        "chosen": _merge(choice.chosen.system.merge) | {"kept": choice.kept, "error": choice.chosen.error},
        "references": lab.references,
        "base_losses": lab.of_base,
        "tried": [_trial(trial) for trial in lab.trials],
        "heard": [
            _merge(one.system.merge)
            | {"name": one.system.name, "errors": list(one.errors), "error": one.error, "keeps": one.keeps}
            | {"score": one.trial.score if one.trial else None}
            for one in ranked(choice)
        ],
        "curve": [_trial(trial) for trial in _curve(told)],
        "failed": lab.failed,
    }


def _others(names: list[str]) -> list[str]:
    return [name for name in names if name in (BASE.name, AVERAGE.name, "joint training")]


def _speech(one) -> dict[str, Any]:
    about = {"name": one.name, "sources": list(one.sources), "language": one.language, "task": one.task}
    about |= {"expert": one.expert, "choose": len(one.choose), "report": len(one.report), "parted": one.parted}
    minutes = [round(sum(clip.seconds for clip in part) / 60, 2) for part in (one.choose, one.report)]
    return about | {"minutes": minutes, "available": list(one.drawn), "dropped": dict(one.dropped)}


def _budget(told: Told) -> dict[str, Any]:
    asked, lab = told.asked, told.lab
    cut = lab.journal.known.get("cut")
    return {
        "minutes": asked.minutes,
        "evaluations": told.planned.evaluations,
        "clips": told.planned.clips,
        "used": round(lab.used, 2),
        "ended": told.ended,
        "cut": bool(cut),
        "finalists": len([one for one in told.choice.heard if one.system != AVERAGE]),
        "late": [key.removeprefix("late ") for key, entry in lab.journal.known.items() if entry.get("late")],
        "seed": asked.seed,
        "share": lab.ear.share("some"),
    }


def _merge(merge: tuple[Candidate, float]) -> dict[str, Any]:
    candidate, scaling = merge
    method = find(candidate.method)
    about = {"method": method.name, "title": method.title, "family": method.family}
    return about | {"params": candidate.options, "scaling": scaling}


def _trial(trial: Trial) -> dict[str, Any]:
    about = _merge((trial.candidate, trial.scaling))
    score = trial.score if trial.usable else None
    return about | {"on": trial.fidelity, "losses": list(trial.losses), "score": score}


def _front(lab: Lab, of_experts: list[int], to_keep: list[int]) -> list[dict[str, Any]]:
    """Return every trial's loss beside the references on the experts' speech and on what must be kept, the best marked.

    Where nothing but the experts' speech was given, the second side is the worst of it.
    """
    points = []
    trials = [trial for trial in lab.trials if trial.usable]
    whole = [trial for trial in trials if trial.fidelity == ALL]
    for trial in whole if len(whole) > FEW_DOTS else trials:
        each = [x / r for x, r in zip(trial.losses, lab.references, strict=True)]
        mean = sum(each[i] for i in of_experts) / len(of_experts)
        other = sum(each[i] for i in to_keep) / len(to_keep) if to_keep else max(each)
        points.append(_merge((trial.candidate, trial.scaling)) | {"experts": mean, "kept": other, "on": trial.fidelity})
    best = front([(point["experts"], point["kept"]) for point in points])
    for place, point in enumerate(points):
        point["front"] = place in best
    return points


def _curve(told: Told) -> list[Trial]:
    """Return the trials along λ of the chosen merge's candidate."""
    candidate, _ = told.choice.chosen.system.merge
    known = next((trial for trial in told.lab.trials if trial.candidate == candidate), None)
    return path_of(told.lab.trials, known)


def _kept(told: Told, samples: Mapping) -> list[dict[str, Any]]:
    rows = []
    for i, allowed in told.choice.allowed.items():
        one = told.lab.speeches[i]
        reference = BASE.name if one.expert is None else told.lab.expert(one.expert).name
        lost = samples[CHOSEN, i][0] - samples[reference, i][0]
        chose = told.choice.chosen.errors[i] - told.choice.references[i]
        row = {"speech": one.name, "allowed": allowed, "reference": reference, "lost_choose": chose}
        rows.append(row | {"lost_report": lost})
    return rows


def _seconds(lab: Lab) -> dict[str, float]:
    """Return what was spent on what, from the journal."""
    found: dict[str, float] = {"merging": 0.0, "measuring": 0.0, "decoding": 0.0}
    kinds = {"merge": "merging", "try": "measuring", "loss": "measuring", "hear": "decoding"}
    for key, entry in lab.journal.known.items():
        if kind := kinds.get(key.partition(" ")[0]):
            found[kind] += entry["seconds"]
    return {kind: round(seconds, 1) for kind, seconds in found.items()}
