"""Tiny twins of the files of ADM's evaluation: made-up features where Inception's would be, a few wide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def fake_samples(root: Path, count: int = 60, references: int = 50) -> Path:
    """Write ``samples.npz`` and ``reference.npz``, which has its statistics as well; returns ``root``."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    widths = {"pool_3": 12, "spatial": 7, "logits": 10}
    sample, reference = (
        {k: random.normal(size=(n, width)).astype(np.float32) for k, width in widths.items()}
        for n in (count, references)
    )
    for name, suffix in (("pool_3", ""), ("spatial", "_s")):
        x = reference[name].astype(np.float64)
        reference |= {f"mu{suffix}": x.mean(axis=0), f"sigma{suffix}": np.cov(x, rowvar=False)}
    np.savez(root / "samples.npz", **sample)
    np.savez(root / "reference.npz", **reference)
    return root


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_samples(root)
    flags: dict[str, Any] = {f"data.init_args.{k}": root / f"{k}.npz" for k in ("samples", "reference")}
    return {**flags, "data.init_args.batch_size": 32, "model.init_args.inception": None}


TWINS = {"datamodules.SampleFiles": _twin}
