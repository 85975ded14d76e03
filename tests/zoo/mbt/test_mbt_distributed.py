"""Two processes train what one trains: mixup and augmentation are functions of the seed and the step.

Dropout and stochastic depth are off, since their masks belong to a process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import newest_checkpoint
from test_distributed import CLI, environment, largest_difference, rows

import cli

FLAGS = (
    "--config=mbt_tones_sum",
    "--model.init_args.mixup_alpha=0.3",
    "--model.init_args.modality_dropout=0.2",
    "--model.init_args.width=16",
    "--model.init_args.mlp=16",
    "--data.init_args.batch_size=16",
    "--data.init_args.pairs=80",
    "--data.init_args.test_pairs=33",
    "--data.init_args.eval_batch_size=10",
    "--data.init_args.image_noise=0.3",
    "--data.init_args.audio_snr_db=0",
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=8",
    "--trainer.val_check_interval=4",
    "--trainer.log_every_n_steps=2",
    "--trainer.enable_progress_bar=false",
    "--checkpoint.every_n_train_steps=8",
)


def newest(root: Path) -> Path:
    return max((root / "mbt_tones_sum").glob("version_*"))


def test_two_processes_train_and_score_what_one_does(tmp_path: Path) -> None:
    assert cli.main(["fit", *FLAGS, f"--trainer.default_root_dir={tmp_path / 'one'}"]) == 0
    two = [f"--trainer.default_root_dir={tmp_path / 'two'}", "--config=trainer/ddp", "--trainer.devices=2"]
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", *FLAGS, *two],
        env={**environment(), "ZOO_DATA": os.environ.get("ZOO_DATA", "data")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    a, b = (_content(newest(tmp_path / n)) for n in ("one", "two"))
    assert a["global_step"] == b["global_step"] == 8
    distance = largest_difference(a["state_dict"], b["state_dict"])
    print(f"weights differ by {distance:.1e}")
    assert distance <= 2e-6
    moved = a["state_dict"]["network.blocks.rgb.0.qkv.weight"]
    torch.manual_seed(0)
    assert moved.abs().max() > 0.01
    for x, y in zip(rows(newest(tmp_path / "one")), rows(newest(tmp_path / "two")), strict=True):
        for key in x:
            assert (x[key] == "") == (y[key] == ""), key
            if x[key]:
                assert float(y[key]) == pytest.approx(float(x[key]), rel=1e-4, abs=1e-5), key


def _content(folder: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(newest_checkpoint(folder), weights_only=True)
    return saved
