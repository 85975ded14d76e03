"""How fast exported networks are: ``pytest -o addopts= tests/benchmarks/test_export.py``.

The numbers are added to the results file that ``ZOO_MANIFEST`` names, if it does.
"""

from __future__ import annotations

import datetime
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cli
import zoo
from zoo import export, manifest
from zoo.callbacks.run import versions

COMMAND = "pytest -o addopts= tests/benchmarks/test_export.py"
BATCH, ROUNDS = 16, 101


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@pytest.mark.parametrize("name", ["dtr_dit_digits", "dtr_dit_mnist"])
def test_exported_networks_beside_eager(name: str, tmp_path: Path) -> None:
    """Rounds of eager, .pt2, .onnx one after the other; the median of the rounds' ratios, one thread."""
    pytest.importorskip("onnxruntime")
    torch.set_num_threads(1)
    module: Any = zoo.load(name)
    inputs = module.example_inputs(BATCH)
    runs: dict[str, Callable[[], Any]] = {"eager": lambda: module.network(**inputs)}
    for suffix in export.SUFFIXES:
        out = tmp_path / f"x{suffix}"
        assert cli.main(["export", name, "--out", str(out)]) == 0
        loaded = export.load(out)
        runs[suffix[1:]] = lambda loaded=loaded: loaded(inputs)
    with torch.no_grad():
        for run in runs.values():
            for _ in range(5):
                run()
        rounds = [{k: seconds(run) for k, run in runs.items()} for _ in range(ROUNDS)]
    found = {"eager_ms": 1e3 * statistics.median(r["eager"] for r in rounds)}
    for kind in ("pt2", "onnx"):
        found[f"{kind}_ratio"] = statistics.median(r[kind] / r["eager"] for r in rounds)
    print(f"\n{name}, batch {BATCH}, one thread: {found}")
    assert all(value > 0 for value in found.values())
    if path := os.environ.get("ZOO_MANIFEST"):
        packages = versions()
        packages["onnxruntime"] = __import__("onnxruntime").__version__
        manifest.update(
            Path(path),
            [
                {
                    "metric": f"{name}/{metric}",
                    "value": value,
                    "seeds": [0],
                    "command": COMMAND,
                    "versions": packages,
                    "date": datetime.date.today().isoformat(),
                }
                for metric, value in found.items()
            ],
        )
