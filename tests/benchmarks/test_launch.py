"""A small run of `zoo compare`: forked from a process that has made the imports, or started anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.interleaved import interleaved, median, ratio
from zoo.engine import launch


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
