"""Runs that are stopped hard, gone on with, and compared to the bit with runs that nobody stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from commands import of_model, of_trainer
from lightning.pytorch import Trainer

import cli
from zoo import DTR
from zoo.engine import checkpoint, run

# dtr_dit_digits (uw log-variances, EMA, warm-up schedule) shrunk until a run takes a second: 10 batches an
# epoch.
TINY = (
    "--config=dtr_dit_digits",
    *of_model(width=16, depth=1, heads=2, sampling_steps=2),
    "--previews.count=0",
    *of_trainer(log_every_n_steps=2, val_check_interval=5, enable_progress_bar=False),
)


class Killed(BaseException):
    """Stands for SIGKILL inside one process: nothing in the zoo catches it."""


def fit(root: Path, *flags: str) -> Path:
    """``zoo fit`` of the tiny config under ``root``; returns the newest run folder."""
    # The curves are drawn after training and take longer than these runs.
    with mock.patch.object(run, "plot_curves", return_value=None):
        code = cli.main(["fit", *TINY, f"--trainer.default_root_dir={root}", *flags])
    assert code == 0
    return newest(root)


def newest(root: Path) -> Path:
    """The newest run folder under ``root``."""
    folders = (root / "dtr_dit_digits").glob("version_*")
    return max(folders, key=lambda p: int(p.name.removeprefix("version_")))


def newest_checkpoint(folder: Path) -> Path:
    return checkpoint.step_checkpoints(folder / "checkpoints")[0]


def killed_fit(root: Path, moment: str, step: int, *flags: str) -> Path:
    """A run that dies at ``moment`` of optimiser step ``step``; returns its folder."""
    try:
        with dying(moment, step):
            fit(root, *flags)
    except Killed:
        return newest(root)
    raise AssertionError(f"the run ended before {moment} {step}")


def die() -> None:
    raise Killed


@contextmanager
def dying(moment: str, step: int, how: Callable[[], Any] = die) -> Iterator[None]:
    """Call ``how`` at a moment of optimiser step ``step``.

    ``batch``: the step is done, its row not yet in metrics.csv; ``row``: it is; ``writing``: half of the
    step's checkpoint is written; ``saved``: it is in place, nothing has happened since; ``validation``: in
    the validation after the step, before its row is written.
    """

    def at_step(trainer: Trainer) -> bool:
        return trainer.global_step == step

    def on_train_batch_end(self: DTR, *args: Any) -> None:
        if at_step(self.trainer):
            how()

    def on_train_batch_start(self: DTR, *args: Any) -> None:
        if at_step(self.trainer):
            how()

    def on_validation_epoch_end(self: DTR) -> None:
        if at_step(self.trainer):
            how()
        original_end(self)

    def write(self: checkpoint.Checkpoint, trainer: Trainer) -> None:
        original_write(self, trainer)
        if at_step(trainer):
            how()

    def save(content: dict[str, Any], file: Any) -> None:
        if content["global_step"] != step:
            original_save(content, file)
            return
        original_save(content, file)
        file.flush()
        file.truncate(file.tell() // 2)
        how()

    original_write, original_save = checkpoint.Checkpoint._write, torch.save
    original_end = DTR.on_validation_epoch_end
    patches = {
        "batch": mock.patch.object(DTR, "on_train_batch_end", on_train_batch_end),
        "row": mock.patch.object(DTR, "on_train_batch_start", on_train_batch_start),
        "validation": mock.patch.object(DTR, "on_validation_epoch_end", on_validation_epoch_end),
        "saved": mock.patch.object(checkpoint.Checkpoint, "_write", write),
        "writing": mock.patch.object(checkpoint.torch, "save", save),
    }
    with patches[moment]:
        yield


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """The places where two nested values differ, bit for bit (two NaNs are equal)."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        found = [f"{where}.{k} (one side only)" for k in sorted(map(str, set(a) ^ set(b)))]
        return found + [d for k in a if k in b for d in differences(a[k], b[k], f"{where}.{k}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [
            d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}[{i}]")
        ]
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return []
    return [] if a == b else [f"{where}: {a!r} != {b!r}"[:200]]


def checkpoint_content(path: Path) -> dict[str, Any]:
    """What must be equal after a resume: all but seconds on the clock, and joules, which follow them."""
    content: dict[str, Any] = torch.load(path, weights_only=True)
    del content["callbacks"]["Run"]
    content["callbacks"]["Energy"] = content["callbacks"]["Energy"]["flops"]
    return content


def run_differences(run_a: Path, run_b: Path) -> list[str]:
    """Where the last checkpoints or the logs of two run folders differ."""
    last_a, last_b = newest_checkpoint(run_a), newest_checkpoint(run_b)
    found = differences(checkpoint_content(last_a), checkpoint_content(last_b))
    if last_a.name != last_b.name:
        found.append(f"{last_a.name} != {last_b.name}")
    log_a, log_b = ((r / "metrics.csv").read_bytes() for r in (run_a, run_b))
    if log_a != log_b:
        lines = zip(log_a.decode().splitlines(), log_b.decode().splitlines(), strict=False)
        first = next((f"{x} | {y}" for x, y in lines if x != y), f"{len(log_a)} != {len(log_b)} bytes")
        found.append(f"metrics.csv: {first}"[:400])
    return found
