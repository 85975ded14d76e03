"""A tiny table of columns, as a user would bring one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def fake_table(root: Path, rows: int = 60) -> Path:
    """``table.csv``: columns a, b and c = a + noise."""
    root.mkdir(parents=True, exist_ok=True)
    z = np.random.default_rng(0).standard_normal((rows, 3))
    lines = [f"{a:.4f},{b:.4f},{a + n:.4f}" for a, b, n in z]
    (root / "table.csv").write_text("\n".join(["a,b,c", *lines]) + "\n")
    return root / "table.csv"


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "data.init_args.table": fake_table(root),
        "data.init_args.batch_size": 16,
        "data.init_args.eval_batch_size": 8,
    }


TWINS = {"datamodules.TableColumns": _twin}
