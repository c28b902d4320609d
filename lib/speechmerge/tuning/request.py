"""What a tuning is asked for, checked as far as it can be before anything is read."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import MethodError, nearest
from ..finetuning.training_recipe import Source
from .speech import Speech

MINUTES = 10.0


@dataclass(frozen=True)
class Request:
    """A tuning.

    Attributes:
        base: name or folder of the experts' base.
        experts: for each expert its folder (a full model or a peft LoRA adapter) and its speech.
        also: speech that must be kept though no expert is for it.
        keep: by the name of speech, how much error it may gain beside its reference, as a fraction.
        minutes: budget of time, from which ``evaluations`` and ``clips`` follow once.
        evaluations: how many measurements on all clips that choose the search may take; instead of ``minutes``.
        clips: most clips of each part of each speech; with ``evaluations``.
        methods: names, ``("all",)``, or ``None`` for the default.
        joint: whether the base is also trained on all experts' training speech, as the rival.
        train: training speech of the rival; if none, the train splits of the experts' speech.
        seed: of draws and of random methods.
        device: where merges are computed.
        finalists: how many merges are decoded on the clips that choose.
    """

    base: str
    experts: tuple[tuple[str, tuple[Source, ...]], ...]
    also: tuple[tuple[Source, ...], ...] = ()
    keep: tuple[tuple[str, float], ...] = ()
    minutes: float | None = MINUTES
    evaluations: float | None = None
    clips: int | None = None
    methods: tuple[str, ...] | None = None
    joint: bool = False
    train: tuple[Source, ...] = ()
    seed: int = 0
    device: str = "cpu"
    finalists: int = 3

    def __post_init__(self) -> None:
        """Refuse what no speech or model can make right."""
        folders = [str(Path(folder).expanduser().resolve()) for folder, _ in self.experts]
        if not folders:
            raise MethodError("no expert is given; name each with its speech, --expert FOLDER SPEECH.")
        if len(folders) == 1 and not self.also:
            raise MethodError(
                f"one expert alone, {self.experts[0][0]}, has nothing to be merged with; give another --expert, or "
                "with --also the speech that its merge with the base must keep."
            )
        for number, folder in enumerate(folders):
            if folder in folders[:number]:
                raise MethodError(
                    f"the expert {self.experts[number][0]} is named twice; name it once, with all its speech joined by "
                    "commas."
                )
        for name, loss in self.keep:
            if not 0 <= loss < 1:
                raise MethodError(
                    f"--keep {name}:{loss:g} is no share of words; write 0.02 for at most two points more errors."
                )
        for what, value in (("minutes", self.minutes), ("evaluations", self.evaluations), ("clips", self.clips)):
            if value is not None and not value > 0:
                raise MethodError(f"{what} is {value!r}; expected a number above 0.")


def pair(text: str) -> tuple[str, float]:
    """Read ``NAME:LOSS`` of ``--keep``.

    Raises:
        MethodError: it is not of that form.
    """
    name, _, loss = text.rpartition(":")
    with contextlib.suppress(ValueError):
        if name:
            return name, float(loss)
    raise MethodError(f"--keep {text!r} is not NAME:LOSS, for example es:0.02 for at most two points.")


def kept(keep: Sequence[tuple[str, float]], speeches: Sequence[Speech], experts: Sequence[str]) -> dict[int, float]:
    """Return what each speech may lose at most, by its number.

    A name may be that of a speech, its language, its source as it was given, or its expert's folder.

    Raises:
        MethodError: a name stands for no speech that was given, or twice.
    """
    words = [
        [speech.language, *speech.sources, *speech.places]
        + ([] if speech.expert is None else [experts[speech.expert], Path(experts[speech.expert]).name])
        for speech in speeches
    ]
    found: dict[int, float] = {}
    for name, loss in keep:
        hits = [i for i, speech in enumerate(speeches) if name == speech.name]
        hits = hits or [i for i, own in enumerate(words) if name in own]
        if not hits:
            known = dict.fromkeys(speech.name for speech in speeches)
            raise MethodError(f"--keep names {name!r}, but no such speech was given.{nearest(name, known)}")
        for i in hits:
            if i in found:
                raise MethodError(f"--keep says twice what {speeches[i].name} may lose; say it once.")
            found[i] = loss
    return found
