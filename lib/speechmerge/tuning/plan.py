"""How a budget is spent: clips that are heard, evaluations of the search, and time kept for decoding and writing.

Minutes are turned once, by what the machine was measured to do, into two numbers that decide everything else:
evaluations and clips. Both are kept with the work and told in the report; in the place of minutes they repeat it.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import MethodError
from ..evaluation.decoding import Decoder
from . import speech
from .ear import batch
from .request import Request
from .speech import FEW, Speech

DECODING = 0.5  # of the budget, at most, is for decoding
PROBE = 32  # clips that are decoded to learn the speed
SLOWER = 1.25  # merged models transcribe longer, and machines have moods
MOST = 200  # clips of each part of a speech, where nothing else is said
WRITING = 10.0  # seconds for the merged folder and the report, beside two merges


@dataclass(frozen=True)
class Plan:
    """What is spent on what.

    Attributes:
        clips: most clips of each part of a speech.
        crossed: whether every expert is decoded on all speech that reports, not on its own alone.
        evaluations: measurements on all clips that choose; ``None`` until a measurement has been timed.
        per_clip: seconds that decoding a clip takes.
        reserve: seconds kept for decoding and writing.
        reporting: those of it that are for the clips that report, with every expert on its own speech.
    """

    clips: int
    crossed: bool
    per_clip: float
    reserve: float
    reporting: float = 0.0
    evaluations: float | None = None


def made(request: Request, speeches: Sequence[Speech], base: Path, file: Path) -> Plan:
    """Return the plan, the one in ``file`` if the tuning was begun before.

    Raises:
        MethodError: the minutes do not suffice to decode the fewest clips; it says how many would.
    """
    if file.is_file():
        return Plan(**json.loads(file.read_text()))
    if request.minutes is None:
        plan = Plan(request.clips or MOST, True, 0.0, 0.0, evaluations=float(request.evaluations))
    else:
        plan = _timed(request, speeches, _pace(Decoder(base), speeches))
    keep(plan, file)
    return plan


def keep(plan: Plan, file: Path) -> None:
    """Write the plan down."""
    file.write_text(json.dumps(asdict(plan)))


def _pace(decoder: Decoder, speeches: Sequence[Speech]) -> float:
    """Return the seconds that decoding a clip takes, measured on some clips of every speech that is transcribed."""
    decoder.batch = batch(decoder.model)
    told = [one for one in speeches if one.task == speeches[0].task]
    share = -(-PROBE // len(told))
    clips = [(clip, one.language) for one in told for clip in one.choose[:: max(1, len(one.choose) // share)][:share]]
    decoder.decode([clips[0][0]], clips[0][1], told[0].task, progress=False)  # warms up
    started = time.perf_counter()
    decoder.decode([clip for clip, _ in clips], [spoken for _, spoken in clips], told[0].task, progress=False)
    return SLOWER * (time.perf_counter() - started) / len(clips)


def _timed(request: Request, speeches: Sequence[Speech], pace: float) -> Plan:
    """Choose how many clips are heard, so that decoding takes its share of the minutes at most."""
    seconds = DECODING * 60 * request.minutes
    most = min(request.clips or MOST, max(max(one.sizes()) for one in speeches))
    fewest = min(speech.FEWEST, most)

    def cost(clips: int, crossed: bool, chosen: bool = False) -> float:
        """Return seconds of decoding: finalists and average on clips that choose, then systems on those that report."""
        sizes = [tuple(min(clips, size) for size in one.sizes()) for one in speeches]
        own = sum(size[1] for one, size in zip(speeches, sizes, strict=True) if one.expert is not None)
        choose, report = (sum(size[i] for size in sizes) for i in (0, 1))
        heard = 0 if chosen else choose * (request.finalists + 1 + bool(request.keep))
        heard += report * (3 + request.joint)
        return pace * (heard + (len(request.experts) * report if crossed else own))

    if cost(fewest, False) > seconds:
        raise MethodError(
            f"{request.minutes:g} minutes are too little to decode even {fewest} clips of each speech with the "
            f"merges to compare; give about {_minutes(cost(fewest, False) / DECODING)}."
        )
    enough = min(most, FEW)
    crossed = cost(enough, True) <= seconds
    clips = max(n for n in range(fewest, most + 1) if cost(n, crossed) <= seconds or n == fewest)
    return Plan(clips, crossed, pace, cost(clips, crossed) + WRITING, cost(clips, False, chosen=True) + WRITING)


def granted(plan: Plan, request: Request, *, spent: float, evaluation: float, merges: float, least: float) -> float:
    """Return how many evaluations the minutes that are left suffice for.

    Args:
        plan: the plan.
        request: the tuning.
        spent: seconds since it began.
        evaluation: seconds of one measurement on all clips that choose.
        merges: seconds that the first merge of every method takes, by estimate.
        least: evaluations without which not every method is measured once.

    Raises:
        MethodError: they are fewer than ``least``; it says how many minutes would do.
    """
    left = 60 * request.minutes - spent - plan.reserve - 1.5 * merges
    found = left / evaluation
    if found < least:
        more = least * evaluation - left
        raise MethodError(
            f"{request.minutes:g} minutes are too little to measure every method once; give about "
            f"{_minutes(60 * request.minutes + more)}, or fewer --methods."
        )
    return math.floor(10 * found) / 10


def _minutes(seconds: float) -> str:
    return f"{math.ceil(10 * seconds / 60) / 10:g} minutes"
