"""Trainings of molecules in space that are killed, and that two processes share, forces included."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import run
from fakes.molecules_space import fake_xyz
from processes import CLI, environment, largest_difference

from zoo.engine.checkpoint import step_checkpoints

torch.set_num_threads(1)
FLAGS = (
    "--model.init_args.hidden=8", "--model.init_args.layers=2", "--data.init_args.train=40",
    "--data.init_args.val=8", "--data.init_args.test=8", "--data.init_args.batch_size=4",
    "--data.init_args.rotate_train=true", "--trainer.max_steps=8", "--trainer.log_every_n_steps=2",
    "--trainer.val_check_interval=4", "--checkpoint.every_n_train_steps=2", "--ema.decay=0.9",
    "--trainer.enable_progress_bar=false",
)  # fmt: skip
SGD = "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.01}}"
FIXED = "--model.init_args.lr_scheduler=null"


def kept(folder: Path) -> dict[str, object]:
    found = torch.load(step_checkpoints(folder / "checkpoints")[0], weights_only=True)
    return {
        k: found[k] for k in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks") if k in found
    }


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_same_to_the_bit(tmp_path: Path) -> None:
    whole = run("fit", "molecules_ethanol", tmp_path / "whole", *FLAGS)
    run("fit", "molecules_ethanol", tmp_path / "parts", *FLAGS, "--trainer.max_steps=4")
    parts = run("fit", "molecules_ethanol", tmp_path / "parts", *FLAGS, "--ckpt_path=last")
    a, b = kept(whole), kept(parts)
    assert largest_difference(a["state_dict"], b["state_dict"]) == 0
    assert largest_difference(a["optimizer_states"], b["optimizer_states"]) == 0
    units = {k: v for k, v in a["state_dict"].items() if ".units." in k}  # type: ignore[attr-defined]
    assert float(units["network.units.scale"]) > 1
    assert units["network.units.mean"].dtype == torch.float64


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True], ids=["ethanol", "molecules of several sizes"])
def test_two_processes_train_what_one_does(own: bool, tmp_path: Path) -> None:
    """By SGD: Adam's steps are as large for gradients that are rounding as for any other."""
    flags = [*FLAGS, SGD, FIXED]
    if own:  # force components are counted over both processes
        fake_xyz(tmp_path / "own.xyz", 40)
        flags = [f for f in flags if not f.startswith("--data.init_args") or "batch" in f or "rotate" in f]
        flags += ["--data.class_path=datamodules.XYZFrames", f"--data.init_args.file={tmp_path / 'own.xyz'}"]
        flags.sort(key=lambda f: not f.startswith("--data.class_path"))
    one = run("fit", "molecules_ethanol", tmp_path / "one", *flags)
    two = [f"--trainer.default_root_dir={tmp_path / 'two'}", "--config=trainer/ddp", "--trainer.devices=2",
           "--trainer.accelerator=cpu"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", "--config=molecules_ethanol", *flags, *two],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (other,) = (tmp_path / "two" / "molecules_ethanol").glob("version_*")
    difference = largest_difference(kept(one)["state_dict"], kept(other)["state_dict"])
    assert math.isfinite(difference)
    assert difference <= 2e-6
