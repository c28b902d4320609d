"""What a merge is given beside the models: speech to hear, or statistics that were published with the experts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import speech
from ..errors import MethodError
from ..files import atomic_folder
from ..finetuning.training_recipe import Source
from ..packages import artefact
from ..whisper import companions
from ..whisper.checkpoints import fingerprint, open_checkpoint
from ..whisper.whisper_folder import write_folder
from . import adapters, measuring, methods, published


@dataclass(frozen=True)
class Given:
    """Speech or statistics, and how much of the speech is heard.

    Attributes:
        speech: for each expert, in order, what it was trained on; for methods that measure merged models, what the
            merge should be good at.
        statistics: folders that :func:`speechmerge.merging.published.collect` wrote, one for each expert.
        split: whose clips are heard; by default dev for methods that measure, train for statistics.
        windows: most 30 s windows of each expert (for Fishers, clips); by default as :data:`published.WINDOWS`, and
            :data:`measuring.WINDOWS` for methods that measure.
        clips: most clips of each source, every n-th.
        seed: of the draw.
    """

    speech: tuple[tuple[Source, ...], ...] = ()
    statistics: tuple[Path, ...] = ()
    split: str | None = None
    windows: int | None = None
    clips: int | None = None
    seed: int = 0

    def check(self, name: str, experts: int) -> None:
        """Check that a method gets what it needs, and nothing it has no use for.

        Raises:
            MethodError: it does not.
        """
        method = methods.find(name)
        if self.speech and self.statistics:
            raise MethodError("speech and statistics are both given; statistics stand in the place of speech.")
        if not method.data:
            if self.speech or self.statistics:
                what = "speech" if self.speech else "statistics"
                raise MethodError(f"{name} merges from the models alone, but {what} are given; leave them out.")
            return
        if self.statistics and (method.measure or name == methods.LAYERED):
            why = "measures merged models" if method.measure else "collects along the merge, all experts together"
            raise MethodError(f"{name} {why}, so statistics of single experts cannot serve; give speech (--speech).")
        if not self.speech and not self.statistics:
            raise MethodError(_lacking(method))
        given = self.speech or self.statistics
        if len(given) != experts and not method.measure:
            what = "--speech" if self.speech else "--statistics"
            raise MethodError(
                f"{name} needs {what} once for each expert, in their order: {experts} experts, {len(given)} given."
            )

    def extras(
        self, name: str, base: Path, experts: Sequence[Path], params: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the engine's ``extras``, and what the merge's record says of the data.

        Statistics of speech are collected once and kept in the cache.

        Args:
            name: of the method.
            base: the base's folder.
            experts: the experts' folders, in order; adapters are read as the models they make of the base.
            params: the method's parameters.

        Raises:
            CheckpointError, CorpusError: statistics are not the experts', or there is no such speech.
        """
        method = methods.find(name)
        if not method.data:
            return {}, {}
        kinds = [key for key in method.data if key in methods.STATISTICS.values()]
        models = [whole(expert, base) for expert in experts] if kinds else list(experts)
        if self.statistics:
            found = {kind: published.opened(self.statistics, kind, models) for kind in kinds}
            return found, {"statistics": [_said(one.record) for own in found.values() for one in own]}
        split = self.split or ("dev" if method.measure else "train")
        windows = self.windows or (published.WINDOWS[kinds[0]] if kinds else measuring.WINDOWS)
        heard = [speech.heard(own, split, self.clips) for own in self.speech]
        found = measuring.extras(name, base, models, heard, params, windows=windows, seed=self.seed)
        told = {
            "speech": [[speech.label(source) for source in own] for own in self.speech],
            "split": split,
            "seed": self.seed,
        }
        if method.measure == "score":
            return found, told | {"clips": sum(len(part[0]) for own in heard for part in own)}
        return found, told | {"windows": windows}

    def stand_ins(self, name: str, experts: int) -> dict[str, Any]:
        """Return ``extras`` with nothing in them, with which the models of a merge can be checked before the work."""
        method = methods.find(name)
        empty = {key: [{}] * experts for key in method.data if key in methods.STATISTICS.values()}
        return empty | ({method.measure: _never} if method.measure else {})


def _never(_: object) -> None:
    raise MethodError("a stand-in was measured")


def _lacking(method: methods.Method) -> str:
    """Say what a method needs beside the models, and which options give it."""
    if method.measure:
        return (
            f"{method.name} measures merged models on {'unlabelled' if method.measure == 'entropy' else 'dev'} speech. "
            "Give it, --speech WHERE:LANGUAGE, once for each language the merge should be good at."
        )
    needs = f"{method.name} needs more than the models: {' and '.join(methods.DATA[key] for key in method.data)}"
    if method.name == methods.LAYERED:
        return f"{needs}. Give it, --speech WHERE:LANGUAGE, once for each expert in their order."
    return (
        f"{needs}. Give that speech, --speech WHERE:LANGUAGE, once for each expert in their order, or what "
        "`speechmerge statistics` collected from it, --statistics FOLDER."
    )


def _said(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record of a merge says of published statistics."""
    kept = ("kind", "expert_name", "expert", "data", "windows", "speech", "split")
    return {key: record[key] for key in kept if key in record}


def whole(expert: Path, base: Path) -> Path:
    """Return the folder of a full model: the expert's own, or of an adapter one in the cache, made once."""
    if not adapters.is_adapter(Path(expert)):
        return Path(expert)
    opened = adapters.open_adapter(Path(expert), open_checkpoint(base))
    folder = artefact("whole", fingerprint(opened))
    if not folder.exists():
        with atomic_folder(folder) as unfinished:
            tensors = {name: opened.read(name).float().numpy() for name in opened.shapes}
            write_folder(unfinished, tensors, companions.read(base))
    return folder
