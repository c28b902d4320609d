"""Statistics of speech in a folder beside the expert: collected once, merged later by those who never hear the speech.

The folder holds Gram matrices or Fishers, a record of whose they are and what they were made from, and a card.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from .. import speech
from ..errors import CheckpointError, MethodError, SpeechMergeError, nearest
from ..files import check_writable
from ..finetuning.training_recipe import Source
from ..whisper.checkpoints import fingerprint
from . import calibration
from .calibration import KINDS, RECORD, Statistics
from .methods import LAYERED, STATISTICS, registry

WINDOWS = {"grams": 64, "fishers": 128}  # by default: 30 s windows, and single clips
UNITS = {"grams": "30 s windows", "fishers": "clips"}
WHAT = {
    "grams": "the Gram matrices of the inputs of every linear map (the mean of x xᵀ over the inputs x)",
    "fishers": "the diagonal Fisher information of every tensor (the mean of squared slopes of log p(text | speech))",
}


def kind_of(word: str) -> str:
    """Return the kind of statistics that a word names, in the singular or the plural.

    Raises:
        MethodError: it names none.
    """
    if (found := STATISTICS.get(word, word)) not in KINDS:
        raise MethodError(f"there are no statistics {word!r}.{nearest(word, KINDS)}")
    return found


def collect(
    kind: str,
    expert: Path,
    sources: Sequence[Source],
    output: Path,
    *,
    name: str | None = None,
    split: str = "train",
    windows: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Statistics:
    """Collect statistics of an expert on its own speech into a new folder that can be published.

    Args:
        kind: as :func:`kind_of`.
        expert: folder of the model.
        sources: the speech it was trained on; the windows are shared among them.
        output: the new folder.
        name: of the expert in the card, if not its folder's.
        split: whose clips are drawn.
        windows: most windows (``"grams"``) or clips (``"fishers"``); by default those of :data:`WINDOWS`.
        seed: of the draw.
        progress: show a bar.

    Raises:
        MethodError: an unknown kind.
        CorpusError: a source has no such speech.
        SpeechMergeError: the output exists, or memory or disk are too small; found before the work.
    """
    kind, output = kind_of(kind), Path(output)
    if output.exists():
        raise SpeechMergeError(f"{output} already exists; statistics are written once, so choose another folder.")
    check_writable(output, 0)
    drawn = drawn_for(kind, sources, split, windows, seed)
    clips = [clip for window in drawn for clip in window.clips]
    told = {
        "expert_name": name or Path(expert).resolve().name,
        "speech": [speech.label(source) for source in sources],
        "split": split,
        "seed": seed,
        "clips": len(clips),
        "seconds": round(sum(clip.seconds for clip in clips), 1),
        "library": f"speechmerge {version('speechmerge')}",
    }

    def write_more(folder: Path) -> None:
        whole = json.loads((folder / RECORD).read_text()) | told
        (folder / RECORD).write_text(json.dumps(whole, indent=1, ensure_ascii=False))
        (folder / "README.md").write_text(_card(whole))

    return calibration.collect(kind, expert, drawn, output, write_more=write_more, progress=progress)


def drawn_for(
    kind: str, sources: Sequence[Source], split: str, windows: int | None = None, seed: int = 0
) -> list[calibration.Window]:
    """Return the windows of one expert's speech that statistics are collected on."""
    parts = speech.heard(sources, split)
    return calibration.draw_all(parts, windows or WINDOWS[kind], seed=seed, packed=kind != "fishers")


def opened(folders: Sequence[Path], kind: str, experts: Sequence[Path]) -> list[Statistics]:
    """Open published statistics, one folder for each expert, in their order.

    Args:
        folders: as :func:`collect` wrote them.
        kind: that is wanted.
        experts: folders of the models.

    Raises:
        MethodError: another number of folders.
        CheckpointError: a folder holds something else, or belongs to another model than the expert at its place.
    """
    if len(folders) != len(experts):
        raise MethodError(
            f"there are {len(folders)} folders of statistics for {len(experts)} experts; give one for each, in order."
        )
    marks = [fingerprint(expert) for expert in experts]
    found = []
    for place, (folder, expert) in enumerate(zip(folders, experts, strict=True)):
        statistics = Statistics(folder)
        own, other = statistics.record.get("kind"), statistics.record.get("expert")
        if own != kind:
            raise CheckpointError(f"{folder} holds {own}, but {kind} are needed; collect those of {expert}.")
        if statistics.record.get("version") != calibration.VERSION:
            raise CheckpointError(
                f"{folder} was written by another version of the library "
                f"({statistics.record.get('library', 'unknown')}); collect the statistics of {expert} again."
            )
        if other != marks[place]:
            raise CheckpointError(_strange(statistics, expert, marks, experts))
        found.append(statistics)
    return found


def _strange(statistics: Statistics, expert: Path, marks: Sequence[str], experts: Sequence[Path]) -> str:
    """Say whose statistics stand in the place of an expert's."""
    mark = str(statistics.record.get("expert"))
    name = statistics.record.get("expert_name", "another model")
    if mark in marks:
        advice = f"they belong to {experts[marks.index(mark)]}, so give them in the order of the experts"
    else:
        advice = "the expert was trained again or is another model; collect its statistics"
    return f"{statistics.folder} holds statistics of {name} (fingerprint {mark[:16]}), not of {expert}: {advice}."


def _card(record: Mapping[str, object]) -> str:
    """Return the card: what the folder holds, what it does not, and how it is used."""
    kind, name = record["kind"], record["expert_name"]
    needs = {key: need for need, key in STATISTICS.items()}
    able = [m.name for m in registry().values() if needs[kind] in m.needs and m.name != LAYERED]
    return (
        f"# Statistics of {name}: {kind}\n\nFor merging {name} with other models fine-tuned from the same base, "
        f"without its speech. The folder holds {WHAT[kind]}, collected on {record['windows']} {UNITS[kind]} "
        f"({record['clips']} clips, {record['seconds'] / 60:.1f} minutes) of its own speech.\n\n"
        "It holds no recording and no text, only means over all of that speech. Means over very few clips say more "
        f"about each of them than means over many.\n\n```bash\nspeechmerge merge {able[0]} MERGED {name} OTHER "
        f"--base BASE --statistics THIS_FOLDER --statistics OTHERS_FOLDER\n```\n\nMethods that use it: "
        f"{', '.join(able)}. A model with another fingerprint is refused.\n\n| | |\n|---|---|\n"
        f"| expert | {name}, fingerprint `{record['expert']}` |\n| speech | {', '.join(record['speech'])}, "
        f"{record['split']} split, seed {record['seed']}, fingerprint `{record['data']}` |\n"
        f"| made by | {record['library']} |\n"
    )
