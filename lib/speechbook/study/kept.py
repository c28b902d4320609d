"""The committed predictions of an experiment, beside the clips they were made of: all that scoring needs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from tqdm import tqdm

from speechmerge import corpora
from speechmerge.corpora import Clip
from speechmerge.errors import ScoringError
from speechmerge.evaluation.predictions import Prediction
from speechmerge.evaluation.scoring import Scores, score
from speechmerge.speech import pooled_clips

from . import store
from .plans import Cell, Plan, System


def clips_of(cell: dict, split: str, cap: int | None) -> list[Clip]:
    """Return the clips of a cell as a step's specification holds it."""
    kept = cell.get("kept_apart", "equal")
    return pooled_clips(cell["corpora"], cell["language"], cell["task"], split, cap, kept_apart=kept)


@dataclass(frozen=True)
class Kept:
    """What is known without a model.

    Attributes:
        plan: with the systems that were measured.
        clips: the test clips of every cell that a system is tested on.
        fingerprints: of these clips.
        predictions: of every system of the plan, in its order, cell by cell.
    """

    plan: Plan
    clips: Mapping[Cell, list[Clip]]
    fingerprints: Mapping[Cell, str]
    predictions: Sequence[Mapping[Cell, list[Prediction]]]

    def scores(self) -> list[dict[Cell, Scores]]:
        """Score every system's predictions, cell by cell."""
        return [
            {cell: score(said, self.clips[cell], cell.language, cell.task) for cell, said in own.items()}
            for own in tqdm(self.predictions, desc="score", leave=False)
        ]


def read(plan: Plan, anew: Sequence[System] = ()) -> Kept:
    """Read the predictions of the systems of a plan that have committed rows, and of those measured ``anew``.

    Raises:
        ScoringError: predictions are missing or damaged, or a system that is not measured anew was measured on other
            clips or references than there are now.
    """
    rows = store.measured(plan.profile, plan.name)
    known = {(row["system"], row["variant"], row["seed"]) for row in rows}
    systems = [s for s in plan.systems if s in anew or (s.system, s.variant, s.seed) in known]
    cells = dict.fromkeys(cell for system in systems for cell in system.decodes)
    clips = {cell: clips_of(asdict(cell), "test", plan.settings.test_clips) for cell in cells}
    fingerprints = {cell: corpora.fingerprint(own) for cell, own in clips.items()}
    _check(plan, [s for s in systems if s not in anew], fingerprints, {store.identity(row): row for row in rows})
    everything = store.predictions(plan.profile, plan.name)
    path = store.table_path(plan.profile, f"{plan.name}.predictions")
    said = [{cell: store.spoken(everything, spoken(s, cell), path) for cell in s.decodes} for s in systems]
    return Kept(replace(plan, systems=systems), clips, fingerprints, said)


def _check(plan: Plan, systems: Sequence[System], fingerprints: Mapping[Cell, str], rows: Mapping) -> None:
    """Refuse systems that were measured on other clips or references."""
    for system in systems:
        for cell in system.decodes:
            row = rows.get(store.identity(place(plan, system) | where(cell)))
            if row and row["corpus_fingerprint"] != fingerprints[cell]:
                raise ScoringError(
                    f"{plan.name}: the test speech or references of {cell} are not those that {system.system} was "
                    f"measured on (fingerprint {fingerprints[cell][:12]}, then {row['corpus_fingerprint'][:12]}); "
                    "fetch the version of then, or run the experiment again."
                )


def spoken(system: System, cell: Cell) -> store.Spoken:
    """What tells the transcripts behind a row from others of the experiment."""
    return system.system, system.variant, cell.task, cell.name, system.seed


def place(plan: Plan, system: System) -> dict:
    """What tells the rows of a system from those of others."""
    own = {"system": system.system, "variant": system.variant, "seed": system.seed}
    return {"experiment": plan.name, "split": "test"} | own


def where(cell: Cell) -> dict:
    """What tells the row of a cell from others of its system."""
    return {"task": cell.task, "language": cell.language, "domain": "+".join(cell.corpora)}
