"""Full fine-tuning of Whisper on any mixture of (corpus, language, task), resumable after a kill with the same result.

One call serves single-language experts, multilingual, multi-task and sequential training: only the sources and the base
differ. On several GPUs start it through ``accelerate launch -m speechmerge train ...``.
"""

import json
import logging
import math
import pickle
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration

from . import corpora, models
from .checkpoints import fingerprint, open_checkpoint
from .devices import PRECISIONS, autocast, keep_memory, release_memory
from .errors import CheckpointError, TrainingError, nearest
from .files import atomic_file, atomic_folder, check_writable, digest
from .packing import IGNORED, TASK_NAMES, Window, collate, pack

log = logging.getLogger(__name__)

VERSION = 1  # raise when a change alters trained weights, so that stored experts are not mistaken for new ones
TOKENIZER_FILES = ("*.json", "*.txt")
# What is told in the base's folder about the base alone.
RECORDS = ("speechmerge.json", "training.json", "merge_recipe.json", "model.safetensors.index.json")
NAMED = (*models.BASES, "smoke")
TRIM = 16  # steps after which freed memory is given back; batches of ever other lengths leave gaps in it
DISK_FACTOR = 7  # copies of the weights on disk at worst: the best epoch; model and two moments, the old and the new


@dataclass(frozen=True)
class Source:
    """Speech to train on: one corpus in one language for one task."""

    corpus: str
    language: str
    task: str = "asr"

    def __post_init__(self) -> None:
        """Refuse a task that is not one."""
        if self.task not in TASK_NAMES:
            raise TrainingError(f"there is no task {self.task!r}.{nearest(self.task, TASK_NAMES)}")

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Read ``corpus:language[:task]``, e.g. ``asterisk:es:asr``."""
        parts = text.split(":")
        if not 2 <= len(parts) <= 3 or parts[2:] not in ([], ["asr"], ["st"]):
            raise TrainingError(f"{text!r} is not corpus:language[:asr|st], for example asterisk:es:asr.")
        return cls(*parts)

    def __str__(self) -> str:
        return f"{self.corpus}:{self.language}:{self.task}"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides which weights a training produces.

    Attributes:
        base: name or folder of the model to start from (an expert's folder makes the training sequential).
        sources: what to train on.
        minutes: cap on training speech per language and task, drawn with ``seed``; None takes all there is.
        epochs: passes over the data; the epoch with the lowest dev loss is kept.
        learning_rate: AdamW's peak rate, reached after ``warmup`` of all steps, then decaying linearly to zero.
        batch: windows in a step and process.
        clip_norm: largest gradient norm.
        seed: drives the draw of clips, the packing and the order.
        precision: ``"auto"`` (bf16 autocast where it pays), ``"bf16"`` or ``"fp32"``.
    """

    base: str
    sources: tuple[Source, ...]
    minutes: float | None = None
    epochs: int = 5
    learning_rate: float = 1e-5
    batch: int = 8
    warmup: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Refuse values no training can have, before any data are read."""
        if self.precision not in PRECISIONS:
            raise TrainingError(f"there is no precision {self.precision!r}.{nearest(self.precision, PRECISIONS)}")
        if len(set(self.sources)) < len(self.sources) or not self.sources:
            raise TrainingError(f"sources are {', '.join(map(str, self.sources)) or 'none'}; give each of them once.")
        for name in ("epochs", "batch", "learning_rate", "clip_norm", "minutes"):
            value = getattr(self, name)
            if not (value is None and name == "minutes") and not 0 < value < math.inf:
                raise TrainingError(f"{name} is {value!r}; expected a number above 0.")
        if not 0 <= self.warmup <= 1:
            raise TrainingError(f"warmup is {self.warmup!r}; expected a share of all steps, 0 to 1.")


@dataclass
class TrainingLog:
    """What happened: dev loss per epoch (nats a token), the epoch kept, and the cost."""

    dev_loss: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    best_epoch: int = 0
    windows: int = 0
    seconds: float = 0.0
    minutes_of_speech: float = 0.0
    data: str = ""

    @property
    def windows_per_second(self) -> float:
        """Throughput of the training steps, reading and packing included, dev evaluations not."""
        return self.windows / self.seconds if self.seconds else 0.0


def train(recipe: Recipe, output: Path, *, progress: bool = True) -> TrainingLog:
    """Fine-tune and write the best epoch to ``output`` as a Hugging Face folder with ``training.json``.

    A finished output of the same recipe and data is returned as it is; an interrupted one is taken up after its last
    finished epoch and ends with the weights an uninterrupted run would have reached.

    Raises:
        TrainingError: no speech for a source, a loss that is not finite, or ``output`` (or its interrupted state)
            belongs to another recipe or to other data, or is damaged.
        CorpusError: a clip stands twice among the sources, or a sentence in more than one split.
        SpeechMergeError: ``output`` cannot be written or the disk is too full; found before the work.
    """
    output = Path(output)
    folder = models.base_model(recipe.base)
    train_sets, dev_sets = _load(recipe)
    identity = {"recipe": asdict(recipe), "data": _fingerprint(train_sets + dev_sets), "version": VERSION}
    if recipe.base not in NAMED and Path(recipe.base).expanduser().is_dir():  # a name stands for its weights
        identity["base"] = fingerprint(folder)
    identity["key"] = digest(identity)
    finished = _finished(output, identity)
    if finished is not None:
        return finished
    check_writable(output, DISK_FACTOR * open_checkpoint(folder).bytes())
    return _Run(recipe, folder, output, identity, progress).run(train_sets, dev_sets)


def _finished(output: Path, identity: dict) -> TrainingLog | None:
    """Return the log of a finished training of the same identity, None if there is no output yet."""
    if not output.exists():
        return None
    record = output / "training.json"
    try:
        stored = json.loads(record.read_text()) if record.is_file() else {}
    except ValueError as error:
        raise TrainingError(f"{record} is damaged ({error}); delete {output} and train again.") from error
    if stored.get("key") != identity["key"]:
        raise TrainingError(
            f"{output} exists and was made by another training (recipe or data differ: found key "
            f"{str(stored.get('key'))[:12]}, expected {identity['key'][:12]}); choose another output or delete it."
        )
    return TrainingLog(**stored["log"])


def state_folder(output: Path) -> Path:
    """Return where the state of an interrupted training towards ``output`` lies."""
    return output.with_name(f".{output.name}.state")


DataSets = list[tuple[list[corpora.Clip], str, str]]


def _load(recipe: Recipe) -> tuple[DataSets, DataSets]:
    """Read the clips of every (language, task) over its corpora: train capped to ``recipe.minutes``, dev whole."""
    train_sets, dev_sets = [], []
    for language, task in dict.fromkeys((s.language, s.task) for s in recipe.sources):
        named = [s.corpus for s in recipe.sources if (s.language, s.task) == (language, task)]
        for split, sets in (("train", train_sets), ("dev", dev_sets)):
            clips = [clip for corpus in named for clip in corpora.load(corpus, language, split)]
            clips = [clip for clip in clips if task == "asr" or clip.translation]
            if split == "train" and recipe.minutes is not None:
                clips = draw_minutes(clips, recipe.minutes, recipe.seed)
            if not clips:
                raise TrainingError(
                    f"{'+'.join(named)} has no {split} clips for {language} {task}; choose other sources."
                )
            sets.append((clips, language, task))
        corpora.check([*train_sets[-1][0], *dev_sets[-1][0]])
    return train_sets, dev_sets


def draw_minutes(clips: Sequence[corpora.Clip], minutes: float, seed: int) -> list[corpora.Clip]:
    """Draw clips at random until ``minutes`` of speech are reached; nested: a larger cap keeps the smaller draw."""
    order = np.random.default_rng([seed, 0x5EED]).permutation(len(clips))
    total, drawn = 0.0, []
    for i in order:
        if total >= 60 * minutes:
            break
        drawn.append(clips[i])
        total += clips[i].seconds
    return drawn


def _fingerprint(sets: DataSets) -> str:
    return digest([[language, task, corpora.fingerprint(clips)] for clips, language, task in sets])


class _TokenLoss(torch.nn.Module):
    """Whisper with its training loss: logits are computed for target tokens only, which halves the cost of the head."""

    def __init__(self, whisper: WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.whisper = whisper
        whisper.model.encoder.embed_positions.requires_grad_(False)  # the fixed sinusoid; loading makes it trainable

    def forward(
        self, input_features: torch.Tensor, decoder_input_ids: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean cross-entropy in nats over the target tokens of a batch from :func:`packing.collate`."""
        states = self.whisper.model(input_features, decoder_input_ids=decoder_input_ids).last_hidden_state
        target = labels != IGNORED
        return torch.nn.functional.cross_entropy(self.whisper.proj_out(states[target]), labels[target])


class _Run:
    """One training in progress: model, optimiser, schedule, log, and its state on disk between epochs."""

    def __init__(self, recipe: Recipe, base: Path, output: Path, identity: dict, progress: bool) -> None:
        self.recipe, self.base, self.output, self.identity = recipe, base, output, identity
        self.state = state_folder(output)
        set_seed(recipe.seed)
        keep_memory()
        self.accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=False))
        self.progress = progress and self.accelerator.is_main_process
        self.tokenizer = models.load_tokenizer(base)
        self.extractor = models.load_feature_extractor(base)
        self.log = TrainingLog(data=identity["data"])

    def run(self, train_sets: DataSets, dev_sets: DataSets) -> TrainingLog:
        recipe, accelerator = self.recipe, self.accelerator
        epochs = [self._loader(self._windows(train_sets, epoch)) for epoch in range(recipe.epochs)]
        dev = self._loader([w for clips, lang, task in dev_sets for w in pack(clips, lang, task, None)])
        self.log.minutes_of_speech = round(sum(c.seconds for clips, *_ in train_sets for c in clips) / 60, 2)
        model = _TokenLoss(models.load_model(self.base))
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.0, fused=True)
        steps = sum(len(loader) for loader in epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, recipe.warmup))
        self.model, self.optimizer, self.schedule, *prepared = accelerator.prepare(
            model, optimizer, schedule, *epochs, dev
        )
        *epochs, dev = prepared
        first = self._resume()
        total = sum(len(loader.dataset) for loader in epochs)
        bar = tqdm(total=total, unit="window", desc=f"train {self.output.name[:40]}", disable=not self.progress)
        bar.update(sum(len(loader.dataset) for loader in epochs[:first]))
        with bar:
            for epoch in range(first, recipe.epochs):
                self._epoch(epoch, epochs[epoch], dev, bar)
        return self._finish()

    @property
    def _whisper(self) -> WhisperForConditionalGeneration:
        return self.accelerator.unwrap_model(self.model).whisper

    def _windows(self, sets: DataSets, epoch: int) -> list[Window]:
        """Pack one epoch; the random numbers depend on seed and epoch alone, so a resumed run packs the same."""
        rng = np.random.default_rng([self.recipe.seed, epoch])
        windows = [w for clips, language, task in sets for w in pack(clips, language, task, rng)]
        return [windows[i] for i in rng.permutation(len(windows))]

    def _loader(self, windows: list[Window]) -> DataLoader:
        return DataLoader(
            windows, self.recipe.batch, collate_fn=lambda batch: collate(batch, self.tokenizer, self.extractor)
        )

    def _epoch(self, epoch: int, loader: DataLoader, dev: DataLoader, bar: tqdm) -> None:
        started, losses = time.perf_counter(), []
        self.model.train()
        for step, batch in enumerate(loader):
            if step % TRIM == 0:
                release_memory()
            with autocast(self.accelerator.device, self.recipe.precision):
                loss = self.model(**batch)
            self._check_finite(loss.item(), "loss", epoch)
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            losses.append(loss.item())
            bar.update(len(batch["labels"]) * self.accelerator.num_processes)
            bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", dev=f"{(self.log.dev_loss or [np.nan])[-1]:.3f}")
        self.log.windows += len(loader.dataset)
        self.log.seconds += time.perf_counter() - started
        self.log.train_loss.append(float(np.mean(losses)))
        self.log.dev_loss.append(self._dev_loss(dev))
        self._check_finite(self.log.dev_loss[-1], "dev loss", epoch)
        self._save(epoch)
        release_memory()

    def _check_finite(self, loss: float, name: str, epoch: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.output.name}: the {name} is {loss} in epoch {epoch + 1}; lower the learning rate "
                f"(now {self.recipe.learning_rate:g}) or use precision fp32. The last finished epoch is kept."
            )

    @torch.inference_mode()
    def _dev_loss(self, dev: DataLoader) -> float:
        """Mean cross-entropy in nats per target token over the dev windows."""
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for batch in dev:
            tokens = (batch["labels"] >= 0).sum()
            with autocast(self.accelerator.device, self.recipe.precision):
                loss = self.model(**batch)
            pair = self.accelerator.gather_for_metrics(torch.stack([loss.float() * tokens, tokens.float()])[None])
            total += pair.sum(0).double().cpu()
        return float(total[0] / total[1])

    def _save(self, epoch: int) -> None:
        """Keep the best weights so far and everything needed to go on, so that a kill costs at most one epoch."""
        if not self.accelerator.is_main_process:
            return
        self.state.mkdir(parents=True, exist_ok=True)
        if self.log.dev_loss[-1] == min(self.log.dev_loss):
            self.log.best_epoch = epoch
            with atomic_folder(self.state / "best", overwrite=True) as best:
                self._whisper.save_pretrained(best)
        with atomic_file(self.state / "last.pt") as file:
            state = {"model": self._whisper.state_dict()}
            state |= {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
            state |= {"epoch": epoch, "key": self.identity["key"], "log": asdict(self.log)}
            torch.save(state, file)

    def _resume(self) -> int:
        """Load the state of an interrupted run, if there is one, and return the epoch to go on with."""
        file = self.state / "last.pt"
        if not file.is_file():
            return 0
        try:
            state = torch.load(file, map_location=self.accelerator.device, weights_only=True)
            open_checkpoint(self.state / "best")
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, CheckpointError) as error:
            raise TrainingError(
                f"{self.state} holds an interrupted training that is damaged ({type(error).__name__}: "
                f"{str(error).partition(chr(10))[0]}); delete it to start afresh."
            ) from error
        if state["key"] != self.identity["key"]:
            raise TrainingError(
                f"{self.state} holds an interrupted training with other parameters or data (key {state['key'][:12]}, "
                f"expected {self.identity['key'][:12]}); delete it to start afresh, or repeat the first call."
            )
        self._whisper.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.log = TrainingLog(**state["log"])
        log.info("%s: resumed after epoch %d", self.output.name, state["epoch"] + 1)
        return state["epoch"] + 1

    def _finish(self) -> TrainingLog:
        """Write the best epoch with the base's tokenizer files under the final name and drop the state."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with atomic_folder(self.output) as folder:
                for pattern in TOKENIZER_FILES:
                    for file in self.base.glob(pattern):
                        if file.name not in RECORDS:
                            shutil.copy2(file, folder)
                shutil.copytree(self.state / "best", folder, dirs_exist_ok=True)
                record = self.identity | {"log": asdict(self.log)}
                (folder / "training.json").write_text(json.dumps(record, indent=1, default=str))
            shutil.rmtree(self.state)
        self.accelerator.free_memory()
        return self.log


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: linear warm-up over ``warmup`` of all steps, then linear decay to zero."""
    ramp = max(1, round(warmup * steps))
    return (step + 1) / ramp if step < ramp else max(0.0, (steps - step) / max(1, steps - ramp))
