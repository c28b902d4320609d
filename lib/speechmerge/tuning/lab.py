"""Where candidates are measured and heard: models, ear, merged updates and the journal of one tuning."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from ..errors import MethodError
from ..evaluation import scoring
from ..evaluation.predictions import Prediction, read_predictions, write_predictions
from ..files import digest
from ..merging.adapters import open_expert
from ..whisper.checkpoints import Checkpoint, open_checkpoint
from . import methods
from .ear import Ear, error, scored
from .journal import Journal
from .search import ALL, Spent, Trial
from .speech import CHOOSE, Speech
from .systems import BASE, System, merged
from .updates import Candidate, Updates

OVER = 1.1  # of the minutes: what would take longer than that is left out


class Lab:
    """Measures systems on the speech of a tuning; whatever was measured before comes from the journal.

    Args:
        base: the base's folder.
        experts: the experts' folders.
        speeches: what is heard, cut to what the budget allows.
        ear: that hears them.
        updates: of the merges.
        journal: of the tuning.
    """

    def __init__(
        self, base: Path, experts: Sequence[Path], speeches: Sequence[Speech], ear: Ear, updates: Updates,
        journal: Journal,
    ) -> None:  # fmt: skip
        self.base, self.experts, self.speeches = base, list(experts), speeches
        self.ear, self.updates, self.journal = ear, updates, journal
        self.trials: list[Trial] = []
        self.failed: dict[str, str] = {}
        self.used, self.granted, self.deadline, self.until = 0.0, math.inf, math.inf, math.inf
        self.references: list[float] = []
        self._worn: System | None = None
        self._asked: set[tuple[Candidate, float, str]] = set()

        short = [folder.name for folder in self.experts]
        self.names = [n if short.count(n) == 1 else str(f) for n, f in zip(short, self.experts, strict=True)]

    def expert(self, number: int) -> System:
        """Return an expert as a system."""
        return System(f"expert {self.names[number]}", expert=number)

    def refer(self) -> None:
        """Measure what losses are compared with: each expert on its own speech, the base on all.

        Raises:
            MethodError: such a loss is no number, so nothing can be chosen by it.
        """
        self.of_base = self._losses(BASE, range(len(self.speeches)))
        self.references = list(self.of_base)
        for expert in dict.fromkeys(speech.expert for speech in self.speeches if speech.expert is not None):
            places = [i for i, speech in enumerate(self.speeches) if speech.expert == expert]
            for i, loss in zip(places, self._losses(self.expert(expert), places), strict=True):
                self.references[i] = loss
        for speech, loss in zip(self.speeches, self.references, strict=True):
            if not math.isfinite(loss) or loss <= 0:
                who = "the base" if speech.expert is None else self.experts[speech.expert]
                raise MethodError(
                    f"{who} has the loss {loss} on {speech.name}, so nothing can be chosen by it; check the model and "
                    "the transcripts."
                )

    def average(self) -> Trial:
        """Measure the plain average on all clips that choose; it is no part of the search's evaluations."""
        self.norm(methods.AVERAGE)
        trial = self.ask(methods.AVERAGE, 1.0, ALL)
        self.used = 0.0
        return trial

    @property
    def timed(self) -> str:
        """The journal's key of a measurement on all clips that choose, which tells what an evaluation takes."""
        return f"try {methods.AVERAGE.key} 1 {ALL}"

    def grant(self, evaluations: float, seconds: float | None, reserve: float = 0.0) -> None:
        """Allow the search so many evaluations, and end it when all but ``reserve`` of the tuning's seconds are over.

        A search that the clock ended before ends at the same place again.
        """
        cut = self.journal.known.get("cut")
        self.granted = cut["evaluations"] if cut else evaluations
        self.until = math.inf if seconds is None else OVER * seconds
        self.deadline = math.inf if seconds is None else seconds - reserve

    def late(self, what: str, needed: float) -> bool:
        """Tell whether something that takes so many seconds no longer fits the minutes; once said, it stays so."""
        key = f"late {what}"
        if key not in self.journal.known:
            self.journal.add(key, late=self.journal.seconds() + needed > self.until)
        return self.journal.known[key]["late"]

    def time_left(self) -> str:
        """Say how much time the search has left."""
        left = self.deadline - self.journal.seconds()
        if left == math.inf:
            done = max(self.used, 1e-9)
            left = (self.granted - self.used) / done * self.journal.seconds()
        return f"{max(0, left) / 60:.1f} min left"

    def _losses(self, system: System, which: Sequence[int]) -> list[float]:
        key = f"loss {system.key} {','.join(map(str, which))}"
        if key not in self.journal.known:
            before = self.journal.seconds()
            self.wear(system)
            found = self.ear.losses(ALL, which)
            self.journal.add(key, losses=found, seconds=round(self.journal.seconds() - before, 3))
        return self.journal.known[key]["losses"]

    def score(self, losses: Sequence[float]) -> float:
        """Return the mean of losses beside the references; infinite where one is no number."""
        found = math.fsum(x / r for x, r in zip(losses, self.references, strict=True)) / len(self.references)
        return found if math.isfinite(found) else math.inf

    def ratios(self, trial: Trial) -> list[float]:
        """Return a trial's losses beside the references, the mean over each expert's speech."""
        each = [x / r for x, r in zip(trial.losses, self.references, strict=True)]
        own = [[each[i] for i, s in enumerate(self.speeches) if s.expert == t] for t in range(len(self.experts))]
        return [math.fsum(part) / len(part) for part in own]

    def norm(self, candidate: Candidate) -> float:
        """Return the norm of a candidate's update; 0 if it cannot be merged, which is noted with its reason."""
        key = f"merge {candidate.key}"
        if key not in self.journal.known:
            self._check_time()
            try:
                update = self.updates.of(candidate)
            except MethodError as fault:
                self.journal.add(key, candidate=str(candidate), norm=0.0, seconds=0.0, failed=str(fault))
            else:
                about = {"norm": update.norm, "experts": update.experts, "seconds": update.seconds}
                self.journal.add(key, candidate=str(candidate), **about)
        entry = self.journal.known[key]
        if entry.get("failed"):
            self.failed[str(candidate)] = entry["failed"]
        return entry["norm"]

    @property
    def length(self) -> float:
        """Root mean square of the lengths of the experts' updates."""
        return self.journal.known[f"merge {methods.AVERAGE.key}"]["experts"]

    def ask(self, candidate: Candidate, scaling: float, fidelity: str) -> Trial:
        """Measure a merge on some or all clips that choose.

        Raises:
            Spent: the evaluations granted are used up, or the time for them is over.
        """
        fidelity = ALL if self.ear.share(fidelity) == 1 else fidelity
        cost = 0.0 if (candidate, scaling, fidelity) in self._asked else self.ear.share(fidelity)
        if self.used + cost > self.granted + 1e-9:
            raise Spent
        key = f"try {candidate.key} {scaling:g} {fidelity}"
        if key not in self.journal.known:
            self._check_time()
            before = self.journal.seconds()
            self.wear(merged(Trial(candidate, scaling, fidelity, (), 0.0)))
            losses = self.ear.losses(fidelity)
            about = {"method": candidate.method, "params": candidate.options, "scaling": scaling, "on": fidelity}
            seconds = round(self.journal.seconds() - before, 3)
            self.journal.add(key, **about, losses=losses, score=self.score(losses), seconds=seconds)
        self.used += cost
        losses = self.journal.known[key]["losses"]
        trial = Trial(candidate, scaling, fidelity, tuple(losses), self.score(losses))
        if cost:
            self._asked.add((candidate, scaling, fidelity))
            self.trials.append(trial)
        return trial

    def _check_time(self) -> None:
        """End the search where the clock has run ahead of the plan, and note how far it came."""
        if self.journal.seconds() > self.deadline:
            self.granted = self.used
            self.journal.add("cut", evaluations=self.used)
            raise Spent

    def wear(self, system: System) -> None:
        """Give the ear a system's weights."""
        if self._worn != system:
            self.ear.wear(self._weights(system))
            self._worn = system

    def _weights(self, system: System) -> Iterator[tuple[str, Tensor]]:
        if system.merge:
            candidate, scaling = system.merge
            yield from self.updates.of(candidate).at(scaling)
            return
        model = self._opened(system)
        for name in self.updates.opened.shapes:
            yield name, model.read(name)

    def _opened(self, system: System) -> Checkpoint:
        if system.expert is None:
            return open_checkpoint(system.folder) if system.folder else self.updates.opened
        return open_expert(self.updates.opened, self.experts[system.expert])

    def listen(self, system: System, numbers: Sequence[int], part: str = CHOOSE) -> None:
        """Decode some speeches with a system, those that were not yet."""
        files = {i: self._file(system, i, part) for i in numbers}
        missing = [i for i, file in files.items() if not file.is_file()]
        if not missing:
            return
        before = self.journal.seconds()
        self.wear(system)
        for i, heard in zip(missing, self.ear.transcribe(missing, part), strict=True):
            write_predictions(heard, files[i])
        about = {"system": system.name, "speech": [self.speeches[i].name for i in missing], "part": part}
        seconds = round(self.journal.seconds() - before, 3)
        self.journal.add(f"hear {system.key} {part} {','.join(map(str, missing))}", **about, seconds=seconds)

    def _file(self, system: System, number: int, part: str) -> Path:
        return self.journal.folder / "predictions" / f"{digest([system.key, number, part])[:16]}.jsonl.gz"

    def hear(self, system: System, number: int, part: str = CHOOSE) -> list[Prediction]:
        """Return what a system transcribes of one speech."""
        self.listen(system, [number], part)
        return read_predictions(self._file(system, number, part))

    def scores(self, system: System, number: int, part: str = CHOOSE) -> scoring.Scores:
        """Score one speech decoded with a system: capped word errors, or chrF of translations."""
        speech = self.speeches[number]
        return scored(self.hear(system, number, part), speech.part(part), speech)

    def errors_of(self, system: System, number: int, part: str = CHOOSE) -> float:
        """Return the error of a system on one speech, as a fraction."""
        return error(self.scores(system, number, part), self.speeches[number].task)

    def errors(self, system: System, part: str = CHOOSE) -> list[float]:
        """Return the error of a system on each speech, as fractions."""
        self.listen(system, range(len(self.speeches)), part)
        return [self.errors_of(system, i, part) for i in range(len(self.speeches))]
