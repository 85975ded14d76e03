"""Killed runs go on to the same bits; two processes train what one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from commands import run
from interruption import Killed, newest_checkpoint, run_differences
from processes import CLI, environment, largest_difference

import zoo

_TRAINER = ["--trainer.log_every_n_steps=1", "--trainer.val_check_interval=5", "--trainer.max_steps=11",
            "--checkpoint.every_n_train_steps=4", "--data.init_args.batch_size=8",
            "--data.init_args.most_evaluated=6"]  # fmt: skip
_SIZES = {"width": 16, "layers": 1, "heads": 2, "hidden": 16}
_SMALL = [f"--model.init_args.{k}={v}" for k, v in _SIZES.items()]
FLAGS = {
    "masked_lm_peptides": [*_SMALL, "--data.init_args.most_train=48"],
    "protein_property_peptides": ["--data.init_args.most_train=48"],
    "seq2seq_django_de": [
        *_SMALL, "--model.init_args.head_width=8", "--data.init_args.most_pairs=48",
        "--data.init_args.vocab_size=300", "--model.init_args.generate_batches=1",
    ],
}  # fmt: skip
CLASSES: dict[str, Any] = {
    "masked_lm_peptides": zoo.MaskedLM,
    "protein_property_peptides": zoo.MaskedLM,
    "seq2seq_django_de": zoo.Seq2SeqLM,
}


def fit(name: str, root: Path, *flags: str) -> Path:
    return run("fit", name, root, *FLAGS[name], *_TRAINER, *flags)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("step", [6, 9])
def test_a_killed_run_goes_on_to_the_same_bits(name: str, step: int, tmp_path: Path) -> None:
    flags = ["--model.init_args.dropout=0.1"]
    whole, cls = fit(name, tmp_path / "whole", *flags), CLASSES[name]
    original = cls.training_step

    def dies(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step >= step:
            raise Killed
        return original(self, batch, batch_idx)

    with mock.patch.object(cls, "training_step", dies), pytest.raises(Killed):
        fit(name, tmp_path / "killed", *flags)
    assert run_differences(whole, fit(name, tmp_path / "killed", *flags, "--ckpt_path=last")) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_two_processes_train_what_one_does(name: str, tmp_path: Path) -> None:
    """A mean over the tokens of the whole update, whose halves have different numbers; gradients are clipped
    after it. Dropout is off: its masks belong to a process. SGD: Adam makes a rounding into a step."""
    flags = [*FLAGS[name], *_TRAINER, "--model.init_args.dropout=0.0",
             "--model.init_args.optimizer=torch.optim.SGD",
             "--model.init_args.optimizer.init_args.lr=0.1",
             "--trainer.enable_progress_bar=false", "--trainer.accumulate_grad_batches=2"]  # fmt: skip
    one = run("fit", name, tmp_path / "one", *flags)
    two = [f"--trainer.default_root_dir={tmp_path / 'two'}", "--config=trainer/ddp", "--trainer.devices=2"]
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", f"--config={name}", *flags, *two, "--trainer.accelerator=cpu"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    other = max((tmp_path / "two" / name).glob("version_*"))
    content = [torch.load(newest_checkpoint(f), weights_only=True)["state_dict"] for f in (one, other)]
    assert largest_difference(*content) < 5e-6
