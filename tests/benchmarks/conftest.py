"""``--manifest FILE``: add what a benchmark measured to a file of docs/results."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo import manifest
from zoo.callbacks.run import versions


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--manifest", help="results file to add the numbers to")


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Prints a number, and adds it to the manifest if one is asked for."""

    def add(metric: str, value: float) -> None:
        print(f"{metric} {value:,.4g}")
        path = request.config.getoption("--manifest")
        if path is None:
            return
        words = [w for w in sys.argv[1:] if "manifest" not in w and w != path]
        entry = {
            "metric": metric,
            "value": value,
            "seeds": [0],
            "command": shlex.join(["pytest", *words]),
            "versions": versions(),
            "date": time.strftime("%Y-%m-%d"),
        }
        manifest.update(Path(path), [entry])

    return add
