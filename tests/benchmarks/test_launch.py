"""What a start costs: the first step of a run beside its imports, a forked run beside one started anew."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cli
from benchmarks.interleaved import interleaved, median, ratio
from zoo.engine import launch

ROOT = Path(cli.__file__).parent
STARTS = {
    "torch": ["-c", "import torch"],
    "floor": ["-c", "import lightning.pytorch.cli"],
    "first_step": [
        str(ROOT / "cli.py"),
        "fit",
        "--config=gnn_node_karate",
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_progress_bar=false",
    ],
    "list": [str(ROOT / "cli.py"), "list"],
    "help": [str(ROOT / "cli.py"), "--help"],
}


def test_what_a_start_costs(
    tmp_path: Path, request: pytest.FixtureRequest, record: Callable[..., None]
) -> None:
    """CPU seconds of processes with one thread, the least of the rounds, by those of ``import torch``."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    least = dict.fromkeys(STARTS, float("inf"))
    for _ in range(1 if request.config.getoption("--quick") else 5):
        for name, arguments in STARTS.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, *arguments]
            subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            least[name] = min(least[name], used)
    for name in ("floor", "first_step", "list", "help"):
        record(f"launch/{name}-torch", least[name] / least["torch"])
    record("launch/first_step-floor", least["first_step"] / least["floor"])


@pytest.mark.skipif(not launch.can_fork(), reason="no forks here: not Linux, or a GPU")
def test_a_forked_run_beside_one_started_anew(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    record: Callable[..., None],
) -> None:
    def run(forks: bool) -> Callable[[], None]:
        def call() -> None:
            monkeypatch.setattr(launch, "can_fork", lambda: forks)
            launch.run_command(
                [
                    "fit",
                    "--config=lds_karate",
                    "--trainer.max_steps=20",
                    f"--trainer.default_root_dir={tmp_path}",
                    "--trainer.enable_progress_bar=false",
                ],
                tmp_path / "log",
                1,
            )

        return call

    rounds = 1 if request.config.getoption("--quick") else 5
    times = interleaved({"forked": run(True), "anew": run(False)}, rounds)
    record("launch/forked/seconds", median(times, "forked"))
    record("launch/anew-forked", ratio(times, "anew", "forked"))
