"""Checkpoints that resume to the bit and survive a kill at any moment."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer, callbacks
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.states import TrainerFn

from zoo.engine.ema import EMA
from zoo.engine.finite import is_finite, not_finite
from zoo.engine.stopping import Stopped, StopSignals
from zoo.hub import torch_files
from zoo.hub.shards import whole_checkpoint
from zoo.reports import say, writing

_STEP_FILE = re.compile(r"step=(\d+)\.ckpt")


def step_checkpoints(folder: Path) -> list[Path]:
    """The ``step=N.ckpt`` files (or sharded folders) of a checkpoint folder, newest step first."""
    if not folder.is_dir():
        return []
    found = {int(m[1]): path for path in folder.iterdir() if (m := _STEP_FILE.fullmatch(path.name))}
    return [found[step] for step in sorted(found, reverse=True)]


def _sync(path: Path) -> None:
    """Bring a file or the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(staged: Path, path: Path) -> None:
    """Give a whole sharded checkpoint its name. A kill in between leaves the old one under ``.NAME.old``."""
    for part in staged.rglob("*"):
        _sync(part)
    _sync(staged)
    if path.exists():
        os.replace(path, _old(path))
    os.replace(staged, path)
    _sync(path.parent)
    _remove(_old(path))


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file in the target folder, syncs it, then renames it over the target.

    A reader sees the old file or the whole new one, also after a kill or a power cut. Loads with
    ``weights_only=True``, and only a file whose checksums are right, which torch does not compare.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync(path.parent)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        if "://" not in str(path):
            if Path(path).is_dir():
                torch_files.check_shards(Path(path))
                return whole_checkpoint(Path(path))
            torch_files.verify(Path(path))
        return super().load_checkpoint(path, map_location, weights_only=True)


class Checkpoint(callbacks.Checkpoint):
    """Writes ``step=N.ckpt`` every so many optimiser steps and always at the end of training.

    Files are written only inside the training loop, where the progress of all loops is defined: after a
    batch, after the validation when one is due on that batch, or at the end of the epoch when the batch is
    its last. All values logged up to then are in metrics.csv before the file exists. A sharded checkpoint is
    a folder that gets its name when it is whole.

    SIGTERM and Ctrl-C stop the training behind the checkpoint of the step they fall into.

    Args:
        every_n_train_steps: optimiser steps between checkpoints.
        keep: how many of the newest to keep; -1 keeps all. At least 2, so that a broken newest file has a
            fallback.
        monitor: metric whose best value is kept as ``best.ckpt`` after each validation; null keeps none.
            Weights or a validation loss that are not finite are never the best.
        mode: whether ``min`` or ``max`` of ``monitor`` is best.
        dirpath: folder of this training alone; the CLI sets it to ``checkpoints`` in the run's folder.

    Raises:
        ValueError: for impossible settings.
    """

    def __init__(
        self,
        every_n_train_steps: int = 1000,
        keep: int = 2,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        dirpath: str | None = None,
    ) -> None:
        super().__init__()
        if every_n_train_steps < 1:
            raise ValueError(f"checkpoint.every_n_train_steps must be at least 1, got {every_n_train_steps}")
        if keep != -1 and keep < 2:
            raise ValueError(
                f"checkpoint.keep must be -1 (all) or at least 2 (the newest may be broken), got {keep}"
            )
        if mode not in ("min", "max"):
            raise ValueError(f"checkpoint.mode must be min or max, got {mode!r}")
        self.every_n_train_steps, self.keep = every_n_train_steps, keep
        self.monitor, self.mode, self.dirpath = monitor, mode, dirpath
        self.best_score: float | None = None
        self.best_step: int | None = None
        self._after_validation = False
        self._at_epoch_end = False
        self._last_saved = -1
        self._signals = StopSignals()
        self._stopping = False
        self._never_finite: set[str] = set()

    @property
    def folder(self) -> Path | None:
        """Where the files go."""
        return Path(self.dirpath) if self.dirpath else None

    @property
    def best_path(self) -> Path | None:
        """The checkpoint to use: the best by ``monitor`` if there is one, else the newest."""
        if self.folder is None:
            return None
        best = self.folder / "best.ckpt"
        if self.monitor and self.best_score is not None and best.exists():
            return best
        return next(iter(step_checkpoints(self.folder)), None)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == TrainerFn.FITTING and self.dirpath is None:
            self.dirpath = str(Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints")
        if stage == TrainerFn.FITTING:
            self.dirpath = trainer.strategy.broadcast(self.dirpath)
            self._never_finite = not_finite(pl_module)  # masks of infinity, say
            self._signals.catch(trainer)  # before the data workers start, which are to ignore Ctrl-C

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.folder is not None:
            _tidy(self.folder)
            _set_aside(self.folder, trainer.global_step)
        self._forget_lost_best(trainer)
        self._signals.catch(trainer)
        epochs = trainer.fit_loop.epoch_progress.current
        if epochs.ready == epochs.completed:
            # The run starts with a new epoch. The epoch's loop must not think that it goes on with one: it
            # would skip a validation that is not due, and count a step for it.
            trainer.fit_loop.epoch_loop.restarting = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            return
        step = trainer.global_step
        ends = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        ends = ends or step == trainer.max_steps or trainer.should_stop
        self._stopping = self._signals.asked(trainer) and not ends
        due = step % self.every_n_train_steps == 0 or ends or self._stopping
        if not due or step == self._last_saved:
            return
        if step == trainer.max_steps and not trainer.is_last_batch:
            # Lightning logs the means of an epoch that max_steps cuts off behind the last checkpoint,
            # and a run that is resumed from that has nothing left to train.
            trainer._logger_connector.update_train_step_metrics()
            assert trainer._results is not None
            trainer._logger_connector.log_metrics(trainer._results.metrics(on_step=False)["log"])
        fetcher = trainer.fit_loop._data_fetcher
        if trainer.is_last_batch:
            self._at_epoch_end = True
        elif fetcher is not None and loop._should_check_val_fx(fetcher):
            self._after_validation = True
        else:
            # The row of this batch is logged after this hook; a kill in between would lose it for ever.
            trainer._logger_connector.update_train_step_metrics()
            self._write(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        # The best comes first: a checkpoint that knows of a best score without its file would never write it.
        if self._improved(trainer):
            self._write_best(trainer)
        stops = trainer.should_stop and not trainer.is_last_batch
        if self._after_validation or (stops and trainer.global_step != self._last_saved):
            self._write(trainer)
        self._after_validation = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stops = trainer.should_stop and trainer.is_last_batch and trainer.global_step != self._last_saved
        if self._at_epoch_end or stops:
            self._at_epoch_end = True
            self._log_epoch_means(trainer)
            self._write(trainer)
        self._at_epoch_end = False

    @staticmethod
    def _log_epoch_means(trainer: Trainer) -> None:
        """Lightning logs the means of an epoch after this hook, in the row of the epoch's last step."""
        loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
        loop._batches_that_stepped -= 1
        connector.log_metrics(connector.metrics["log"])
        loop._batches_that_stepped += 1

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._at_epoch_end:
            # Lightning counts the epoch after this hook, and a run resumed from an uncounted one counts it
            # twice whenever a validation was due on its last batch.
            progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
            for counter in ("total", "current"):
                progress[counter]["completed"] = progress[counter]["processed"]

    def _improved(self, trainer: Trainer) -> bool:
        if self.monitor is None:
            return False
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics))
            raise ValueError(f"checkpoint.monitor is {self.monitor!r}, but the run logs only: {known}")
        score = float(trainer.callback_metrics[self.monitor])
        better = math.isfinite(score) and (
            self.best_score is None
            or (score < self.best_score if self.mode == "min" else score > self.best_score)
        )
        if not better or self._diverged(trainer):
            return False
        self.best_score, self.best_step = score, trainer.global_step
        return True

    def _diverged(self, trainer: Trainer) -> bool:
        """Whether weights, raw or averaged, or a validation loss are no numbers: an accuracy stays one."""
        module = trainer.lightning_module
        averages = [c.shadow for c in trainer.callbacks if isinstance(c, EMA)]  # type: ignore[attr-defined]
        losses = [v for k, v in trainer.callback_metrics.items() if k.startswith("val/") and "loss" in k]
        lost = bool(not_finite(module) - self._never_finite)
        lost = lost or not all(is_finite(t) for shadow in averages for t in shadow.values())
        lost = lost or not all(math.isfinite(float(v)) for v in losses)
        if trainer.world_size == 1:
            return lost
        return bool(trainer.strategy.reduce_boolean_decision(lost, all=False))

    def _forget_lost_best(self, trainer: Trainer) -> None:
        """A score whose file is in another folder would keep this one from ever having a best."""
        if self.monitor is None or self.best_score is None or self.folder is None:
            return
        if trainer.strategy.broadcast((self.folder / "best.ckpt").exists()):
            return
        if trainer.is_global_zero:
            say(
                f"note: the best so far ({self.monitor} {self.best_score:.4g} at step {self.best_step}) is "
                f"not in {self.folder}; best.ckpt there is the best from step {trainer.global_step} on"
            )
        self.best_score = self.best_step = None

    def _write(self, trainer: Trainer) -> None:
        assert self.folder is not None
        step = trainer.global_step
        self._last_saved = step
        self._save(trainer, self.folder / f"step={step:08d}.ckpt")
        if trainer.is_global_zero and self.keep > 0:
            for path in step_checkpoints(self.folder)[self.keep :]:
                _remove(path)
        trainer.strategy.barrier("zoo.checkpoint")
        if self._stopping and not trainer.should_stop:
            raise Stopped(self._signals.number or signal.SIGTERM)

    def _write_best(self, trainer: Trainer) -> None:
        assert self.folder is not None
        self._save(trainer, self.folder / "best.ckpt")

    @staticmethod
    def _save(trainer: Trainer, path: Path) -> None:
        if not _writes_folders(trainer.strategy):
            trainer.save_checkpoint(path)
            return
        staged = path.with_name(f".{path.name}.tmp")
        if trainer.is_global_zero:
            _remove(staged)
        from torch.distributed.checkpoint.api import CheckpointException

        with writing(path):
            try:
                trainer.save_checkpoint(staged)  # returns when all processes have written
            except CheckpointException as error:  # no Exception; holds that of each process
                raise next(iter(error.failures.values()))[0] from error
            if trainer.is_global_zero:
                _put_in_place(staged, path)
        trainer.strategy.barrier("zoo.checkpoint")

    def release_signals(self) -> None:
        """SIGTERM and Ctrl-C end the process again, as before the training."""
        self._signals.release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.release_signals()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.release_signals()

    def state_dict(self) -> dict[str, Any]:
        settings = ("monitor", "mode", "keep", "every_n_train_steps")
        kept = {name: getattr(self, name) for name in settings}
        return {"best_score": self.best_score, "best_step": self.best_step, **kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        before = state_dict.get("monitor", self.monitor), state_dict.get("mode", self.mode)
        if before != (self.monitor, self.mode) and self.best_score is not None:
            say(
                f"note: the best so far was the {before[1]} of {before[0]}; it is the {self.mode} of "
                f"{self.monitor} from here on"
            )
            self.best_score = self.best_step = None
        if self.best_score is not None and not math.isfinite(self.best_score):  # kept by former versions
            self.best_score = self.best_step = None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._last_saved = int(checkpoint.get("global_step", -1))


def _writes_folders(strategy: Strategy) -> bool:
    """Whether the processes write a part each, into a folder."""
    sharded = getattr(strategy, "_state_dict_type", "") == "sharded"  # FSDPStrategy
    return sharded or bool(getattr(strategy, "_save_distributed_checkpoint", False))  # ModelParallelStrategy


def _tidy(folder: Path) -> None:
    """Take away what a process left that was killed while it wrote; put back what it was to replace."""
    for leftover in [*folder.glob(".step=*.ckpt.*tmp"), *folder.glob(".best.ckpt.*tmp")]:
        _remove(leftover)
    for old in [*folder.glob(".step=*.ckpt.old"), *folder.glob(".best.ckpt.old")]:
        path = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if path.exists():
            _remove(old)
        else:
            os.replace(old, path)


def _set_aside(folder: Path, step: int) -> None:
    """Steps behind the one that a run goes on from are of a training that it leaves; `last` would take them,
    and the run's own be pruned for them."""
    later = [p for p in step_checkpoints(folder) if int(p.name[5:-5]) > step]
    for path in later:
        os.replace(path, path.with_name(path.name + ".left"))
    if later:
        say(f"note: checkpoints behind step {step} are set aside as {later[0]}.left")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
