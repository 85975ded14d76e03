"""A killed forecasting run goes on to the same bits; two processes train what one trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import interruption
import pytest
import torch
from commands import run
from covering import covering
from interruption import Killed, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference

import zoo

CONFIG = "gnn_traffic_synthetic"
# 10 batches an epoch; scheduled sampling soon, a schedule per epoch, dropout on
SETTINGS = (
    "--data.init_args.sensors=6", "--data.init_args.steps=263",
    "--data.init_args.day=50", "--data.init_args.batch_size=16", "--data.init_args.missing=0.1",
    "--model.init_args.num_nodes=6", "--model.init_args.hidden=8",
    "--model.init_args.schedule_interval=epoch", "--trainer.max_epochs=-1", "--trainer.max_steps=24",
    "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu",
    "--checkpoint.every_n_train_steps=5", "--checkpoint.keep=-1",
)  # fmt: skip


def flags_of(arch: str) -> list[str]:
    coins = ["--model.init_args.teaching_decay=5"] if arch == "dcrnn" else []
    return [f"--model.init_args.arch={arch}", *coins]


def fit(root: Path, *flags: str) -> Path:
    run("fit", CONFIG, root, *SETTINGS, *flags)
    return root / CONFIG / "version_0"


def dying(moment: str, step: int) -> Any:
    """The process dies when step ``step`` is done (``batch``) or its checkpoint is in place (``saved``)."""

    def on_train_batch_end(self: Any, *args: Any) -> None:
        if self.trainer.global_step == step:
            raise Killed

    if moment == "saved":
        return interruption.dying(moment, step)
    return mock.patch.object(zoo.SpatioTemporalForecaster, "on_train_batch_end", on_train_batch_end)


@pytest.fixture(scope="module")
def references() -> dict[str, Path]:
    return {}


@pytest.mark.parametrize(
    ("arch", "moment", "step"),
    covering(
        [
            *(("gwnet", "batch", 13), ("gwnet", "saved", 10), ("dcrnn", "batch", 8), ("dcrnn", "saved", 15)),
            *(("stgcn_cheb", "batch", 22), ("fclstm", "saved", 20), ("ha", "batch", 7)),
            ("dcrnn", "saved", 10),  # the end of an epoch
        ],
        [("dcrnn", "saved", 10)],
    ),
)
def test_a_killed_run_goes_on_to_the_same_bits(arch, moment, step, tmp_path, references):
    flags = flags_of(arch)
    if arch not in references:
        references[arch] = fit(tmp_path / "whole", *flags)
    with pytest.raises(Killed), dying(moment, step):
        fit(tmp_path, *flags)
    folder = fit(tmp_path, *flags, "--ckpt_path=last")
    assert run_differences(references[arch], folder) == []
    if arch == "dcrnn":  # the schedule and the coins have had their say
        content = torch.load(newest_checkpoint(folder), weights_only=True)
        assert content["lr_schedulers"][0]["last_epoch"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["gwnet", "dcrnn", "stgcn_1st"])
def test_two_processes_train_what_one_trains(arch: str, tmp_path: Path) -> None:
    """Batch norm over both, the loss over the known targets of both, the same coins. Without dropout, whose
    draws are each process's own, and with SGD: Adam makes whole steps of the rounding noise of a bias before
    a batch norm."""
    flags = [*flags_of(arch), "--trainer.max_steps=12"]
    flags += [] if arch == "dcrnn" else ["--model.init_args.dropout=0.0"]
    flags += ["--model.init_args.optimizer=torch.optim.SGD", "--model.init_args.optimizer.init_args.lr=0.02"]
    one = fit(tmp_path / "one", *flags)
    command = [sys.executable, str(CLI), "fit", f"--config={CONFIG}", *SETTINGS, *flags]
    command += [f"--trainer.default_root_dir={tmp_path / 'two'}"]
    command += ["--config=trainer/ddp", "--trainer.devices=2"]
    output: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 550, "check": False}
    done = subprocess.run(command, env=environment(), cwd=tmp_path, **output)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    two = tmp_path / "two" / CONFIG / "version_0"
    a, b = (torch.load(newest_checkpoint(f), weights_only=True) for f in (one, two))
    assert a["global_step"] == b["global_step"] == 12
    distance = largest_difference(a["state_dict"], b["state_dict"])
    early = torch.load(two / "checkpoints/step=00000005.ckpt", weights_only=True)["state_dict"]
    name = {"gwnet": "end.1.weight", "dcrnn": "projection.weight", "stgcn_1st": "output.fc1.weight"}[arch]
    moved = float((early[f"network.{name}"] - b["state_dict"][f"network.{name}"]).abs().max())
    print(f"{arch}: {distance:.1e} of {moved:.1e}")
    assert distance < 1e-5 < 1e-3 < moved
