"""Benchmarks: `pytest tests/benchmarks/test_dtr.py -s [--quick] [--manifest FILE]`.

Each measures ratios in one process, its sides interleaved, and prints what it found. No time decides a test:
what is asserted is that the sides did the same work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.engine.run import versions
from zoo.evidence import manifest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="tiny sizes: does it still run?")
    parser.addoption("--manifest", type=Path, default=None, help="results file to add the numbers to")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Callable[[str, float], None]]:
    """record(metric, value): prints a number and, with --manifest, keeps it with its command and date."""
    entries: list[dict[str, Any]] = []
    file = Path(str(request.node.path)).relative_to(request.config.rootpath)
    shared = {
        "seeds": [0],
        "command": f"pytest {file} -s",
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }

    def keep(metric: str, value: float) -> None:
        print(f"\n{metric}: {value:.4g}", end="", file=sys.stderr)
        entries.append({"metric": metric, "value": value, **shared})

    torch.set_num_threads(1)
    yield keep
    results = request.config.getoption("--manifest")
    if results is not None and entries:
        manifest.update(results, entries)
