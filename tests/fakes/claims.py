"""Claim files over a few steps, and runs that are not made."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

SEEDS = [0, 1, 2, 3, 4, 5]


def claim_file(folder: Path, **changes: Any) -> Path:
    """A claim over a few steps of the digit classifier; ``None`` takes a key away."""
    content: dict[str, Any] = {
        "title": "learning beats not learning",
        "config": "digit_classifier_digits",
        "overrides": {"trainer.max_steps": 5, "trainer.val_check_interval": 5},
        "arms": {"learns": {}, "frozen": {"model.init_args.width": 4}},
        "seeds": SEEDS,
        "predicates": [predicate()],
    } | changes
    path = folder / "claim.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
    return path


def predicate(**changes: Any) -> dict[str, Any]:
    entry = {"metric": "val/accuracy", "better": "learns", "worse": "frozen", "direction": "higher"}
    return entry | changes


def flag(arguments: Sequence[str], name: str) -> str | None:
    """Value of ``--name=value``."""
    return next((a.partition("=")[2] for a in arguments if a.startswith(f"--{name}=")), None)


class FakeRuns:
    """Stands for the command line: leaves the summary that a run would leave."""

    def __init__(self, value: Callable[[Sequence[str], int], float]) -> None:
        self.value, self.calls, self.threads = value, 0, set[int]()
        self.change: dict[str, Any] = {}
        self.costs: Callable[[Sequence[str], int], dict[str, Any]] = lambda arguments, seed: {}

    def __call__(self, arguments: Sequence[str], log: Path, threads: int) -> None:
        self.calls += 1
        self.threads.add(threads)
        log.write_text("ran")
        folder = Path(flag(arguments, "trainer.default_root_dir") or "") / "x" / "version_0"
        folder.mkdir(parents=True, exist_ok=True)
        seed = int(flag(arguments, "seed_everything") or 0)
        summary = {
            "final": {"val/accuracy": self.value(arguments, seed)},
            "steps": 5,
            "epochs": 0,
            "effective_batch": 64,
            "seconds": 1.5,
            "git": "abc",
            "device": "1 x cpu",
            "versions": {"torch": "2"},
            "checkpoint": str(folder / "last.ckpt"),
            "finished": True,
            "costs": self.costs(arguments, seed),
        }
        name = "summary.json" if arguments[0] == "fit" else f"summary_{arguments[0]}.json"
        (folder / name).write_text(json.dumps(summary | self.change))


def better_when_learning(arguments: Sequence[str], seed: int) -> float:
    return 0.5 + seed / 100 + (0.1 if flag(arguments, "model.init_args.width") is None else 0.0)


def silent(line: str) -> None:
    pass
