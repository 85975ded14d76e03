"""A trainer on one CPU process that writes nothing."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


def quiet_trainer(**more: Any) -> Trainer:
    """Without logger, checkpoints, progress bar and summary; ``more`` are arguments of the Trainer."""
    silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(**{"accelerator": "cpu", "devices": 1, **dict.fromkeys(silent, False), **more})
