"""What a task would cost: bytes of its states and seconds of its upstreams, before anything is heard."""

from collections.abc import Sequence

from .examples import Example, name_of
from .features import BYTES, frames_of
from .upstreams import described

# Seconds of one core of an AMD EPYC with AVX-512 bf16, measured on Whisper-tiny: 16 µs a frame for ws, 31 µs for hconv.
READ = 8.5e-9  # for one stored number to be read, interpolated and normalised
STEP = 4.0e-11  # for one parameter and frame, forward and backward


def hearing_cost(name: str, examples: Sequence[tuple[Example, bool]], window: str = "full") -> tuple[int, float]:
    """Return the bytes that an upstream's states of some clips take, and the seconds of one core.

    Args:
        name: of an upstream.
        examples: clips, and whether all of a clip's frames are kept; each clip once counts.
        window: what Whisper's encoder hears.
    """
    declared = described(name)
    wanted: dict[str, tuple[Example, bool]] = {}
    for one, whole in examples:
        name = name_of(one.clip)
        wanted[name] = (one, whole or wanted.get(name, (one, False))[1])
    frames = sum(frames_of(one.clip.seconds, declared.rate, whole=whole) for one, whole in wanted.values())
    seconds = declared.cost([one.clip.seconds for one, _ in wanted.values()], window)
    return BYTES * declared.layers * declared.width * frames, seconds


def training_seconds(numbers: int, parameters: int, frames: int) -> float:
    """Return about how many seconds of one core a training takes.

    Args:
        numbers: of a frame's states, over all upstreams.
        parameters: that each frame meets in matrix products.
        frames: in all steps and evaluations.
    """
    return frames * (READ * numbers + STEP * parameters) + 2.0
