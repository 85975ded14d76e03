"""Nothing is lost: a run killed at any moment goes on to the same bits as one that nobody stopped.

The fast tests stop a run inside the process; the slow one sends SIGKILL to forked processes.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from covering import covering
from interruption import TINY, dying, fit, killed_fit, newest, newest_checkpoint, run_differences

import cli
from zoo.engine.checkpoint import step_checkpoints

RESUME = "--ckpt_path=last"

# name -> (flags, optimiser steps of the whole run); an epoch is ten batches unless the flags say otherwise
SETTINGS: dict[str, tuple[list[str], int]] = {
    "mid_epoch": (["--trainer.max_steps=13", "--checkpoint.every_n_train_steps=4"], 13),
    "with_validation": (["--trainer.max_steps=13", "--checkpoint.every_n_train_steps=5"], 13),
    "epoch_end": (["--trainer.max_steps=23", "--checkpoint.every_n_train_steps=10"], 23),
    "validation_per_epoch": (
        [
            "--trainer.max_steps=23",
            "--checkpoint.every_n_train_steps=5",
            "--trainer.check_val_every_n_epoch=1",
            "--trainer.val_check_interval=1.0",
        ],
        23,
    ),
    "validation_twice_each_other_epoch": (
        [
            "--trainer.max_steps=23",
            "--checkpoint.every_n_train_steps=5",
            "--trainer.check_val_every_n_epoch=2",
            "--trainer.val_check_interval=0.5",
        ],
        23,
    ),
    "no_validation": (
        ["--trainer.max_steps=13", "--checkpoint.every_n_train_steps=5", "--trainer.limit_val_batches=0"],
        13,
    ),
    "every_row": (
        [
            "--trainer.max_steps=13",
            "--checkpoint.every_n_train_steps=3",
            "--trainer.val_check_interval=3",
            "--trainer.log_every_n_steps=1",
        ],
        13,
    ),
    "accumulation": (
        [
            "--trainer.max_steps=13",
            "--checkpoint.every_n_train_steps=2",
            "--trainer.accumulate_grad_batches=2",
        ],
        13,
    ),
    "accumulation_over_an_odd_epoch": (
        [
            "--trainer.max_steps=15",
            "--checkpoint.every_n_train_steps=3",
            "--trainer.accumulate_grad_batches=2",
            "--data.init_args.batch_size=120",
            "--trainer.val_check_interval=4",
        ],
        15,
    ),
    "epochs": (
        ["--trainer.max_steps=-1", "--trainer.max_epochs=2", "--checkpoint.every_n_train_steps=4"],
        20,
    ),
    "part_of_the_epoch": (
        ["--trainer.max_steps=13", "--checkpoint.every_n_train_steps=3", "--trainer.limit_train_batches=6"],
        13,
    ),
    "best_kept": (
        ["--trainer.max_steps=13", "--checkpoint.every_n_train_steps=4", "--checkpoint.monitor=val/mse"],
        13,
    ),
    "workers": (
        ["--trainer.max_steps=13", "--checkpoint.every_n_train_steps=5", "--data.init_args.num_workers=2"],
        13,
    ),
}

# (setting, moment, optimiser step): before the first checkpoint, on one, between two, at an epoch's end
KILLS = [
    ("mid_epoch", "batch", 2),
    ("mid_epoch", "writing", 8),
    ("with_validation", "validation", 5),
    ("with_validation", "row", 11),
    ("epoch_end", "saved", 10),
    ("validation_per_epoch", "validation", 20),
    ("validation_twice_each_other_epoch", "saved", 15),
    ("every_row", "saved", 6),
    ("accumulation", "row", 7),
    ("accumulation_over_an_odd_epoch", "saved", 12),
    ("epochs", "batch", 17),
    ("best_kept", "saved", 12),
]
MORE_KILLS = [
    ("mid_epoch", "batch", 9),
    ("mid_epoch", "saved", 4),
    ("mid_epoch", "saved", 12),
    ("with_validation", "saved", 5),
    ("epoch_end", "batch", 20),
    ("epoch_end", "row", 21),
    ("validation_per_epoch", "saved", 10),
    ("no_validation", "saved", 10),
    ("every_row", "batch", 7),
    ("accumulation", "saved", 4),
    ("accumulation_over_an_odd_epoch", "saved", 6),
    ("epochs", "saved", 12),
    ("part_of_the_epoch", "saved", 6),
    ("best_kept", "saved", 8),
    ("best_kept", "validation", 10),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The run folder of a setting that nobody stopped."""
    folders: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in folders:
            folders[name] = fit(tmp_path_factory.mktemp(name), *SETTINGS[name][0])
        return folders[name]

    return run


@pytest.mark.parametrize(("setting", "moment", "step"), covering([*KILLS, *MORE_KILLS], KILLS))
def test_a_killed_run_goes_on_to_the_same_bits(
    setting: str, moment: str, step: int, tmp_path: Path, reference: Callable[[str], Path]
) -> None:
    flags, _ = SETTINGS[setting]
    killed_fit(tmp_path, moment, step, *flags)
    folder = fit(tmp_path, *flags, RESUME)
    assert run_differences(reference(setting), folder) == []
    # no kill leaves half a file under a checkpoint's name, nor a leftover after the resume
    assert [p.name for p in tmp_path.rglob("*") if p.suffix in (".tmp", ".broken")] == []


def test_workers_resume_to_the_same_bits(tmp_path: Path, reference: Callable[[str], Path]) -> None:
    flags, _ = SETTINGS["workers"]
    killed_fit(tmp_path, "batch", 8, *flags)
    assert run_differences(reference("workers"), fit(tmp_path, *flags, RESUME)) == []
    # and the number of workers changes nothing
    assert run_differences(reference("workers"), reference("with_validation")) == []


def test_a_checkpoint_holds_what_the_issue_names(reference: Callable[[str], Path]) -> None:
    content = torch.load(newest_checkpoint(reference("mid_epoch")), weights_only=True)
    assert content["global_step"] == 13
    assert content["epoch"] == 1
    assert "uncertainty.log_variances" in content["state_dict"]
    assert content["state_dict"]["uncertainty.log_variances"].abs().max() > 0
    assert content["optimizer_states"][0]["state"]
    shadow = content["callbacks"]["EMA"]["shadow"]
    assert set(shadow) == {k for k in content["state_dict"] if k.startswith("network.")}
    assert any(not torch.equal(shadow[k], content["state_dict"][k]) for k in shadow)


def test_a_longer_training_equals_one_that_was_long_from_the_start(tmp_path: Path) -> None:
    flags = ["--checkpoint.every_n_train_steps=5", "--model.init_args.lr_scheduler.init_args.total_steps=999"]
    whole = fit(tmp_path / "whole", *flags, "--trainer.max_steps=17")
    fit(tmp_path / "parts", *flags, "--trainer.max_steps=8")
    parts = fit(tmp_path / "parts", *flags, "--trainer.max_steps=17", RESUME)
    assert run_differences(whole, parts) == []


def test_two_kills_in_a_row_lose_nothing(tmp_path: Path, reference: Callable[[str], Path]) -> None:
    flags, _ = SETTINGS["mid_epoch"]
    killed_fit(tmp_path, "batch", 6, *flags)
    killed_fit(tmp_path, "row", 9, *flags, RESUME)
    assert run_differences(reference("mid_epoch"), fit(tmp_path, *flags, RESUME)) == []


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, reference: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    flags, _ = SETTINGS["mid_epoch"]
    folder = killed_fit(tmp_path, "row", 9, *flags)
    newest_file = newest_checkpoint(folder)
    newest_file.write_bytes(newest_file.read_bytes()[:5000])
    capsys.readouterr()
    assert run_differences(reference("mid_epoch"), fit(tmp_path, *flags, RESUME)) == []
    output = capsys.readouterr().out
    assert "skipping a broken checkpoint" in output
    assert "step=00000008.ckpt" in output
    assert "resumed at step 4" in output


def test_last_without_a_checkpoint_says_that_it_starts_fresh(
    tmp_path: Path, reference: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    flags, _ = SETTINGS["mid_epoch"]
    folder = fit(tmp_path, *flags, RESUME)
    assert "starting fresh" in capsys.readouterr().out
    assert run_differences(reference("mid_epoch"), folder) == []


def test_a_checkpoint_by_name_starts_a_new_folder(tmp_path: Path, reference: Callable[[str], Path]) -> None:
    flags, _ = SETTINGS["mid_epoch"]
    folder = killed_fit(tmp_path, "row", 9, *flags)
    resumed = fit(tmp_path, *flags, f"--ckpt_path={newest_checkpoint(folder)}")
    assert resumed != folder
    a, b = (torch.load(newest_checkpoint(f), weights_only=True) for f in (reference("mid_epoch"), resumed))
    assert all(torch.equal(a["state_dict"][k], b["state_dict"][k]) for k in a["state_dict"])


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    flags = ["--trainer.max_steps=13", "--checkpoint.every_n_train_steps=2", "--trainer.limit_val_batches=0"]
    kept = step_checkpoints(fit(tmp_path / "two", *flags) / "checkpoints")
    assert [p.name for p in kept] == ["step=00000013.ckpt", "step=00000012.ckpt"]
    everything = step_checkpoints(fit(tmp_path / "all", *flags, "--checkpoint.keep=-1") / "checkpoints")
    assert len(everything) == 7


def test_ctrl_c_leaves_with_130_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with dying("row", 6, interrupt):
        code = cli.main(
            [
                "fit",
                *TINY,
                f"--trainer.default_root_dir={tmp_path}",
                "--trainer.max_steps=13",
                "--checkpoint.every_n_train_steps=4",
            ]
        )
    assert code == 130
    assert "--ckpt_path last" in capsys.readouterr().out


def in_a_process(work: Callable[[], object], log: Path) -> int:
    """Run ``work`` in a forked process; its wait status."""
    process = os.fork()
    if process == 0:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
    return os.waitpid(process, 0)[1]


@pytest.mark.slow
def test_fifty_random_kills_and_resumes(tmp_path: Path) -> None:
    """SIGKILL at random steps and moments of random settings, some runs twice: 0 differences."""
    luck = random.Random(0)
    log = tmp_path / "log"
    references: dict[str, Path] = {}
    kills, different = 0, []
    while kills < 50:
        name = luck.choice(sorted(SETTINGS))
        flags, steps = SETTINGS[name]
        if name not in references:
            root = tmp_path / f"reference_{name}"
            assert in_a_process(lambda r=root, f=flags: fit(r, *f), log) == 0, log.read_text()[-2000:]
            references[name] = newest(root)
        moment = luck.choice(["batch", "row", "saved", "writing", "validation"])
        step, root = luck.randint(1, steps), tmp_path / "killed"

        def killed(
            root: Path = root, flags: list[str] = flags, moment: str = moment, step: int = step
        ) -> None:
            with dying(moment, step, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                fit(root, *flags, RESUME)

        status = in_a_process(killed, log)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            kills += 1
            if luck.random() < 0.2:  # a second kill of the same run, later
                status = in_a_process(lambda: killed(step=min(step + 3, steps)), log)  # noqa: B023
                kills += os.WIFSIGNALED(status)
            resumed = in_a_process(lambda r=root, f=flags: fit(r, *f, RESUME), log)
            assert resumed == 0, log.read_text()[-2000:]
            if found := run_differences(references[name], newest(root)):
                different.append((name, moment, step, found[:3]))
        shutil.rmtree(root, ignore_errors=True)  # also of moments that do not occur
    print(f"{kills} kills, {len(different)} differences")
    assert different == []


def test_a_run_without_validation_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, "--trainer.limit_val_batches=0", "--checkpoint.monitor=val/loss")
    assert "(the newest: no validation came)" in capsys.readouterr().out
