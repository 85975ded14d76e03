"""A killed search goes on to the same bits: theta, optimiser, W and moments, counters, kept model, log."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from commands import run
from covering import covering
from interruption import Killed, newest_checkpoint, run_differences

from zoo.lds import LDS

# Passes of three chunks, so that kills fall inside a pass, at its end and in the chunk after.
FLAGS = (
    "--model.init_args.max_inner_steps=15", "--model.init_args.optimizer.class_path=torch.optim.Adam",
    "--model.init_args.optimizer.init_args.lr=0.05", "--trainer.max_steps=14",
    "--trainer.val_check_interval=6", "--trainer.log_every_n_steps=2", "--checkpoint.every_n_train_steps=4",
)  # fmt: skip


def fit(root: Path, *flags: str) -> Path:
    return run("fit", "lds_karate", root, *FLAGS, *flags)


def killed(root: Path, step: int, *flags: str) -> None:
    """A run that dies in the outer update after ``step`` updates, its inner steps done."""
    original = LDS._outer_update

    def update(self: LDS, *args: Any) -> Any:
        if self.trainer.global_step == step:
            raise Killed
        return original(self, *args)

    with mock.patch.object(LDS, "_outer_update", update), pytest.raises(Killed):
        fit(root, *flags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("step", covering([2, 4, 7, 10, 13], [4, 13]))
def test_a_killed_search_goes_on_to_the_same_bits(step: int, whole: Path, tmp_path: Path) -> None:
    killed(tmp_path, step)
    assert run_differences(whole, fit(tmp_path, "--ckpt_path=last")) == []


def test_two_kills_and_candidates(tmp_path: Path) -> None:
    flags = ["--model.init_args.num_candidates=200", "--model.init_args.random_candidates=20"]
    reference = fit(tmp_path / "whole", *flags)
    killed(tmp_path / "killed", 5, *flags)
    killed(tmp_path / "killed", 9, *flags, "--ckpt_path=last")
    assert run_differences(reference, fit(tmp_path / "killed", *flags, "--ckpt_path=last")) == []


def test_a_search_that_stopped_by_itself_leaves_a_checkpoint_of_its_end(tmp_path: Path) -> None:
    folder = fit(tmp_path, "--model.init_args.max_outer_epochs=2")
    content = torch.load(newest_checkpoint(folder), weights_only=True)
    assert (content["lds_progress"]["outer_epoch"], content["global_step"]) == (2, 6)


def test_a_checkpoint_holds_all_of_the_search(whole: Path) -> None:
    content = torch.load(newest_checkpoint(whole), weights_only=True)
    state, progress = content["state_dict"], content["lds_progress"]
    stored = {"theta", "inner_lr_logit", "inner_state", "kept_theta", "network.weights", "started"}
    assert stored <= set(state)
    assert state["inner_state"][1:].abs().min() >= 0
    assert float(state["inner_state"][2].sum()) > 0
    assert content["lr_schedulers"][0]["last_epoch"] == content["global_step"] == 14
    assert content["optimizer_states"][0]["state"][0]["exp_avg"].shape == state["theta"].shape
    assert (progress["outer_epoch"], progress["chunk"], progress["inner_step"]) == (4, 2, 10)
    assert progress["kept_epoch"] >= 0
    assert 0 < progress["es_loss"] < 10
