"""``--ckpt_path last``: which checkpoint is taken, and what is said about the others."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.engine.arguments import Arguments
from zoo.engine.checkpoint import AtomicCheckpointIO
from zoo.engine.lock import FolderLock
from zoo.hub import weights as hub


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """The folder of steps 40 and 50 of a run, each with a weight and a generator's state."""
    folder = tmp_path / "gnn_node_karate" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    for step in (40, 50):
        content = {
            "pytorch-lightning_version": "2.6.6",
            "global_step": step,
            "state_dict": {"weight": torch.ones(64)},
            "hyper_parameters": {},
            "callbacks": {"ResumableRandomness": {"ranks": [{"torch": torch.get_rng_state()}]}},
            "zoo": {"class_path": "zoo.NodeClassifier", "config": "gnn_node_karate"},
        }
        torch.save(content, folder / f"step={step:08d}.ckpt")
    return folder


def last(checkpoints: Path) -> Path | None:
    root = checkpoints.parents[2]
    flags = ["--config=gnn_node_karate", f"--trainer.default_root_dir={root}", "--ckpt_path=last"]
    return Arguments("fit", flags).checkpoint


def flip(path: Path, member: str) -> None:
    with zipfile.ZipFile(path) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith(member))
    content = bytearray(path.read_bytes())
    content[info.header_offset + len(info.FileHeader()) + info.file_size // 2 + 64] ^= 0x40
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() == info.filename


@pytest.mark.parametrize("member", ["data/0", "data/1"])
def test_a_flipped_bit_in_weights_or_generator_state_takes_the_earlier_file(
    member: str, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoints / "step=00000050.ckpt"
    assert last(checkpoints) == newest
    flip(newest, member)
    assert last(checkpoints) == checkpoints / "step=00000040.ckpt"
    assert f"skipping a broken checkpoint: {newest} is damaged (Bad CRC-32" in capsys.readouterr().out
    assert sorted(p.name for p in checkpoints.iterdir()) == [
        "step=00000040.ckpt",
        "step=00000050.ckpt.broken",
    ]


def test_a_trainer_in_python_compares_checksums_too(checkpoints: Path) -> None:
    newest = checkpoints / "step=00000050.ckpt"
    assert AtomicCheckpointIO().load_checkpoint(newest)["global_step"] == 50
    flip(newest, "data/0")
    torch.load(newest, weights_only=True, mmap=True)  # says nothing
    with pytest.raises(ValueError, match=r"step=00000050.ckpt is damaged \(Bad CRC-32"):
        AtomicCheckpointIO().load_checkpoint(newest)


def test_the_last_run_is_that_of_the_highest_number(checkpoints: Path) -> None:
    """A clock may be set back, and a copy has times of its own."""
    for number in (10, 9):
        copy = checkpoints.parents[1] / f"version_{number}"
        shutil.copytree(checkpoints.parent, copy)
        os.utime(copy, (number, 10 - number))
    assert last(checkpoints) == checkpoints.parents[1] / "version_10/checkpoints/step=00000050.ckpt"


def test_a_checkpoint_that_cannot_be_read_now_stops_and_is_left_alone(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest, opened = checkpoints / "step=00000050.ckpt", Path.open

    def locked(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == newest:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(OSError, match=r"cannot read .*step=00000050.ckpt \(Permission denied\)"):
        last(checkpoints)
    assert sorted(p.suffix for p in checkpoints.iterdir()) == [".ckpt", ".ckpt"]


def test_a_refused_checkpoint_is_not_taken_for_broken(checkpoints: Path) -> None:
    newest = checkpoints / "step=00000050.ckpt"
    torch.save(torch.load(newest, weights_only=True) | {"zoo": {"class_path": "mine.Model"}}, newest)
    with pytest.raises(ValueError, match=r"step=00000050.ckpt asks for class 'mine.Model'.*refused"):
        last(checkpoints)
    assert newest.exists()


def test_nothing_starts_anew_over_broken_checkpoints(checkpoints: Path) -> None:
    for path in checkpoints.iterdir():
        path.write_bytes(path.read_bytes()[:500])
    for _ in range(2):  # the second time they have other names
        with pytest.raises(ValueError, match=r"every checkpoint under .* is broken.*leave --ckpt_path out"):
            last(checkpoints)


def test_a_sharded_save_that_was_cut_off_is_passed_over(
    checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoints / "step=00000060.ckpt").mkdir()
    assert last(checkpoints) == checkpoints / "step=00000050.ckpt"
    assert "step=00000060.ckpt is a folder without meta.pt" in capsys.readouterr().out


def test_nothing_is_read_or_renamed_in_a_folder_that_is_trained_in(checkpoints: Path) -> None:
    (checkpoints / "step=00000050.ckpt").write_bytes(b"")
    lock = FolderLock(checkpoints.parent)
    with pytest.raises(BlockingIOError, match="is in use"):
        last(checkpoints)
    assert (checkpoints / "step=00000050.ckpt").exists()
    lock.release()


def test_a_checkpoint_that_a_run_takes_away_gives_way_to_its_newest(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, newest = hub.read, checkpoints / "step=00000050.ckpt"

    def late(path: Path, **given: Any) -> Any:
        if newest.exists():
            newest.rename(checkpoints / "step=00000060.ckpt")  # what a run does that goes on
        return read(path, **given)

    monkeypatch.setattr(hub, "read", late)
    assert last(checkpoints) == checkpoints / "step=00000060.ckpt"
