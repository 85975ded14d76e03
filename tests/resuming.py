"""Short trainings of a small graph that go on, and command lines that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run

import cli
from zoo.engine.checkpoint import step_checkpoints

CONFIG = "gnn_node_karate"


def fit(root: Path, steps: int, *flags: str) -> Path:
    return run("fit", CONFIG, root, f"--trainer.max_steps={steps}", "--trainer.val_check_interval=1", *flags)


def resume(root: Path, steps: int, *flags: str) -> Path:
    return fit(root, steps, "--ckpt_path=last", *flags)


def content(folder: Path) -> dict[str, Any]:
    return dict(torch.load(step_checkpoints(folder / "checkpoints")[0], weights_only=True))


def refused(capsys: pytest.CaptureFixture[str], verb: str, root: Path, *flags: str) -> str:
    """The one line of a run that is refused, without Lightning's parts of the output."""
    capsys.readouterr()
    flags = (f"--trainer.default_root_dir={root}", "--trainer.accelerator=cpu", *flags)
    assert cli.main([verb, "--config", CONFIG, "--trainer.enable_progress_bar=false", *flags]) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("zoo: error")]
    assert len(lines) == 1
    return lines[0]
