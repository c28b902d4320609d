"""About how many seconds steps take on the machine that a profile describes."""

from collections.abc import Sequence

from speechmerge.finetuning.training_recipe import FULL_SECONDS
from speechmerge.merging import methods, searching

from .experiment import Profile

SECONDS_A_WINDOW = 17.0  # of speech in a training window, on average
SECONDS_A_CLIP = 4.5  # of dev, on average
FORWARD = 6.0  # windows that go through a model in the time of training on one; measured with the rows of `selection`
EVALUATIONS = 12  # of a dev loss in the search of λ
HEARD = 0.1  # of the time of decoding a clip that an expert takes to hear it
RESET = 3.0  # to copy a model
EPOCHS = 20  # that a training with patience takes
DESCRIBED = 20  # to describe one set of task vectors


def training(settings: Profile, spec: dict, cells: int) -> float:
    """Return the seconds of a training on so many cells, whose dev clips it hears after every epoch."""
    epochs = min(spec["epochs"], EPOCHS) if spec.get("patience") else spec["epochs"]
    heard = windows(dev_clips(settings))
    trained = (spec["minutes"] * 60 / SECONDS_A_WINDOW + heard / FORWARD) * epochs * cells
    return trained / settings.here.train_windows_per_second


def dev_clips(settings: Profile) -> int:
    """Return how many dev clips a cell has, or about so many."""
    return settings.dev_clips or settings.here.test_clips


def windows(clips: int) -> float:
    """Return the windows that so many clips of dev fill."""
    return clips * SECONDS_A_CLIP / FULL_SECONDS


def search(settings: Profile, asked: dict, cells: int) -> float:
    """Return the seconds of a search by dev loss, and of decoding what it found best."""
    here, clips = settings.here, cells * dev_clips(settings)
    tried = len(asked["values"] or range(EVALUATIONS))
    heard = windows(clips) / (FORWARD * here.train_windows_per_second)
    decoded = (tried if "decoded" in asked else searching.FINALISTS) * clips / here.decode_clips_per_second
    return heard * tried + decoded


def decoding(settings: Profile, spec: dict, needs: Sequence[str], *, merges: bool) -> float:
    """Return the seconds of decoding a cell, and of the merge before it if the step has to make that."""
    here, model = settings.here, spec["model"]
    pace = spec["decoding"].get("beams", 1) / here.decode_clips_per_second
    experts = sum(need.startswith("choose ") for need in needs)
    if "dynamic" in model:
        pace *= experts if model["dynamic"]["system"] in ("guided", "ensemble") else 1 + HEARD * experts
    seconds = (spec["cap"] or here.test_clips) * pace
    return seconds + here.merge_seconds * experts + _measuring(settings, model, pace) if merges else seconds


def _measuring(settings: Profile, model: dict, pace: float) -> float:
    """Return how long a method measures merged models before it merges; 0 for most methods.

    ``pace`` is the seconds that decoding a clip takes.
    """
    method = methods.find(model["method"])
    if not method.measure:
        return 0.0
    cells = [cell for own in model["speech"] for cell in own]
    clips = cells[0]["cap"] or settings.here.test_clips
    if method.measure == "score":
        return (2 * len(model["speech"]) - 1) * len(cells) * clips * pace
    from speechmerge.merging import measuring  # which brings in what trains and decodes

    heard = min(measuring.WINDOWS, windows(clips))
    experts = len(model["speech"])
    steps = method.evaluations(method.check(model["params"], experts=experts), experts)
    speed = settings.here.train_windows_per_second * (FORWARD if method.measure == "loss" else 1)
    return steps * len(cells) * heard / speed
