"""Runs in processes of their own: forked or started anew they are the same run, and they end with us."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import covering

import cli
from zoo.engine import launch
from zoo.engine.launch import RunFailed, run_command

ROOT = Path(cli.__file__).resolve().parent
FORKS = pytest.mark.skipif(not launch.can_fork(), reason="no forks here: not Linux, or a GPU")
WAYS = covering([pytest.param(True, id="forked", marks=FORKS), pytest.param(False, id="anew")], ["forked"])
QUIET = ["--trainer.enable_progress_bar=false", "--previews.count=0"]


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


@pytest.mark.slow
@FORKS
def test_a_forked_run_equals_one_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights to the bit, also with threads, and the same lines."""
    weights, lines = [], []
    for way, forks in (("forked", True), ("spawned", False)):
        monkeypatch.setattr(launch, "can_fork", lambda forks=forks: forks)
        out = tmp_path / way
        out.mkdir()
        arguments = ["fit", "--config=dtr_dit_digits", "--trainer.max_steps=4", *QUIET]
        run_command([*arguments, f"--trainer.default_root_dir={out}"], out / "log", 2)
        checkpoint = torch.load(next(out.rglob("*.ckpt")), weights_only=True)
        weights.append(checkpoint["state_dict"])
        said = (out / "log").read_text().replace("zoo: fit: importing torch and lightning\n", "")
        lines.append([x.split()[1] for x in said.splitlines()])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert lines[0] == lines[1]


@pytest.mark.parametrize("forks", WAYS)
def test_a_failed_run_says_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    monkeypatch.setattr(launch, "can_fork", lambda: forks)
    log = tmp_path / "log"
    with pytest.raises(RunFailed, match="exit code 1: zoo: error: no config 'dtr_dit_digit'"):
        run_command(["fit", "--config=dtr_dit_digit"], log, 1)
    assert len(log.read_text().splitlines()) == 1


@FORKS
def test_a_run_sees_the_environment_and_folder_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was started before them, and its own variables are not left behind."""
    before = dict(os.environ)
    run_command(["list", "methods"], tmp_path / "first.log", 1)
    assert dict(os.environ) == before
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFailed, match=f"no file {tmp_path}/elsewhere/graphs/planetoid/Cora"):
        run_command(["fit", "--config=lds_cora", *QUIET], tmp_path / "log", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("forks", WAYS)
def test_runs_end_with_the_process_that_started_them(tmp_path: Path, forks: bool) -> None:
    """Else a comparison that goes on would meet the orphan in its run folder."""
    code = (
        "import sys; from pathlib import Path; from zoo.engine import launch; "
        f"launch.can_fork = lambda: {forks}; "
        f"launch.run_command(['fit', '--config=dtr_dit_digits', '--trainer.default_root_dir', "
        f"{str(tmp_path)!r}, *{QUIET!r}], Path({str(tmp_path / 'log')!r}), 1)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    # the run has written its first line: all its descendants are there
    wait_for(lambda: (tmp_path / "log").is_file() and b", logs in " in (tmp_path / "log").read_bytes())
    left = descendants(parent.pid)
    assert len(left) >= (2 if forks else 1)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 30)


def descendants(pid: int) -> list[int]:
    """Process ids of all children and their children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children = (task / "children").read_text().split()
        found += [int(child) for child in children]
    return found + [x for child in found for x in descendants(child)]
