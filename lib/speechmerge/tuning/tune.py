"""One tuning from beginning to end: check, read, plan, search, decode, choose, report, write."""

import contextlib
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import corpora
from ..devices import release_memory
from ..errors import CorpusError, SpeechMergeError
from ..evaluation.decoding_settings import Decoding
from ..files import check_free, check_writable
from ..merging import estimates, lengths, validation
from ..merging.merge import Merge, open_merge
from ..whisper import models
from ..whisper.catalogue import BASES
from ..whisper.checkpoints import read_json
from ..whisper.parameter_classes import MATRIX, classify
from ..whisper.weight_files import states
from . import choosing, journal, methods, output, plan, rival, speech, updates
from .ear import Ear
from .lab import Lab
from .request import Request, kept
from .search import SOME, search
from .speech import Speech
from .updates import Updates

log = logging.getLogger(__name__)

LOADED = 2.2  # sizes of the model in fp32 that are in memory as it loads: itself, and what it is given
HEARD, HEARING = 1.25, 3.1e9  # sizes, and bytes besides, while clips are decoded: 3.3 GB with tiny, 4.3 with small
BAR = "{desc}: {percentage:3.0f}% |{bar}| {n:.1f} of {total:.1f} evaluations{postfix}"
OVERHEAD = 1.6e9  # bytes of libraries and kept frames

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Models:
    """The folders of base and experts, and how a recipe names the base."""

    base: Path
    experts: tuple[Path, ...]
    named: str


def tune(asked: Request, place: Path, *, overwrite: bool = False, tell: Tell = log.info) -> dict[str, Any]:
    """Choose a merge by speech and write model, recipe and report into the folder ``place``.

    A tuning that was killed goes on where it was when it is asked for again.

    Args:
        asked: what is tuned, by what speech, with what budget.
        place: the folder to write.
        overwrite: replace an existing folder.
        tell: is told in a line what is done, now and then.

    Returns:
        What ``report.json`` holds.

    Raises:
        MethodError: a method, name or number that cannot be, or a budget that is too small.
        CheckpointError: models that cannot be merged.
        CorpusError: speech that cannot be read, or too little of it.
        SpeechMergeError: the output exists, cannot be written, or memory or disk are too small.
    """
    place = Path(place)
    names = methods.chosen(asked.methods, len(asked.experts))
    found = _models(asked)
    _check_place(place, found)
    check_free(place, overwrite=overwrite, marks=[output.NUMBERS])
    merge = open_merge("task_arithmetic", found.base, found.experts, strict=True)
    validation.check_companions(found.base)
    speeches = speech.load([own for _, own in asked.experts], asked.also)
    allowed = kept(asked.keep, speeches, [folder for folder, _ in asked.experts])
    _check_languages(found.base, speeches)
    room, needed = _checked_room(merge, place)
    tell(needed)
    with journal.opened(place, _identity(asked, found, names, speeches), afresh=overwrite) as work:
        with _tried_quietly():
            joint = rival.trained(asked, work.folder / "joint", speeches) if asked.joint else None
            lab, planned = _prepared(asked, found, speeches, names, work, room, tell)
            ended = _searched(asked, lab, names)
            release_memory()
            tell(f"{len(lab.trials)} merges measured in {work.seconds():.0f} s; now the best ones transcribe")
            choice = choosing.choose(lab, allowed, asked.finalists, planned)
            release_memory()
        tell(f"chosen after {work.seconds():.0f} s: {choice.chosen.system.name}; now the clips that report")
        told = output.Told(asked, found, lab, choice, planned, ended, merge, joint)
        return output.write(told, place, overwrite=overwrite)


@contextlib.contextmanager
def _tried_quietly() -> Iterator[None]:
    """Keep the warning of merges that are far too long to itself: many are tried, and a bad one has a bad loss."""
    logger = logging.getLogger(lengths.__name__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _models(asked: Request) -> Models:
    """Find the folders; the base may be a name."""
    folders = [Path(folder).expanduser() for folder, _ in asked.experts]
    named = asked.base in (*BASES, "smoke")
    base = models.base_model(asked.base)
    for folder in folders:
        if not folder.is_dir():
            raise SpeechMergeError(
                f"the expert {folder} is no folder; give that of a fine-tuned model or of a LoRA adapter."
            )
    return Models(base, tuple(folders), asked.base if named else str(base.resolve()))


def _check_place(place: Path, found: Models) -> None:
    """Raise if the output would take the place of a model that is merged, or of a folder around one."""
    for model in (found.base, *found.experts):
        if model.resolve().is_relative_to(place.resolve()):
            raise SpeechMergeError(f"the output {place} is or holds {model}, a model to merge; name another folder.")


def _check_languages(base: Path, speeches: Sequence[Speech]) -> None:
    """Refuse speech in a language, or for a task, that the base has no token for.

    Raises:
        CorpusError: naming the speech.
    """
    told = read_json(base / "generation_config.json")
    multilingual, known = told.get("is_multilingual", True), told.get("lang_to_id") or {}
    for one in speeches:
        if not multilingual and (one.language, one.task) != ("en", "asr"):
            raise CorpusError(
                f"the base {base} is an English-only model, but {', '.join(one.sources)} is "
                f"{one.language} {one.task}; give a multilingual base and its experts, or English speech."
            )
        if multilingual and f"<|{one.language}|>" not in known:
            raise CorpusError(f"the base {base} has no token for the language {one.language!r} of {one.name}.")


def _checked_room(merge: Merge, place: Path) -> tuple[int, str]:
    """Check memory and disk; return how many merged updates the disk has room for, and the sentence that says it.

    Raises:
        SpeechMergeError: too little of one of them is free.
    """
    size = 4 * sum(math.prod(shape) for shape in merge.base.shapes.values())
    merging = OVERHEAD + max(LOADED * size, size + _merging_room(merge))
    memory = int(max(merging, HEARING + HEARD * size))
    validation.check_memory(memory)
    others = 4 * size  # the result, and the singular vectors that merges share
    check_writable(place, others + updates.FEWEST * size)
    folder = next(folder for folder in place.absolute().parents if folder.is_dir())
    kept = int((shutil.disk_usage(folder).free / 2 - others) / size)
    kept = min(max(kept, updates.FEWEST), updates.MOST)
    disk = others + kept * size
    return kept, f"takes about {memory / 1e9:.1f} GB of memory, and up to {disk / 1e9:.1f} GB of disk while it runs"


def _merging_room(merge: Merge) -> int:
    """Return the bytes that the hungriest methods take, those that see whole matrices of all experts."""
    sizes = [math.prod(shape) for name, shape in merge.base.shapes.items() if classify(name, shape) == MATRIX]
    return 4 * max(sizes, default=0) * (estimates.COPIES["matrices"] * len(merge.experts) + 3)


def _identity(asked: Request, found: Models, names: Sequence[str], speeches: Sequence[Speech]) -> dict[str, Any]:
    """Return what tells a tuning from others: its settings, the model files as they are now, and the speech."""
    settings = {
        name: value for name, value in asdict(asked).items() if name not in ("base", "experts", "also", "train")
    }
    return {
        "settings": {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()},
        "methods": list(names),
        "training": list(map(str, asked.train)),
        "models": list(map(list, dict.fromkeys(s for folder in (found.base, *found.experts) for s in states(folder)))),
        "speech": [
            [one.name, one.expert, corpora.fingerprint(one.choose), corpora.fingerprint(one.report)] for one in speeches
        ],
    }


def _prepared(
    asked: Request,
    found: Models,
    speeches: Sequence[Speech],
    names: Sequence[str],
    work: journal.Journal,
    room: int,
    tell: Tell,
) -> tuple[Lab, plan.Plan]:
    """Plan what is spent, load the model that hears, and measure the references."""
    planned = plan.made(asked, speeches, found.base, work.folder / journal.PLAN)
    heard = [one.cut(planned.clips, asked.seed) for one in speeches]
    ear = Ear(found.base, heard, Decoding(), asked.seed)
    merged = Updates(found.base, found.experts, work.folder / "updates", kept=room, device=asked.device)
    lab = Lab(found.base, found.experts, heard, ear, merged, work)
    lab.refer()
    lab.average()
    if planned.evaluations is None:
        least = len(names) * ear.share(SOME)
        merges = sum(_merging(found, name, asked) for name in names)
        evaluation = work.known[lab.timed]["seconds"]
        counted = plan.granted(planned, asked, spent=work.seconds(), evaluation=evaluation, merges=merges, least=least)
        planned = replace(planned, evaluations=counted)
        plan.keep(planned, work.folder / journal.PLAN)
    lab.grant(planned.evaluations, asked.minutes and 60 * asked.minutes, planned.reserve)
    sizes = ", ".join(f"{one.name} {len(one.choose)}+{len(one.report)}" for one in heard)
    tell(f"{planned.evaluations:g} evaluations of {len(names)} methods, clips that choose + report: {sizes}")
    return lab, planned


def _merging(found: Models, name: str, asked: Request) -> float:
    """Return how long a merge will take, by estimate."""
    first = methods.first(name, asked.seed)
    merge = open_merge(name, found.base, found.experts, device=asked.device, **first.options)
    return estimates.estimate(merge).seconds


def _searched(asked: Request, lab: Lab, names: Sequence[str]) -> bool:
    """Search, with a bar that shows the time left; return whether the search came to its end."""
    with tqdm(total=round(lab.granted, 1), desc="tune", bar_format=BAR, leave=False, disable=None) as bar:

        def ask(candidate, scaling, fidelity):
            before = lab.used
            trial = lab.ask(candidate, scaling, fidelity)
            bar.update(round(lab.used - before, 3))
            bar.set_postfix_str(f"{candidate.method}, {lab.time_left()}")
            return trial

        return search(names, ask, lab.norm, lab.ratios, length=lab.length, seed=asked.seed)
