"""Runs that an earlier version left (``tests/kept``, zoo 0.1.0 before its rooms were moved) still hold.

Each has the config.yaml, metrics.csv and checkpoint at step 6; ``to_step_12.csv`` is what that version wrote
when it went on to step 12. The older layout had ``zoo/graphs/node.py``, ``datamodules/digits.py`` and so on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

import cli
import zoo
from zoo.engine.configs import under_public_names
from zoo.engine.metrics_csv import read_metrics

KEPT = Path(__file__).parents[2] / "kept"
DIGESTS: dict[str, str] = json.loads((KEPT / "digests.json").read_text())


def digest(state: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(state):
        found.update(name.encode())
        found.update(state[name].contiguous().cpu().numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_an_old_checkpoint_loads_to_the_bit_and_its_run_goes_on(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / name / "version_0"
    shutil.copytree(KEPT / name, folder)
    checkpoint = folder / "checkpoints" / "step=00000006.ckpt"
    assert digest(zoo.load(checkpoint).state_dict()) == DIGESTS[name]

    flags = ["--trainer.max_steps=12", "--trainer.log_every_n_steps=3"]
    root = f"--trainer.default_root_dir={tmp_path / 'runs'}"
    assert cli.main(["fit", f"--config={folder / 'config.yaml'}", "--ckpt_path=last", root, *flags]) == 0
    expected = read_metrics(folder / "to_step_12.csv")
    rows = read_metrics(folder / "metrics.csv")
    assert ([row["step"] for row in rows], rows[-1]["step"]) == ([row["step"] for row in expected], 11)
    for row, old in zip(rows, expected, strict=True):
        assert row == pytest.approx(old, rel=2e-3, abs=1e-5)


def test_public_classes_of_moved_modules_keep_their_public_names() -> None:
    old = {
        "model": {"class_path": "zoo.graphs.forecast.SpatioTemporalForecaster"},
        "data": {
            "class_path": "datamodules.links.LinkSplit",
            "init_args": {"source": {"class_path": "mine.Graph"}},
        },
        "callbacks": [{"class_path": "zoo.optim.Triangular"}, {"class_path": "zoo.nn.parallel.FSDP"}],
    }
    new = under_public_names(old)
    assert new["model"]["class_path"] == "zoo.SpatioTemporalForecaster"
    assert new["data"]["class_path"] == "datamodules.LinkSplit"
    assert new["data"]["init_args"]["source"]["class_path"] == "mine.Graph"
    assert [c["class_path"] for c in new["callbacks"]] == ["zoo.Triangular", "zoo.nn.parallel.FSDP"]
