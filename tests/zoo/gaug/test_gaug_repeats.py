"""The same seed and number of CPU threads give the same bits, in processes that share nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
CODE = """
import os, sys, torch, cli
from zoo.engine import run
run.plot_curves = lambda folder: None
flags = ["--data.init_args.nodes=300", "--trainer.max_steps=9", "--trainer.val_check_interval=3",
         "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--seed_everything=3"]
parts = {
    "gaug_o_digits": ["--model.init_args.pretrain_ep=3", "--model.init_args.pretrain_nc=3"],
    "gaug_m_digits": ["--model.init_args.predictor_epochs=5", "--model.init_args.predictor=vgae"],
}
torch.rand(int(sys.argv[2]))  # what was drawn before must not matter
flags.append("--trainer.default_root_dir=" + sys.argv[1])
for config, own in parts.items():
    assert cli.main(["fit", "--config", config, *flags, *own]) == 0
"""


def trained(root: Path, threads: int, drawn_before: int) -> dict[str, torch.Tensor]:
    """Weights after a short run of both methods through the command line."""
    own = {"OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(drawn_before)}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | own
    command = [sys.executable, "-c", CODE, str(root), str(drawn_before)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)
    found = {}
    for config in ("gaug_o_digits", "gaug_m_digits"):
        path = root / config / "version_0" / "checkpoints" / "step=00000009.ckpt"
        state = torch.load(path, weights_only=True)["state_dict"]
        found |= {f"{config}/{k}": v for k, v in state.items()}
    return found


@pytest.mark.slow
def test_two_processes_with_one_seed_and_as_many_threads_give_the_same_bits(tmp_path: Path) -> None:
    first, second = trained(tmp_path / "a", 2, 1), trained(tmp_path / "b", 2, 1000)
    assert len(first) > 8
    assert {k for k in first if not torch.equal(first[k], second[k])} == set()
