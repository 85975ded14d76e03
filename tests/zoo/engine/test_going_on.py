"""What a training that goes on takes from its checkpoint, what a flag changes, and what must be the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from commands import run
from resuming import CONFIG, content, fit, refused, resume

import zoo
from zoo.engine.checkpoint import step_checkpoints


def test_averages_go_on_without_their_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flag = "--ema.decay=0.9"
    whole = content(fit(tmp_path / "whole", 20, flag))
    fit(tmp_path / "parts", 8, flag)
    folder = resume(tmp_path / "parts", 20)
    assert "ema.decay 0.9 (not null), as the checkpoint has it; a flag changes it" in capsys.readouterr().out
    parts = content(folder)
    for name, value in whole["callbacks"]["EMA"]["shadow"].items():
        assert torch.equal(parts["callbacks"]["EMA"]["shadow"][name], value)
    assert yaml.safe_load((folder / "config.yaml").read_text())["ema"] == {"decay": 0.9}


def test_another_decay_by_flag_is_told_and_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, 8, "--ema.decay=0.9")
    folder = resume(tmp_path, 10, "--ema.decay=0.5")
    assert "ema.decay was 0.9 in the checkpoint and is 0.5 from step 8 on" in capsys.readouterr().out
    assert content(folder)["callbacks"]["EMA"]["decay"] == 0.5


def test_another_method_by_flag_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of a run with one objective, half with another: config.yaml says the last alone."""
    fit(tmp_path, 8, "--model.init_args.dropout=0.5")
    resume(tmp_path, 10, "--model.init_args.dropout=0.5")
    assert "model.init_args.dropout was" not in capsys.readouterr().out
    resume(tmp_path, 12, "--model.init_args.dropout=0.25")
    said = "model.init_args.dropout was 0.5 in the checkpoint and is 0.25 from here on"
    assert capsys.readouterr().out.count(said) == 1


def test_no_decay_by_flag_drops_the_averages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, 8, "--ema.decay=0.9")
    folder = resume(tmp_path, 12, "--ema.decay=null")
    output = capsys.readouterr().out
    assert "ema.decay was 0.9 and is null: the averaged weights are dropped at step 8" in output
    assert content(folder)["callbacks"]["EMA"] == {"decay": None, "shadow": {}}


def test_averages_that_begin_late_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, 8)
    resume(tmp_path, 10, "--ema.decay=0.5")
    output = capsys.readouterr().out
    assert "ema.decay was null and is 0.5: the average starts from the weights of step 8" in output


def test_averages_that_a_former_version_froze_are_used_by_nobody(tmp_path: Path) -> None:
    folder = fit(tmp_path, 8, "--ema.decay=0.9")
    path = step_checkpoints(folder / "checkpoints")[0]
    frozen = content(folder)
    frozen["callbacks"]["EMA"]["decay"] = None
    torch.save(frozen, path)
    loaded = zoo.load(path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in frozen["state_dict"].items())
    resumed = content(resume(tmp_path, 10))
    assert resumed["callbacks"]["EMA"]["shadow"] == {}


def test_the_best_and_all_kept_files_go_on_without_their_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--checkpoint.monitor=val/loss", "--checkpoint.mode=min", "--checkpoint.keep=-1"]
    fit(tmp_path, 6, *flags, "--checkpoint.every_n_train_steps=2")
    folder = resume(tmp_path, 12)
    output = capsys.readouterr().out
    assert "checkpoint.keep -1 (not 2), checkpoint.every_n_train_steps 2 (not " in output
    state = content(folder)["callbacks"]["Checkpoint"]
    assert (state["monitor"], state["mode"], state["best_step"]) == ("val/loss", "min", 12)
    assert [int(p.name[5:-5]) for p in step_checkpoints(folder / "checkpoints")] == [12, 10, 8, 6, 4, 2]


def test_a_score_is_not_compared_with_one_of_another_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(
        tmp_path, 6, "--checkpoint.monitor=val/loss", "--checkpoint.mode=min"
    )  # loss above 1, accuracies below
    folder = resume(tmp_path, 8, "--checkpoint.monitor=val/micro_f1", "--checkpoint.mode=max")
    output = capsys.readouterr().out
    assert "the best so far was the min of val/loss; it is the max of val/micro_f1 from here on" in output
    assert content(folder)["callbacks"]["Checkpoint"]["best_step"] > 6


def test_a_best_that_is_in_another_folder_gives_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = ["--checkpoint.monitor=val/loss", "--checkpoint.mode=max"]  # the best is the first
    path = step_checkpoints(fit(tmp_path, 6, *monitor) / "checkpoints")[0]
    folder = fit(tmp_path, 8, *monitor, f"--ckpt_path={path}")
    assert "the best so far (val/loss " in capsys.readouterr().out
    assert (folder / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize("other", ["AdamW", "RAdam", "RMSprop", "SGD"])
@pytest.mark.parametrize("named", [True, False])
def test_another_optimiser_is_refused_before_anything_is_restored(
    other: str, named: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit(tmp_path, 4)
    config = (folder / "config.yaml").read_text()
    if not named:  # of a version that did not write the names
        before = content(folder)
        del before["zoo"]["optimization"]
        torch.save(before, step_checkpoints(folder / "checkpoints")[0])
        if other == "RAdam":
            pytest.skip("it has a part of Adam's settings: nothing tells them apart without names")
    flags = [f"--model.init_args.optimizer=torch.optim.{other}", "--model.init_args.optimizer.lr=0.1"]
    line = refused(capsys, "fit", tmp_path, "--ckpt_path=last", "--trainer.max_steps=8", *flags)
    if named:
        assert "trained with torch.optim.Adam, this run asks for" in line
    assert f"torch.optim.{other}" in line
    assert (folder / "config.yaml").read_text() == config
    assert "optimiser flags" not in capsys.readouterr().out


def test_another_scheduler_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, 4)
    flags = [
        "--model.init_args.lr_scheduler=torch.optim.lr_scheduler.ExponentialLR",
        "--model.init_args.lr_scheduler.init_args.gamma=0.5",
    ]
    line = refused(capsys, "fit", tmp_path, "--ckpt_path=last", "--trainer.max_steps=8", *flags)
    assert (
        "trained with none, this run asks for torch.optim.lr_scheduler.ExponentialLR as its lr_sched" in line
    )


def test_a_rate_of_the_same_optimiser_does_nothing_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, 4)
    folder = resume(tmp_path, 6, "--model.init_args.optimizer.init_args.lr=0.7")
    assert "note: the checkpoint restores the optimiser with its own" in capsys.readouterr().out
    groups = content(folder)["optimizer_states"][0]["param_groups"]
    assert all(group["lr"] != 0.7 for group in groups)


DIVERGING = ("--model.init_args.optimizer.init_args.lr=1e30", "--trainer.max_steps=12")


def test_weights_of_nan_are_never_the_best_and_answer_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("fit", CONFIG, tmp_path, *DIVERGING, "--trainer.val_check_interval=1")
    output = capsys.readouterr().out
    checkpoints = folder / "checkpoints"
    best = checkpoints / "best.ckpt"
    if best.exists():  # of a step before
        state = torch.load(best, weights_only=True)["state_dict"]
        assert all(bool(torch.isfinite(v).all()) for v in state.values())
    assert "zoo: the training diverged: " in output
    assert "NaN or infinity" in yaml.safe_load((folder / "summary.json").read_text())["diverged"]
    newest = step_checkpoints(checkpoints)[0]
    for verb in ("test", "validate", "predict"):
        assert "holds NaN or infinity" in refused(capsys, verb, tmp_path, "--ckpt_path=last")
    assert ("next: zoo" in output) == best.exists()
    assert str(newest) not in output.partition("next: ")[2]


def test_a_run_that_does_not_diverge_says_nothing_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit(tmp_path, 4)
    assert "diverged" not in capsys.readouterr().out
    assert yaml.safe_load((folder / "summary.json").read_text())["diverged"] is None


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "16-true"])
def test_a_precision_that_the_method_does_not_compute_in_is_named(
    precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "fit", tmp_path, "--trainer.max_steps=2", f"--trainer.precision={precision}")
    assert f"NodeClassifier does not compute in trainer.precision {precision} (" in line
    assert line.endswith("; take 32-true, or bf16-mixed")


def test_the_least_steps_are_no_more_than_the_most(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "fit", tmp_path, "--trainer.min_steps=10", "--trainer.max_steps=3")
    assert "trainer.min_steps 10 is more than trainer.max_steps 3" in line
