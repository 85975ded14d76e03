"""Tiny twins of the files of ADM's evaluation: made-up features in the layout of Inception's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


def features(count: int, seed: int, shift: float = 0.0) -> Arrays:
    """A few wide."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(12, 12))
    pool_3 = rng.normal(size=(count, 12)) @ mixing + shift
    spatial = np.abs(rng.normal(size=(count, 7)) + shift)
    return {
        "pool_3": pool_3.astype(np.float32),
        "spatial": spatial.astype(np.float32),
        "logits": rng.normal(size=(count, 10)).astype(np.float32) * 3,
    }


def statistics(f: Arrays) -> Arrays:
    """What a reference file of ADM holds."""
    out = {}
    for name, suffix in (("pool_3", ""), ("spatial", "_s")):
        x = f[name].astype(np.float64)
        out |= {f"mu{suffix}": x.mean(axis=0), f"sigma{suffix}": np.cov(x, rowvar=False)}
    return out


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    root.mkdir(parents=True, exist_ok=True)
    sample, reference = features(60, 1, 0.7), features(50, 2)
    np.savez(root / "samples.npz", **sample)
    np.savez(root / "reference.npz", **reference, **statistics(reference))
    names = {"samples": root / "samples.npz", "reference": root / "reference.npz", "batch_size": 32}
    return {**{f"data.init_args.{k}": v for k, v in names.items()}, "model.init_args.inception": None}


TWINS = {"datamodules.SampleFiles": _twin}
