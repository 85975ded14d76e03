"""Two processes plan what one plans, share its images, and train on the same set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import of_model, of_trainer
from interruption import newest_checkpoint
from PIL import Image
from processes import CLI, environment, largest_difference

from zoo.actgen import manifest

FLAGS = (
    "--config=actgen_digits",
    *of_model(images_per_round=5, generation_batch=2, steps=4, gradient_steps=2, guidance_centre=1.5),
    *of_model(random_rate=0.2),
    *of_trainer(max_epochs=4, accelerator="cpu", log_every_n_steps=2, enable_progress_bar=False),
)


def launched(root: Path, devices: int) -> tuple[Path, dict[str, Any]]:
    """Folder and last checkpoint of a run on so many processes."""
    ddp = ["--config=trainer/ddp", f"--trainer.devices={devices}"] if devices > 1 else []
    done = subprocess.run(
        [sys.executable, str(CLI), "fit", *FLAGS, *ddp, f"--trainer.default_root_dir={root}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    folder = max((root / "actgen_digits").glob("version_*"))
    content: dict[str, Any] = torch.load(newest_checkpoint(folder), weights_only=True)
    return folder, content


@pytest.mark.slow
def test_two_processes_make_and_train_what_one_does(tmp_path: Path) -> None:
    (one, a), (two, b) = launched(tmp_path / "one", 1), launched(tmp_path / "two", 2)
    tables = [manifest.read(f / "generated" / "manifest.csv") for f in (one, two)]
    assert len(tables[0]) == 10
    told = (
        "path",
        "label",
        "epoch",
        "position",
        "guide",
        "kind",
        "adversarial",
        "contrastive",
        "seed",
        "status",
    )
    for row, other in zip(*tables, strict=True):
        assert [getattr(row, k) for k in told] == [getattr(other, k) for k in told]
        assert row.hardness == pytest.approx(other.hardness, abs=1e-3)
        pixels = [np.asarray(Image.open(f / "generated" / row.path), dtype=int) for f in (one, two)]
        assert np.abs(pixels[0] - pixels[1]).max() <= 1  # a sum in another order may round the other way
    assert a["ActiveGeneration"] == b["ActiveGeneration"]
    assert largest_difference(a["state_dict"], b["state_dict"]) < 1e-3
