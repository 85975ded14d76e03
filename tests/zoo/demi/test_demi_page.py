"""What the page prints as Python is run as it stands there, on a user's own files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from interruption import newest_checkpoint
from quiet import quiet_trainer
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

import zoo

PAGE = Path(__file__).parents[3] / "docs" / "pages" / "demi.md"
COLUMNS = "runs/demi_table/version_0/checkpoints/best.ckpt"


@pytest.fixture
def blocks() -> dict[str, str]:
    """The page's Python by the weights that it loads."""
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    return {re.findall(r'zoo.load\("(.*?)"\)', block)[0]: block for block in found}


def test_the_page_has_these_calls(blocks: dict[str, str]) -> None:
    assert set(blocks) == {"demi_digits", COLUMNS, "demi_facts"}


def test_features_are_those_of_predict(blocks: dict[str, str]) -> None:
    """Pixels of another range give other features, and no word of it."""
    ((low, high),) = re.findall(r"of images \(B, C, S, S\) in \[(-?\d), (-?\d)\]", blocks["demi_digits"])
    unit = torch.tensor(load_digits().images[:20], dtype=torch.float32)[:, None] / 16
    names: dict[str, Any] = {"images": int(low) + (int(high) - int(low)) * unit}
    exec(blocks["demi_digits"], names)
    batch = {"image": unit, "label": torch.zeros(20).long(), "index": torch.arange(20)}
    (predicted,) = quiet_trainer().predict(names["model"], DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    torch.testing.assert_close(names["features"].detach(), predicted.features)


def test_estimates_of_a_table_of_ones_own(
    blocks: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 rows, of which 30 are the test's."""
    monkeypatch.chdir(tmp_path)
    z = np.random.default_rng(0).standard_normal((150, 3))
    lines = [f"{a:.4f},{b:.4f},{a + n / 2:.4f}" for a, b, n in z]
    Path("mine.csv").write_text("\n".join(["height,age,weight", *lines]) + "\n")
    flags = ["--data.init_args.table=mine.csv", "--data.init_args.x=[height, age]",
             "--data.init_args.y=[weight]", "--data.init_args.batch_size=32", "--trainer.max_steps=4",
             "--trainer.val_check_interval=2", "--checkpoint.every_n_train_steps=2",
             "--trainer.enable_progress_bar=false"]  # fmt: skip
    folder = run("fit", "demi_table", tmp_path / "runs", *flags)
    assert newest_checkpoint(folder).parent == (tmp_path / COLUMNS).parent
    names: dict[str, Any] = {}
    *before, last = blocks[COLUMNS].strip().split("\n")
    exec("\n".join([*before, "found = " + last]), names)
    assert {"infonce", "bo_is"} <= set(names["found"])
    assert all(np.isfinite(v) for v in names["found"].values())
    assert names["found"]["bo_ess"] <= 14  # of 15 rows a term


def test_a_response_to_a_history(blocks: dict[str, str]) -> None:
    names: dict[str, Any] = {"zoo": zoo}
    block = blocks["demi_facts"].replace("model.respond(", "said = model.respond(")
    exec(block, names)
    assert "judge" in names["said"]
