"""A killed run goes on to the same bits inside the cycle, with three optimisers; two processes are one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from commands import run
from covering import covering
from fakes.pairs import sentence_pairs
from interruption import Killed, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference

from zoo.ami.module import AMI

# Steps 0 to 2 are pretraining, a cycle has 5: forward 2, backward 2, noise 1.
SETTINGS = {
    "variant": "transformer_tiny", "width": 16, "hidden": 16, "heads": 2, "noise": "learned",
    "pretrain_forward": 1, "pretrain_backward": 1, "pretrain_noise": 1, "noise_grad": "straight_through",
    "forward_batches": 2, "backward_batches": 2, "noise_batches": 1, "adversarial_every": 2,
    "noise_limit": 100, "noise_optimizer.class_path": "torch.optim.Adam", "baseline": "batch",
}  # fmt: skip
FLAGS = (
    *(f"--model.init_args.{k}={v}" for k, v in SETTINGS.items()),
    "--data.init_args.train_pairs=320", "--data.init_args.val_pairs=20", "--trainer.max_steps=14",
    "--trainer.val_check_interval=7", "--trainer.log_every_n_steps=1", "--checkpoint.every_n_train_steps=4",
)  # fmt: skip


def fit(root: Path, *flags: str) -> Path:
    return run("fit", "ami_dull", root, *FLAGS, "--model.init_args.dropout=0.1", *flags)


def killed(root: Path, step: int, *flags: str) -> None:
    """A run that dies between the two optimiser steps of a batch, or within its only one."""
    original = AMI._step

    def update(self: AMI, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.trainer.global_step > step:
            raise Killed

    with mock.patch.object(AMI, "_step", update), pytest.raises(Killed):
        fit(root, *flags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("step", covering([4, 6, 7, 9, 13], [4, 13]))
def test_a_killed_cycle_goes_on_to_the_same_bits(step: int, whole: Path, tmp_path: Path) -> None:
    killed(tmp_path, step)
    assert run_differences(whole, fit(tmp_path, "--ckpt_path=last")) == []


def test_epochs_of_three_batches_by_tokens_go_on_where_they_were(tmp_path: Path) -> None:
    """``--trainer.limit_train_batches 3`` with batches by tokens: a training that is stopped and goes on
    has the batches of one that was not."""
    sentence_pairs(tmp_path / "data", "de", "en", 48)
    sizes = {"variant": "gru", "width": 8, "max_length": 4, "pretrain_forward": 8}
    flags = [f"--model.init_args.{k}={v}" for k, v in sizes.items()] + [
        "--model.init_args.noise_std=0.1", "--data.class_path=datamodules.ParallelText",
        "--data.init_args.layout=lines", f"--data.init_args.root={tmp_path / 'data'}",
        "--data.init_args.source=de", "--data.init_args.target=en", "--data.init_args.vocab_size=300",
        "--data.init_args.batch_tokens=150", "--trainer.limit_train_batches=3",
        "--trainer.limit_val_batches=0", "--checkpoint.monitor=null", "--previews.count=0",
        "--trainer.val_check_interval=null", "--trainer.check_val_every_n_epoch=1",
    ]  # fmt: skip
    seen: list[list[int]] = []
    original = AMI.training_step

    def step(self: AMI, batch: dict[str, Any], batch_idx: int) -> None:
        seen.append([self.trainer.current_epoch, batch_idx, *batch["index"].tolist()])
        original(self, batch, batch_idx)

    with mock.patch.object(AMI, "training_step", step):
        run("fit", "ami_dull", tmp_path / "whole", *flags, "--trainer.max_steps=8")
        whole, seen = seen, []
        assert [row[:2] for row in whole] == [[i // 3, i % 3] for i in range(8)]
        for stop in (3, 4):
            root = tmp_path / f"at_{stop}"
            run("fit", "ami_dull", root, *flags, f"--trainer.max_steps={stop}")
            run("fit", "ami_dull", root, *flags, "--trainer.max_steps=8", "--ckpt_path=last")
            assert [row[2:] for row in seen] == [row[2:] for row in whole]
            seen = []


def launched(root: Path, *flags: str) -> None:
    two = [f"--trainer.default_root_dir={root}", "--config=trainer/ddp", "--trainer.devices=2"]
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", "--config=ami_dull", *flags, *two, "--trainer.accelerator=cpu"],
        env={**environment(), "ZOO_DATA": os.environ.get("ZOO_DATA", "data")},
        cwd=root.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("rollout", ["sample", "teacher_forced"])
def test_two_processes_train_what_one_does(rollout: str, tmp_path: Path) -> None:
    """Latent noise, replies, baseline and counts of tokens are those of the global batch. Dropout is off: its
    masks belong to a process. SGD: Adam makes a rounding into a step."""
    flags = [*FLAGS, "--model.init_args.dropout=0", f"--model.init_args.rollout={rollout}",
             "--checkpoint.every_n_train_steps=14", "--trainer.enable_progress_bar=false"]  # fmt: skip
    for name in ("optimizer", "pretrain_optimizer", "noise_optimizer"):
        flags += [f"--model.init_args.{name}=torch.optim.SGD", f"--model.init_args.{name}.init_args.lr=0.1"]
    flags = [f for f in flags if "noise_optimizer.class_path" not in f]
    one = run("fit", "ami_dull", tmp_path / "one", *flags)
    launched(tmp_path / "two", *flags)
    two = max((tmp_path / "two" / "ami_dull").glob("version_*"))
    states = [torch.load(newest_checkpoint(f), weights_only=True)["state_dict"] for f in (one, two)]
    assert largest_difference(*states) < 2e-6
    start = torch.load(newest_checkpoint(one), weights_only=True)["state_dict"]
    assert any(v.abs().sum() > 0 for k, v in start.items() if k.startswith("network.noise"))
