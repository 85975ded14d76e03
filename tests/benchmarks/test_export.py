"""How fast exported networks are: eager, torch.export program and ONNX Runtime in turns, one thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cli
import zoo
from benchmarks.interleaved import interleaved, median, ratio
from zoo.hub import export

BATCH = 16


@pytest.mark.parametrize("name", ["dtr_dit_digits", "dtr_dit_mnist"])
def test_exported_networks_beside_eager(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, record: Callable[[str, float], None]
) -> None:
    pytest.importorskip("onnxruntime")
    module: Any = zoo.load(name)
    inputs = module.example_inputs(BATCH)
    runs: dict[str, Callable[[], Any]] = {"eager": lambda: module.network(**inputs)}
    for suffix in export.SUFFIXES:
        out = tmp_path / f"x{suffix}"
        assert cli.main(["export", name, "--out", str(out)]) == 0
        loaded = export.load(out)
        runs[suffix[1:]] = lambda loaded=loaded: loaded(inputs)
    quick = request.config.getoption("--quick")
    with torch.no_grad():
        times = interleaved(runs, rounds=3 if quick else 101, warmup=5)
        torch.testing.assert_close(runs["onnx"]()[0], runs["eager"](), atol=1e-4, rtol=1e-4)
    record(f"{name}/eager_ms", 1e3 * median(times, "eager"))
    for kind in ("pt2", "onnx"):
        record(f"{name}/{kind}_ratio", ratio(times, kind, "eager"))
