"""Benchmarks are not run by default; this keeps them from rotting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = sorted(p.name for p in (ROOT / "tests/benchmarks").glob("test_*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_still_runs(name: str, tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [f"tests/benchmarks/{name}", "--quick", "--manifest", str(results)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert results.is_file() or "skipped" in done.stdout
