"""Sweep files and stand-ins for runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from zoo.engine.launch import RunFailed

COMMAND = ["${env}", "zoo", "fit", "--config", "digit_classifier_digits", "${args}"]
GRID = {"a": {"values": [1, 2, 3]}, "b": {"values": [10, 20]}}
POINTS = [(a, b) for a in (1, 2, 3) for b in (10, 20)]


def sweep_file(folder: Path, **changes: Any) -> Path:
    """A grid over a and b; ``None`` takes a key away."""
    content: dict[str, Any] = {
        "method": "grid",
        "metric": {"name": "val/loss", "goal": "minimize"},
        "parameters": GRID,
        "command": COMMAND,
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
    return path


def flags_of(arguments: Sequence[str]) -> dict[str, str]:
    return dict(a.removeprefix("--").partition("=")[::2] for a in arguments if "=" in a)


class FakeRuns:
    """Stands for the command line: leaves the summary that a run would leave."""

    def __init__(self, value: Callable[[Mapping[str, str]], float]) -> None:
        self.value = value
        self.calls: list[dict[str, str]] = []
        self.arguments: list[list[str]] = []
        self.final: dict[str, float] = {}
        self.change: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __call__(self, arguments: Sequence[str], log: Path, threads: int) -> None:
        flags = flags_of(arguments)
        with self._lock:
            self.calls.append(flags)
            self.arguments.append(list(arguments))
        log.write_text("ran\n")
        value = self.value(flags)
        folder = Path(flags["trainer.default_root_dir"]) / "x" / "version_0"
        folder.mkdir(parents=True, exist_ok=True)
        summary = {
            "final": self.final or {"val/loss": value},
            "seconds": 1.5,
            "steps": 5,
            "finished": True,
            "versions": {"torch": "2"},
        }
        (folder / "summary.json").write_text(json.dumps(summary | self.change))

    def points(self, *names: str) -> list[tuple[Any, ...]]:
        """Values of the flags of each call."""
        return [tuple(float(call[n]) for n in names) for call in self.calls]


def crash(log: Path, last: str = "zoo: error: no memory") -> RunFailed:
    log.write_text(f"much text\n{last}\n")
    return RunFailed(1, last, log)


def square(flags: Mapping[str, str]) -> float:
    """Least at a = 2, b = 10."""
    return (float(flags["a"]) - 2) ** 2 + float(flags["b"]) / 100


def silent(line: str) -> None:
    pass
