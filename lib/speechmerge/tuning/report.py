"""The report of a tuning: one HTML page that opens anywhere without a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from . import pictures
from .updates import short

TEMPLATE = "report.html.jinja"
LABELS = {
    "averaging": "averaging",
    "spherical": "on the sphere",
    "sparse": "sparse",
    "lowrank": "low rank, pruned",
    "subspace": "subspaces",
}
AGAINST = {
    "average": "untuned average",
    "own expert": "own experts",
    "base": "base",
    "joint training": "joint training",
}


def page(numbers: Mapping[str, Any]) -> str:
    """Return the page that tells what ``report.json`` holds."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": percent, "points": points, "span": span, "setting": setting}
    picture, outside = pictures.trade_off(numbers)
    against = list(dict.fromkeys(row["against"] for row in numbers["paired"]))
    drawn = {name: Markup(pictures.differences(numbers, name)) for name in ("average", "own expert") if name in against}
    return environment.get_template(TEMPLATE).render(
        n=numbers,
        cells={(row["system"], row["speech"]): row for row in numbers["rows"]},
        systems=list(dict.fromkeys(row["system"] for row in numbers["rows"])),
        means={(row["system"], row["group"]): row for row in numbers["means"]},
        own=[row for row in numbers["paired"] if row["against"] == "own expert"],
        gain=next(row for row in numbers["paired"] if row["against"] == "average" and row["speech"] is None),
        methods=by_method(numbers),
        families={p["family"]: LABELS.get(p["family"], p["family"]) for p in numbers["front"]},
        trade_off=Markup(picture),
        outside=outside,
        curve=Markup(pictures.curve(numbers)),
        differences=drawn,
        against=AGAINST,
        metric=metric(numbers),
    )


def metric(numbers: Mapping[str, Any]) -> str:
    """Name what errors are."""
    tasks = {one["task"] for one in numbers["speech"]}
    names = {"asr": "word error rate, capped at one error a word in each clip", "st": "1 − chrF"}
    return " or ".join(names[task] for task in ("asr", "st") if task in tasks)


def by_method(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the best trial of each method, the best method first, and how many trials it took."""
    rows: dict[str, dict[str, Any]] = {}
    for trial in numbers["tried"]:
        row = rows.setdefault(
            trial["method"], {"title": trial["title"], "family": trial["family"], "count": 0, "best": {}}
        )
        row["count"] += 1
        best = row["best"].get(trial["on"])
        if trial["score"] is not None and (best is None or trial["score"] < best["score"]):
            row["best"][trial["on"]] = trial
    known = [row for row in rows.values() if row["best"]]
    for row in known:
        row["all"], row["some"] = row["best"].get("all"), row["best"].get("some")
        row["shown"] = row["all"] or row["some"]
    return sorted(known, key=lambda row: (row["all"] is None, row["shown"]["score"]))


def percent(value: float | None) -> str:
    """Show a fraction as a percentage."""
    return "–" if value is None else f"{100 * value:.1f}"


def points(value: float) -> str:
    """Show a difference of fractions in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−")


def span(row: Mapping[str, Any], signed: bool = False) -> str:
    """Show an interval."""
    show = points if signed else percent
    return f"{show(row['low'])} to {show(row['high'])}"


def setting(merge: Mapping[str, Any]) -> str:
    """Show a merge's parameters."""
    told = [f"{name} = {short(value)}" for name, value in merge["params"].items()]
    return ", ".join([*told, f"λ = {merge['scaling']:g}"])
