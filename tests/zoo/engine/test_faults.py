"""Faults of the machine: a run goes on or ends in one line; ``--ckpt_path last`` goes on to the bit."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from interruption import TINY, dying, fit, killed_fit, newest, newest_checkpoint, run_differences

import cli
from zoo import DTR
from zoo.engine import checkpoint as checkpoints
from zoo.engine.checkpoint import AtomicCheckpointIO, Checkpoint, step_checkpoints
from zoo.engine.errors import explain
from zoo.engine.lock import FolderLock
from zoo.engine.lost_processes import Ranks
from zoo.engine.metrics_csv import MetricsCSV, final_and_best, read_metrics
from zoo.engine.predictions import PredictionWriter
from zoo.engine.run import Run
from zoo.engine.stopping import StopSignals
from zoo.reports import CannotWrite, replace_file, writing

FLAGS = ("--trainer.max_steps=13", "--checkpoint.every_n_train_steps=4")
RESUME = "--ckpt_path=last"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder that nothing happened to."""
    return fit(tmp_path_factory.mktemp("calm"), *FLAGS)


def refused(root: Path, *flags: str) -> int:
    """Exit code of ``zoo fit`` of the tiny config."""
    return cli.main(["fit", *TINY, f"--trainer.default_root_dir={root}", *FLAGS, *flags])


@contextmanager
def at_step(step: int, act: Callable[[DTR], object]) -> Iterator[None]:
    """Call ``act`` behind a step, before its row is written."""

    def on_train_batch_end(self: DTR, *args: Any) -> None:
        if self.trainer.global_step == step:
            act(self)

    with mock.patch.object(DTR, "on_train_batch_end", on_train_batch_end):
        yield


@pytest.mark.parametrize("mode", ["min", "max"])
def test_no_number_is_never_the_best(mode: Any) -> None:
    kept = Checkpoint(monitor="val/x", mode=mode)
    improved = []
    for step, score in enumerate([math.nan, math.inf, -math.inf, 0.5, math.nan, 0.5]):
        trainer: Any = mock.Mock(callback_metrics={"val/x": torch.tensor(score)}, global_step=step)
        improved.append(kept._improved(trainer))
    assert improved == [False, False, False, True, False, False]
    assert (kept.best_score, kept.best_step) == (0.5, 3)
    kept.load_state_dict({"best_score": math.nan, "best_step": 0})  # of a former version
    assert (kept.best_score, kept.best_step) == (None, None)


def test_a_first_validation_of_nan_does_not_keep_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = iter([math.nan, 3.0, 2.0])

    def on_validation_epoch_end(self: DTR) -> None:
        self.log("val/score", next(scores))

    flags = (
        "--checkpoint.monitor=val/score",
        "--trainer.max_steps=15",
        "--checkpoint.every_n_train_steps=15",
    )
    with mock.patch.object(DTR, "on_validation_epoch_end", on_validation_epoch_end):
        folder = fit(tmp_path, *flags)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 15
    assert "best.ckpt (val/score 2 at step 15)" in capsys.readouterr().out


def test_final_tells_that_a_run_ended_in_nan(tmp_path: Path) -> None:
    log = MetricsCSV(tmp_path)
    for step, value in enumerate([2.0, 1.0, math.inf, math.nan]):
        log.log_metrics({"val/loss": value}, step)
    final, best = final_and_best(read_metrics(log.path))
    assert math.isnan(json.loads(json.dumps(final))["val/loss"])
    assert best["val/loss"] == {"min": 1.0, "min_step": 1, "max": 2.0, "max_step": 0}


def test_a_loss_that_is_no_number_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = DTR.training_step

    def training_step(self: DTR, *args: Any) -> torch.Tensor:
        loss: torch.Tensor = step(self, *args)
        return loss * math.inf if self.trainer.global_step >= 4 else loss

    with mock.patch.object(DTR, "training_step", training_step):
        fit(tmp_path, "--trainer.max_steps=8", "--trainer.limit_val_batches=0")
    told = [line for line in capsys.readouterr().out.splitlines() if "no finite number" in line]
    assert len(told) == 1
    assert "loss is no finite number since step 5" in told[0]


def test_a_loss_of_what_steps_itself_is_seen_where_it_is_logged(tmp_path: Path, capsys: Any) -> None:
    """Manual optimisation returns no loss."""
    run = Run("x", tmp_path, "", "")
    run._log = log = MetricsCSV(tmp_path)
    for step, value in enumerate([1.0, math.nan, -math.inf]):
        log.log_metrics({"train/critic": value}, step)
        run._watch_loss(mock.Mock(is_global_zero=True), None)
    told = capsys.readouterr().out
    assert told.startswith("zoo: the training's train/critic is no finite number since step 2; ")
    assert told.count("\n") == 1


def test_a_run_that_another_process_trains_is_refused(
    tmp_path: Path, calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = killed_fit(tmp_path, "row", 9, *FLAGS)
    lock = FolderLock(folder)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert refused(tmp_path, RESUME) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"{folder} is in use: process {os.getpid()} on" in lines[0]
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    lock.release()
    assert run_differences(calm, fit(tmp_path, *FLAGS, RESUME)) == []


def test_the_lock_ends_with_its_process_whatever_its_workers_do(tmp_path: Path) -> None:
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        FolderLock(tmp_path)
        worker = os.fork()
        if worker == 0:
            os.read(read, 1)  # outlives the one that forked it
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    FolderLock(tmp_path).release()
    os.write(write, b".")


GOOD = "step,epoch,val/loss\n1,0,2.5\n3,0,1.5\n5,0,1.25\n"
DAMAGED = {
    "a byte that is no UTF-8": (
        GOOD.replace("1.5", "1.\xff").encode("latin-1"),
        [1, 3, 5],
        "line 3 (val/loss",
    ),
    "a cell that is no number": (
        GOOD.replace("1.5", "0x25").encode(),
        [1, 3, 5],
        "line 3 (val/loss is '0x25'",
    ),
    "too many cells": (GOOD.replace("3,0,1.5", "3,0,1.5,7,8").encode(), [1, 5], "line 3"),
    "a step that is no number": (GOOD.replace("3,0", "x,0").encode(), [1, 5], "line 3"),
    "a quote": (GOOD.replace("0,1.5", '"0,1.5').encode(), [1, 3, 5], "line 3 (epoch"),
    "rows of two processes": ((GOOD + "3,0,1.5\n5,0,1.25\n").encode(), [1, 3, 5], ""),
    "a name that is no UTF-8": (
        GOOD.replace("loss", "l\xffss").encode("latin-1"),
        [1, 3, 5],
        "column 3's name",
    ),
    "no readable head": (GOOD.replace("step", "st\xffp").encode("latin-1"), [], "moved to"),
    "a tail of zeros": (GOOD.encode()[:-9] + b"\0" * 9, [1, 3], "ends at step 3"),
    "a row cut short": (GOOD.encode()[:-3], [1, 3], "ends at step 3"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_log_is_told_once_and_goes_on(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, steps, words = DAMAGED[name]
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    assert [row["step"] for row in read_metrics(path)] == steps
    log = MetricsCSV(tmp_path)
    log.continue_from(5)
    for step in (7, 9):
        log.log_metrics({"val/loss": 1.0, f"train/{step}": 1.0}, step)
    assert [row["step"] for row in read_metrics(path)] == [*steps, 7, 9]
    output = capsys.readouterr().out
    assert words in output
    assert output.count("is damaged") <= 1
    assert bool(words) == bool(output)


def test_rows_are_on_the_disk_before_the_checkpoint_that_counts_on_them(tmp_path: Path) -> None:
    order: list[str] = []
    save, sync = AtomicCheckpointIO.save_checkpoint, os.fsync

    def fsync(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def save_checkpoint(self: Any, *args: Any, **options: Any) -> None:
        order.append("save")
        save(self, *args, **options)

    with (
        mock.patch.object(os, "fsync", fsync),
        mock.patch.object(AtomicCheckpointIO, "save_checkpoint", save_checkpoint),
    ):
        fit(tmp_path, "--trainer.max_steps=2", "--trainer.limit_val_batches=0")
    assert order[0:2] == ["metrics.csv", "save"]


def test_a_lost_log_is_told_and_the_training_goes_on(
    tmp_path: Path, calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = killed_fit(tmp_path, "row", 9, *FLAGS)
    (folder / "metrics.csv").write_bytes(b"\xff" * 100 + b"\n")
    resumed = fit(tmp_path, *FLAGS, RESUME)
    found = run_differences(calm, resumed)
    assert [d.partition(":")[0] for d in found] == ["metrics.csv"]
    output = capsys.readouterr().out
    assert "metrics.csv is damaged in line 1" in output
    assert "ends at step -1, the checkpoint counts on rows up to step 7" in output


@pytest.mark.parametrize("steps", [13, 15, 20])
def test_means_of_the_last_epoch_are_in_the_log_before_the_last_checkpoint(
    steps: int, tmp_path: Path
) -> None:
    """Of an epoch that max_steps cuts off, also behind a validation, and of a whole one."""

    def on_train_batch_start(self: DTR, batch: Any, batch_idx: int) -> None:
        self.log("train/mean", float(batch_idx), on_step=False, on_epoch=True, batch_size=1)

    flags = (f"--trainer.max_steps={steps}", "--checkpoint.every_n_train_steps=4")
    with mock.patch.object(DTR, "on_train_batch_start", on_train_batch_start):
        whole = fit(tmp_path / "calm", *flags)
        killed_fit(tmp_path / "killed", "saved", steps, *flags)
        resumed = fit(tmp_path / "killed", *flags, RESUME)
    last = read_metrics(whole / "metrics.csv")[-1]
    left = (steps - 1) % 10 + 1
    assert (last["step"], last["train/mean"]) == (steps - 1, (left - 1) / 2)
    assert run_differences(whole, resumed) == []


def test_a_folder_that_is_taken_away_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with at_step(6, lambda module: shutil.rmtree(newest(tmp_path))):
        assert refused(tmp_path) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "version_0" in lines[0]
    assert "cannot write" in lines[0] or "was taken away" in lines[0]
    assert not (tmp_path / "dtr_dit_digits" / "version_0").exists()


def test_a_config_that_is_taken_away_is_written_again(
    tmp_path: Path, calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with at_step(6, lambda module: (newest(tmp_path) / "config.yaml").unlink()):
        folder = fit(tmp_path, *FLAGS)
    text, expected = ((f / "config.yaml").read_text().splitlines()[1:] for f in (folder, calm))
    assert [line.replace(str(tmp_path), "") for line in text][:3] == expected[:3]
    assert "config.yaml was gone: written again" in capsys.readouterr().out
    assert run_differences(calm, folder) == []


@contextmanager
def no_space(size: int) -> Iterator[None]:
    """Files stop growing at ``size`` bytes, as on a full disk but with another errno."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("size", "file"), [(50_000, "step=00000008.ckpt"), (100, "metrics.csv")])
def test_a_full_disk_names_the_file_and_the_run_goes_on_later(
    size: int, file: str, tmp_path: Path, calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limited = no_space(size)
    with at_step(6, lambda module: limited.__enter__()):
        code = refused(tmp_path)
    limited.__exit__(None, None, None)
    assert code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"version_0/{'checkpoints/' if 'ckpt' in file else ''}{file} (File too large)" in lines[0]
    assert lines[0].endswith("; go on with the same command and --ckpt_path last")
    folder = fit(tmp_path, *FLAGS, RESUME)
    assert run_differences(calm, folder) == []
    assert [p.name for p in folder.rglob("*.tmp")] == []


def test_writers_name_their_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    values = {"x": torch.zeros(1000)}
    path = tmp_path / "x"
    writers: dict[str, Callable[[], object]] = {
        "text": lambda: replace_file(path, "x" * 4000),
        "torch": lambda: AtomicCheckpointIO().save_checkpoint(values, path),
        "safetensors": lambda: save_file(values, path),
        "folder": lambda: replace_file(tmp_path / "none" / "x", "x"),
    }
    for name, write in writers.items():
        with (
            no_space(1000),
            pytest.raises(CannotWrite, match=r"^cannot write .*/x ") as caught,
            writing(path),
        ):
            write()
        assert ("File too large" in str(caught.value)) == (name != "folder")
    assert [p.name for p in tmp_path.iterdir() if p.name != "x"] == []


def test_predictions_that_do_not_fit_name_their_folder(tmp_path: Path) -> None:
    class Long:
        def write(self, folder: Path) -> list[Path]:
            (folder / "long.txt").write_text("x" * 4000)
            return []

    writer = PredictionWriter()
    writer._folder = tmp_path
    module: Any = mock.Mock()
    with no_space(1000), pytest.raises(CannotWrite, match=r"/long\.txt \(File too large"):
        writer.write_on_batch_end(module, module, Long(), None, None, 0, 0)


@pytest.mark.parametrize(
    ("number", "code", "step"), [(signal.SIGTERM, 143, 6), (signal.SIGINT, 130, 5), (signal.SIGTERM, 143, 10)]
)
def test_a_signal_is_answered_behind_a_checkpoint(
    number: int, code: int, step: int, tmp_path: Path, calm: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the middle of an epoch; before a validation; at the end of an epoch."""
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with dying("row", step - 1, lambda: os.kill(os.getpid(), number)):
        assert refused(tmp_path) == code
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    output = capfd.readouterr()
    assert f"stopped by {signal.Signals(number).name} at step {step}" in output.out
    assert output.err == ""
    assert newest_checkpoint(newest(tmp_path)).name == f"step={step:08d}.ckpt"
    assert run_differences(calm, fit(tmp_path, *FLAGS, RESUME)) == []


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with dying("row", 6, twice):
        assert refused(tmp_path) == 130
    assert [p.name for p in step_checkpoints(newest(tmp_path) / "checkpoints")] == ["step=00000004.ckpt"]


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals = StopSignals()
    try:
        signals.catch(mock.Mock(is_global_zero=True))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == signals._remember
    finally:
        signals.release()
        signal.signal(signal.SIGINT, before)


def test_a_signal_in_the_last_step_changes_nothing(tmp_path: Path, calm: Path) -> None:
    with dying("row", 12, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        folder = fit(tmp_path, *FLAGS)
    assert run_differences(calm, folder) == []
    assert (folder / "summary.json").exists()


def test_the_process_that_is_gone_is_named() -> None:
    text = "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"
    trainer: Any = mock.Mock(world_size=3, node_rank=0, num_devices=3)
    trainer.strategy.launcher.procs = [mock.Mock(**{"poll.return_value": c}) for c in (None, -9)]
    ranks = Ranks(trainer, started_here=False)
    assert ranks.explain(RuntimeError(text)) == "process 2 of 3 is gone (SIGKILL)"
    assert ranks.explain(ValueError("lr is negative")) is None


def test_a_killed_data_worker_has_a_likely_cause(tmp_path: Path, calm: Path, capsys: Any) -> None:
    def kill(module: DTR) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    with at_step(6, kill):
        assert refused(tmp_path) == 1
    line = capsys.readouterr().err
    assert "a data worker (process 7) is gone (Killed), most likely for lack of memory" in line
    assert line.endswith("go on with the same command and --ckpt_path last\n")
    assert run_differences(calm, fit(tmp_path, *FLAGS, RESUME)) == []
    segfault = RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ")
    assert explain(segfault) == "a data worker (process 7) is gone (Segmentation fault)"


def saving_shards(folder: Path, die_before: str | None = None) -> Any:
    """A trainer whose checkpoints are folders; ``die_before`` a file of them."""

    def save_checkpoint(path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        for name in ("__0_0.distcp", ".metadata", "meta.pt"):
            if name == die_before:
                raise KeyboardInterrupt
            (path / name).write_text(name)

    trainer: Any = mock.Mock(is_global_zero=True, save_checkpoint=save_checkpoint)
    trainer.strategy._save_distributed_checkpoint = True
    return trainer


def test_a_sharded_checkpoint_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "step=00000005.ckpt"
    with pytest.raises(KeyboardInterrupt):
        Checkpoint._save(saving_shards(tmp_path, die_before="meta.pt"), path)
    assert step_checkpoints(tmp_path) == []
    Checkpoint._save(saving_shards(tmp_path), path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        ".metadata", "__0_0.distcp", "meta.pt", "step=00000005.ckpt",
    ]  # fmt: skip


def test_a_kill_while_a_sharded_best_is_replaced_keeps_the_old_one(tmp_path: Path) -> None:
    best = tmp_path / "best.ckpt"
    Checkpoint._save(saving_shards(tmp_path), best)
    (best / "old").touch()
    replace = os.replace

    def die_second(a: Path, b: Path) -> None:
        if Path(b) == best:
            raise KeyboardInterrupt
        replace(a, b)

    with mock.patch.object(checkpoints.os, "replace", die_second), pytest.raises(KeyboardInterrupt):
        Checkpoint._save(saving_shards(tmp_path), best)
    checkpoints._tidy(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]
    assert (best / "old").exists()


def test_epochs_are_right_after_a_kill_behind_the_last_step(tmp_path: Path, calm: Path) -> None:
    killed_fit(tmp_path, "saved", 13, *FLAGS)
    folder = fit(tmp_path, *FLAGS, RESUME)
    a, b = (json.loads((f / "summary.json").read_text()) for f in (calm, folder))
    assert {k: b[k] for k in ("epochs", "steps", "final", "best")} == {
        k: a[k] for k in ("epochs", "steps", "final", "best")
    }
    assert a["epochs"] == 2
