"""``--checkpoint.dirpath``: a folder of one training, where ``last`` looks, and no other files are lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from resuming import CONFIG, fit, refused, resume

import cli
from zoo.engine.checkpoint import step_checkpoints
from zoo.engine.checkpoint_folder import claim, hold

EVERY = "--checkpoint.every_n_train_steps=2"


def at(folder: Path) -> str:
    return f"--checkpoint.dirpath={folder}"


def steps(folder: Path) -> list[int]:
    return [int(p.name[5:-5]) for p in step_checkpoints(folder)]


@pytest.mark.parametrize("name", ["best.ckpt", "step=00000099.ckpt", ".step=00000002.ckpt.1.tmp"])
def test_files_that_no_run_wrote_are_left(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_text("precious")
    line = refused(capsys, "fit", tmp_path, "--trainer.max_steps=4", at(mine))
    assert (
        f"checkpoint.dirpath {mine} holds {name} that this run did not write; choose another folder" in line
    )
    assert (mine / name).read_text() == "precious"
    assert list((tmp_path / CONFIG).iterdir()) == []


def test_other_files_in_the_folder_are_no_hindrance(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("notes.txt", ".other.tmp", ".other.old"):
        (mine / name).write_text("precious")
    fit(tmp_path, 4, EVERY, at(mine))
    assert steps(mine) == [4, 2]
    assert all((mine / n).read_text() == "precious" for n in ("notes.txt", ".other.tmp", ".other.old"))


def test_a_second_run_is_refused_by_the_name_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "shared"
    first = fit(tmp_path, 4, EVERY, at(shared))
    before = {p.name: p.read_bytes() for p in shared.iterdir() if p.suffix == ".ckpt"}
    line = refused(capsys, "fit", tmp_path, "--trainer.max_steps=6", "--seed_everything=1", at(shared))
    assert (
        f"of {first.resolve()}; choose another folder, or go on with that training: --ckpt_path last" in line
    )
    for which in ("last", "best"):
        flags = ["fit", "--config=lds_karate", at(shared), f"--trainer.default_root_dir={tmp_path}"]
        assert cli.main([*flags, "--trainer.max_steps=1", f"--ckpt_path={which}"]) == 1
    assert before == {p.name: p.read_bytes() for p in shared.iterdir() if p.suffix == ".ckpt"}


def test_a_folder_that_is_written_to_is_in_use(tmp_path: Path) -> None:
    run, other = tmp_path / "version_0", tmp_path / "version_1"
    run.mkdir()
    other.mkdir()
    lock = claim(tmp_path / "D", run, None)  # before its first checkpoint
    with pytest.raises(BlockingIOError, match=r"D is in use: .*choose another checkpoint.dirpath"):
        claim(tmp_path / "D", other, None)
    lock.release()
    claim(tmp_path / "D", other, None).release()
    hold(tmp_path / "D").release()


def test_the_folder_of_a_run_that_begins_is_not_taken(tmp_path: Path) -> None:
    begins, other = tmp_path / "version_0", tmp_path / "version_1"
    (begins / "checkpoints").mkdir(parents=True)
    (begins / ".lock").touch()
    other.mkdir()
    with pytest.raises(ValueError, match="is that of another run"):
        claim(begins / "checkpoints", other, None)


@pytest.mark.parametrize("with_flag", [True, False])
def test_last_goes_on_where_the_checkpoints_are(
    with_flag: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = fit(tmp_path / "whole", 10, EVERY) / "checkpoints"
    there = tmp_path / "there"
    first = fit(tmp_path / "parts", 6, EVERY, at(there))
    assert not (first / "checkpoints").exists()
    second = resume(tmp_path / "parts", 10, EVERY, *([at(there)] if with_flag else []))
    assert "resumed at step 6" in capsys.readouterr().out
    assert second == first
    assert steps(there) == [10, 8]
    a, b = (torch.load(step_checkpoints(f)[0], weights_only=True)["state_dict"] for f in (whole, there))
    assert all(torch.equal(a[name], b[name]) for name in a)
    root = f"--trainer.default_root_dir={tmp_path / 'parts'}"
    assert cli.main(["test", "--config", CONFIG, root, "--ckpt_path=last", at(there)]) == 0
    assert cli.main(["test", "--config", CONFIG, root, "--ckpt_path=best"]) == 0


def test_last_in_an_empty_folder_does_not_go_on_with_another_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, 4, at(tmp_path / "one"))
    fit(tmp_path, 6, "--ckpt_path=last", at(tmp_path / "two"))
    assert f"no checkpoint under {tmp_path / 'two'}, starting fresh" in capsys.readouterr().out
    assert steps(tmp_path / "one") == [4]


def test_steps_behind_the_best_are_set_aside_when_the_run_goes_on_from_it(tmp_path: Path) -> None:
    monitor = ["--checkpoint.monitor=val/loss", "--checkpoint.mode=max", EVERY]  # the best is the first
    folder = fit(tmp_path, 8, *monitor) / "checkpoints"
    best = torch.load(folder / "best.ckpt", weights_only=True)["global_step"]
    assert best < 4
    fit(tmp_path, 4, *monitor, "--ckpt_path=best")
    assert steps(folder)[0] == 4
    assert sorted(p.name for p in folder.glob("*.left")) == [
        "step=00000006.ckpt.left",
        "step=00000008.ckpt.left",
    ]
