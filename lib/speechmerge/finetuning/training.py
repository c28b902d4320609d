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
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration

from ..budget import Budget
from ..devices import autocast, keep_memory, release_memory
from ..errors import CheckpointError, TrainingError
from ..files import atomic_file, atomic_folder, check_writable, digest
from ..whisper import models
from ..whisper.checkpoints import fingerprint, open_checkpoint
from . import objective, training_recipe, updates
from .packing import Window, collate, pack
from .training_recipe import DataSets, Recipe, Source, TrainingLog

__all__ = ["Recipe", "Source", "TrainingLog", "state_folder", "train"]

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("*.json", "*.txt")
# What is told in the base's folder about the base alone.
RECORDS = ("speechmerge.json", "training.json", "merge_recipe.json")
RECORDS += ("model.safetensors.index.json", "adapter_config.json")
NAMED = (*models.BASES, "smoke")
TRIM = 16  # steps after which freed memory is given back; batches of ever other lengths leave gaps in it
DISK_FACTOR = 7  # copies of the weights on disk at worst: the best epoch; model and two moments, the old and the new


def train(recipe: Recipe, output: Path, *, seconds: float | None = None, progress: bool = True) -> TrainingLog:
    """Fine-tune and write the best epoch to ``output`` as a Hugging Face folder with ``training.json``.

    A finished output of the same recipe and data is returned as it is; an interrupted one is taken up after its last
    finished epoch and ends with the weights an uninterrupted run would have reached.

    Args:
        recipe: what to train on, from what, and how.
        output: the folder to write.
        seconds: a budget: the step in which it runs out is the last, and the learning rate has come down by then. How
            many steps fit, and so the weights, then depend on the machine; the log has ``steps`` of those ``planned``.
        progress: show a bar.

    Raises:
        TrainingError: no speech for a source, a loss that is not finite, a budget on several processes, or ``output``
            (or its interrupted state) belongs to another recipe, budget or other data, or is damaged.
        CorpusError: a clip stands twice among the sources, or a sentence in more than one split.
        SpeechMergeError: ``output`` cannot be written or the disk is too full; found before the work.
    """
    output, budget = Path(output), Budget(seconds)
    folder = models.base_model(recipe.base)
    train_sets, dev_sets = training_recipe.load(recipe)
    identity = {
        "recipe": asdict(recipe),
        "data": training_recipe.fingerprint(train_sets + dev_sets),
        "version": training_recipe.VERSION,
    }
    if recipe.base not in NAMED and Path(recipe.base).expanduser().is_dir():  # a name stands for its weights
        identity["base"] = fingerprint(folder)
    if seconds is not None:
        identity["seconds"] = seconds
    identity["key"] = digest(identity)
    finished = _finished(output, identity)
    if finished is not None:
        return finished
    check_writable(output, DISK_FACTOR * open_checkpoint(folder).bytes())
    return _Run(recipe, folder, output, identity, budget, progress).run(train_sets, dev_sets)


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


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what lies beside a model's weights: settings and tokenizer, no records of how it was made."""
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            if file.name not in RECORDS:
                shutil.copy2(file, folder)


class _Run:
    """One training in progress: model, optimiser, schedule, log, and its state on disk between epochs."""

    def __init__(
        self, recipe: Recipe, base: Path, output: Path, identity: dict, budget: Budget, progress: bool
    ) -> None:
        self.recipe, self.base, self.output, self.identity, self.budget = recipe, base, output, identity, budget
        self.state = state_folder(output)
        set_seed(recipe.seed)
        keep_memory()
        self.accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=False))
        if budget.seconds < math.inf and self.accelerator.num_processes > 1:
            raise TrainingError("a training with a budget of seconds runs in one process, for clocks differ.")
        self.progress = progress and self.accelerator.is_main_process
        self.tokenizer = models.load_tokenizer(base)
        self.extractor = models.load_feature_extractor(base)
        self.log = TrainingLog(data=identity["data"])

    def run(self, train_sets: DataSets, dev_sets: DataSets) -> TrainingLog:
        recipe, accelerator = self.recipe, self.accelerator
        epochs = [self._loader(self._windows(train_sets, epoch)) for epoch in range(recipe.epochs)]
        dev = self._loader([w for clips, lang, task in dev_sets for w in pack(clips, lang, task, None)])
        self.log.minutes_of_speech = round(sum(c.seconds for clips, *_ in train_sets for c in clips) / 60, 2)
        whisper = models.load_model(self.base)
        unseen = updates.unseen_tokens(train_sets, self.tokenizer, whisper.config.vocab_size)
        model = objective.TokenLoss(whisper, unseen if recipe.unseen_rows == "kept" else None)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.0, fused=True)
        counts = [len(loader) for loader in epochs]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._rate(step, counts))
        self.model, self.optimizer, self.schedule, *epochs = accelerator.prepare(model, optimizer, schedule, *epochs)
        first, self.log.planned = self._resume(), sum(counts)
        total = sum(len(loader.dataset) for loader in epochs)
        bar = tqdm(total=total, unit="window", desc=f"train {self.output.name[:40]}", disable=not self.progress)
        bar.update(sum(len(loader.dataset) for loader in epochs[:first]))
        with bar:
            for epoch in range(first, recipe.epochs):
                if recipe.patience and epoch - self.log.best_epoch > recipe.patience:
                    break
                self._epoch(epoch, epochs[epoch], dev, bar)
                if self.budget.spent() >= 1:
                    log.info(
                        "%s: its time was over after %d of %d steps", self.output.name, self.log.steps, sum(counts)
                    )
                    break
        update = updates.measured(open_checkpoint(self.base), open_checkpoint(self.state / "best"), unseen)
        self.log = replace(self.log, **update)
        return self._finish()

    @property
    def _whisper(self) -> WhisperForConditionalGeneration:
        return self.accelerator.unwrap_model(self.model).whisper

    def _rate(self, step: int, counts: list[int]) -> float:
        """Share of the peak learning rate; where time runs ahead of the steps, it falls with time.

        ``counts`` are the steps of the epochs.
        """
        if self.recipe.patience:
            return objective.rate(step, counts[0], 1.0, decays=False)
        steps = sum(counts)
        by_time = min(int(steps * self.budget.spent()), steps - 1)
        return objective.rate(max(step, by_time), steps, self.recipe.warmup)

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
        started, losses, windows = time.perf_counter(), [], 0
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
            windows += len(batch["labels"]) * self.accelerator.num_processes
            bar.update(len(batch["labels"]) * self.accelerator.num_processes)
            told = {"dev": f"{self.log.dev_loss[-1]:.3f}"} if self.log.dev_loss else {}
            bar.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}", **told)
            if self.budget.spent() >= 1:
                break
        self.log.steps += len(losses)
        self.log.windows += min(windows, len(loader.dataset))  # processes share the last ones out twice
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
        """Mean cross-entropy in nats per target token over the dev windows; each process reads them all."""
        model, device = self.accelerator.unwrap_model(self.model).eval(), self.accelerator.device
        loss, tokens = 0.0, 0
        for batch in dev:
            count = int((batch["labels"] >= 0).sum())
            with autocast(device, self.recipe.precision):
                loss += count * model(**{name: tensor.to(device) for name, tensor in batch.items()}).item()
            tokens += count
        return loss / tokens

    def _save(self, epoch: int) -> None:
        """Keep the best weights so far and everything needed to go on, so that a kill costs at most one epoch."""
        if not self.accelerator.is_main_process:
            return
        self.state.mkdir(parents=True, exist_ok=True)
        if self.log.dev_loss[-1] == min(self.log.dev_loss):
            self.log.best_epoch, self.log.best_step = epoch, self.log.steps
            with atomic_folder(self.state / "best", overwrite=True) as best, models.without_bars():
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
                copy_companions(self.base, folder)
                shutil.copytree(self.state / "best", folder, dirs_exist_ok=True)
                record = self.identity | {"log": asdict(self.log)}
                (folder / "training.json").write_text(json.dumps(record, indent=1, default=str))
            shutil.rmtree(self.state)
        self.accelerator.free_memory()
        return self.log
